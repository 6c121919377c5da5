"""Likeness of pictures against formulas worked out apart, and pictures that are broken."""

from __future__ import annotations

import math

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.engine.measure.images import likeness, luminosity, psnr, ssim


def picture(seed: int = 0, size: int = 48) -> torch.Tensor:
    """A smooth picture: colored waves."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = [torch.sin(x / (4 + c + seed)) + torch.cos(y / (7 - c)) for c in range(3)]
    return (torch.stack(waves, -1) / 4 + 0.5).clamp(0, 1)


def slow_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Window by window, as the definition says it."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    x, y = a.double() @ luma, b.double() @ luma
    at = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(at**2) / 4.5)
    window = torch.outer(line, line)
    window /= window.sum()
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 1e-4, 9e-4
            found.append(
                (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return float(torch.stack(found).mean())


def test_the_same_picture() -> None:
    found = likeness(picture(), picture())
    assert math.isinf(found.psnr)
    assert found.ssim == pytest.approx(1.0)
    assert not found.black and not found.not_finite
    assert found.to_json()["psnr"] is None


def test_psnr_by_hand() -> None:
    a = torch.zeros(4, 4, 3)
    assert psnr(a, a + 0.1) == pytest.approx(20.0, abs=1e-4)


def test_ssim_is_that_of_the_definition() -> None:
    a = picture(size=24)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    b = (a + 0.05 * noise).clamp(0, 1)
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-9)
    assert ssim(a, b) < 0.99
    assert ssim(a, picture(3, 24)) < ssim(a, b)


def test_a_picture_smaller_than_the_window() -> None:
    small = picture(size=6)
    assert ssim(small, small) == pytest.approx(1.0)


def test_a_black_picture_is_told_from_a_dark_reference() -> None:
    black = torch.zeros(16, 16, 3)
    assert likeness(picture(size=16), black).black
    assert not likeness(black, black).black
    assert luminosity(torch.full((4, 4, 3), 0.5)) == pytest.approx(127.5)


def test_nan_is_told() -> None:
    broken = picture().clone()
    broken[0, 0, 0] = math.nan
    found = likeness(picture(), broken)
    assert found.not_finite
    assert found.to_json()["ssim"] is None


def test_sizes_and_shapes_are_checked() -> None:
    with pytest.raises(Refused, match="pictures-differ-in-size"):
        likeness(picture(size=16), picture(size=17))
    with pytest.raises(Refused, match="not-a-picture"):
        likeness(torch.zeros(4, 4), torch.zeros(4, 4))


def test_lpips_says_why_it_is_missing_or_is_a_number() -> None:
    found = likeness(picture(), picture(1))
    assert (found.lpips is None) != (found.lpips_refusal is None)
