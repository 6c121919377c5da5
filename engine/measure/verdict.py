"""What was measured and what is allowed in, whether it passes and every reason why not out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import Refused
from .delta import LoraLeft
from .errors import LayerError
from .images import ImageLikeness

NAMED = 3  # layers named in one reason


@dataclass(frozen=True)
class Thresholds:
    """What is allowed. None: not looked at. NaN, infinity and a black picture never pass."""

    layer_error: float | None = 0.06
    lora_kept: float | None = 0.8
    latent_error: float | None = 0.10
    psnr: float | None = 22.0
    ssim: float | None = 0.80
    lpips: float | None = 0.25
    luminosity: float | None = 12.0  # of 255, either way


# a picture that the eye takes for the same; a good 8-bit model; a good 4-bit model
LEVELS = {
    "strict": Thresholds(0.03, 0.9, 0.03, 30.0, 0.92, 0.10, 4.0),
    "normal": Thresholds(),
    "loose": Thresholds(0.25, 0.6, 0.35, 14.0, 0.50, 0.50, 30.0),
}


def thresholds(level: str | None, **own: float | None) -> Thresholds:
    """A level by name (None: normal) with the user's own numbers in place of its own."""
    if level is not None and level not in LEVELS:
        raise Refused(
            "unknown-level",
            found=repr(level),
            expected=f"one of {', '.join(LEVELS)}",
            fix="pick one of these",
        )
    given = {name: value for name, value in own.items() if value is not None}
    return replace(LEVELS[level or "normal"], **given)


@dataclass(frozen=True)
class Measured:
    """Everything that was measured of a model against its reference; what was not is None."""

    layers: Sequence[LayerError] = ()
    loras: Sequence[LoraLeft] = ()
    latent_error: float | None = None
    image: ImageLikeness | None = None


@dataclass(frozen=True)
class Verdict:
    """`failures`: one sentence each, the worst first; none of them means that it passed."""

    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return not self.failures


def judge(measured: Measured, allowed: Thresholds) -> Verdict:
    """Broken numbers first, then the picture, the latent, the LoRAs, the layers."""
    return Verdict(
        (
            *_broken(measured),
            *_picture(measured.image, allowed),
            *_latent(measured.latent_error, allowed),
            *_loras(measured.loras, allowed),
            *_layers(measured.layers, allowed),
        )
    )


def _broken(measured: Measured) -> Iterator[str]:
    image = measured.image
    if image is not None and image.not_finite:
        yield "the picture has NaN or infinity"
    if image is not None and image.black:
        yield (
            f"the picture is black: luminosity {image.luminosity:.1f} of 255, the reference has "
            f"{image.luminosity_reference:.1f}"
        )
    if measured.latent_error is not None and not math.isfinite(measured.latent_error):
        yield "the latent has NaN or infinity"
    lost = [layer.name for layer in measured.layers if not math.isfinite(layer.relative_error)]
    if lost:
        yield f"{len(lost)} layers have NaN or infinity: {_named(lost)}"


def _picture(image: ImageLikeness | None, allowed: Thresholds) -> Iterator[str]:
    if image is None or image.not_finite:
        return
    if allowed.psnr is not None and image.psnr < allowed.psnr:
        yield f"PSNR {image.psnr:.1f} dB is below {allowed.psnr:g} dB"
    if allowed.ssim is not None and image.ssim < allowed.ssim:
        yield f"SSIM {image.ssim:.3f} is below {allowed.ssim:g}"
    if allowed.lpips is not None and image.lpips is not None and image.lpips > allowed.lpips:
        yield f"LPIPS {image.lpips:.3f} is above {allowed.lpips:g}"
    shift = abs(image.luminosity - image.luminosity_reference)
    if allowed.luminosity is not None and shift > allowed.luminosity and not image.black:
        yield f"luminosity moved by {shift:.1f} of 255, more than {allowed.luminosity:g}"


def _latent(error: float | None, allowed: Thresholds) -> Iterator[str]:
    limit = allowed.latent_error
    if error is not None and limit is not None and math.isfinite(error) and error > limit:
        yield f"the latent differs by {error:.4f}, more than {limit:g}"


def _loras(loras: Sequence[LoraLeft], allowed: Thresholds) -> Iterator[str]:
    limit = allowed.lora_kept
    for lora in loras:
        kept = lora.sums.kept
        if limit is not None and lora.layers and not kept >= limit:
            yield (
                f"{lora.lora}: {100 * kept:.0f} % of its effect is left, less than "
                f"{100 * limit:.0f} %; it was rounded away: fuse it before quantizing"
            )


def _layers(layers: Sequence[LayerError], allowed: Thresholds) -> Iterator[str]:
    limit = allowed.layer_error
    if limit is None:
        return
    bad = [x for x in layers if math.isfinite(x.relative_error) and x.relative_error > limit]
    if bad:
        bad.sort(key=lambda layer: -layer.relative_error)
        told = [f"{layer.name} ({layer.relative_error:.4f})" for layer in bad]
        yield f"{len(bad)} layers differ by more than {limit:g}: {_named(told)}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
