"""Two pictures (or batches) in, how alike they are out; and whether one is black or broken.

A picture is (height, width, 3) or (frames, height, width, 3) of floats in 0..1, as ComfyUI has it.

    psnr = 10 log10(1 / mean((a - b)^2))        dB; infinite for the same picture
    ssim = mean over windows of
           (2 ma mb + c1) (2 sab + c2) / ((ma^2 + mb^2 + c1) (sa^2 + sb^2 + c2))
           with means, variances and covariance under a Gaussian window of 11 x 11, sigma 1.5,
           on the luma of the picture, c1 = 0.01^2, c2 = 0.03^2, windows wholly inside
    luminosity = 255 mean(a)                    a black picture has less than 10
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from ..errors import Refused
from .delta import finite

BLACK = 10.0  # mean of 0..255 at and below which a picture counts as black
LUMA = (0.299, 0.587, 0.114)
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


@dataclass(frozen=True)
class ImageLikeness:
    """How alike two pictures are; `lpips` None where that measure is not installed."""

    psnr: float
    ssim: float
    luminosity_reference: float
    luminosity: float
    not_finite: bool
    lpips: float | None = None
    lpips_refusal: str | None = None

    @property
    def black(self) -> bool:
        """The picture is black and its reference is not."""
        return self.luminosity <= BLACK < self.luminosity_reference

    def to_json(self) -> dict[str, object]:
        """Its entry in an answer; what is not finite becomes null."""
        facts = asdict(self) | {"black": self.black}
        return {k: finite(v) if isinstance(v, float) else v for k, v in facts.items()}


def likeness(reference: torch.Tensor, image: torch.Tensor) -> ImageLikeness:
    """Every measure of two pictures of one size; a picture with NaN has PSNR and SSIM of NaN."""
    a, b = _batch(reference), _batch(image)
    if a.shape != b.shape:
        raise Refused(
            "pictures-differ-in-size",
            found=f"pictures of {list(a.shape)} and {list(b.shape)} (frames, height, width, 3)",
            expected="two pictures of one size",
            fix="sample both from the same latent",
        )
    from .perceptual import perceptual

    broken = not bool(torch.isfinite(b).all())
    distance, why = (None, "the picture has NaN or infinity") if broken else perceptual(a, b)
    return ImageLikeness(
        psnr=psnr(a, b),
        ssim=ssim(a, b),
        luminosity_reference=luminosity(a),
        luminosity=luminosity(b),
        not_finite=broken,
        lpips=distance,
        lpips_refusal=why,
    )


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal to noise in dB, the peak being 1."""
    mean_square = float((a.double() - b.double()).square().mean())
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity: 1 for the same picture; a small picture has a smaller window."""
    x, y = _luma(_batch(a)), _luma(_batch(b))
    kernel = _kernel(min(WINDOW, *x.shape[-2:]))

    def mean(values: torch.Tensor) -> torch.Tensor:
        across = F.conv2d(values, kernel[None, None, None, :])
        return F.conv2d(across, kernel[None, None, :, None])

    mean_x, mean_y = mean(x), mean(y)
    variance_x = mean(x * x) - mean_x**2
    variance_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    bottom = (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
    return float((top / bottom).mean())


def luminosity(image: torch.Tensor) -> float:
    """Mean of all numbers, 0 to 255."""
    return 255 * float(image.double().mean())


def _kernel(size: int) -> torch.Tensor:
    """A Gaussian of `size` numbers that add up to 1, float64."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(at**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _luma(images: torch.Tensor) -> torch.Tensor:
    """(F, H, W, 3) -> (F, 1, H, W) float64."""
    return (images.double() @ torch.tensor(LUMA, dtype=torch.float64)).unsqueeze(1)


def _batch(image: torch.Tensor) -> torch.Tensor:
    """(F, H, W, 3) float32 on the CPU; refuses anything that is no picture."""
    batch = image.detach().to("cpu").float()
    batch = batch.unsqueeze(0) if batch.dim() == 3 else batch
    if batch.dim() != 4 or batch.shape[-1] < 3 or not batch.numel():
        raise Refused(
            "not-a-picture",
            found=f"numbers of shape {list(image.shape)}",
            expected="(frames, height, width, 3)",
            fix="connect decoded pictures",
        )
    return batch[..., :3]
