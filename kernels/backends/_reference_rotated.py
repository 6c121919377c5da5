"""The plain backend's formulas for rotated four-bit codes (w4a4, w4a8)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..registry import Claim
from ._formulas import multiply, rotated, rounded_rows

Tensor = torch.Tensor
Move = Callable[[Tensor, Tensor], Tensor]  # numbers (S), rising levels (16) -> better ones (16)
E4M3 = torch.float8_e4m3fn

# the best 16 levels for normal numbers in groups that are divided by their largest
LEVELS = (
    -0.980602, -0.794529, -0.638165, -0.500986, -0.377321, -0.263187, -0.155210, -0.050720,
    0.052541, 0.156985, 0.265284, 0.379533, 0.502636, 0.638953, 0.794876, 0.980671,
)  # fmt: skip
LEAST_EXCESS, KURTOSIS_SAMPLE = -0.1, 1 << 19
LLOYD_SAMPLE, LLOYD_ROUNDS = 300_000, 25
FITTED, LEAST = 2, 1e-8  # rounds of levels and group scales in turn; the smallest scale


def quantize_w4a4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (N) float32."""
    codes, scale = rounded_rows(rotated(weight, group_size), 7.0, 1e-10, 0.0)
    return pack_low_first(codes), scale.reshape(-1)


def dequantize_w4a4(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """(N, K / 2) int8, () or (N, 1) -> (N, K) float32, rotated back."""
    return rotated(signed(weight) * scale, group_size)


def w4a4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    group_size: int,
    input_bits: int,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N); x is rotated, then rounded to `input_bits` per row."""
    top, least = (7.0, (1e-10, 0.0)) if input_bits == 4 else (127.0, (0.0, 1e-30))
    codes, sx = rounded_rows(rotated(x, group_size), top, *least)
    return multiply(codes * sx, signed(weight) * scale, bias, x.dtype)


def w4a8_codebook(sample: Tensor, group_size: int, rotation: int) -> Tensor:
    """(R, K) -> (16) float32."""
    return codebook_of(sample, group_size, rotation, moved)


def codebook_of(sample: Tensor, group_size: int, rotation: int, move: Move) -> Tensor:
    """The fixed table, or levels fitted in rounds of `move`."""
    grouped = in_groups(sample, group_size, rotation)
    normal = grouped / grouped.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST)
    if not normal.numel() or not excess(drawn(normal.flatten(), KURTOSIS_SAMPLE)) > LEAST_EXCESS:
        return torch.tensor(LEVELS, dtype=torch.float32, device=sample.device)
    values = drawn(normal.flatten(), LLOYD_SAMPLE)
    levels = torch.quantile(values, torch.linspace(0, 1, 16, device=values.device))
    for _ in range(LLOYD_ROUNDS):
        levels = move(values, levels)
    return levels.contiguous()


def excess(values: Tensor) -> float:
    """The excess kurtosis: the mean fourth power of numbers over their spread, less 3."""
    return float(((values - values.mean()) / (values.std() + 1e-9)).pow(4).mean() - 3.0)


def in_groups(weight: Tensor, group_size: int, rotation: int) -> Tensor:
    """(N, K) -> (N, K / group_size, group_size) float32, rotated."""
    rows, k = weight.shape
    return rotated(weight, rotation).view(rows, k // group_size, group_size)


def drawn(values: Tensor, count: int) -> Tensor:
    """All of them, or `count` drawn with a fixed seed."""
    if values.numel() <= count:
        return values
    generator = torch.Generator(device=values.device).manual_seed(0)
    at = torch.randint(0, values.numel(), (count,), device=values.device, generator=generator)
    return values[at]


def moved(values: Tensor, levels: Tensor) -> Tensor:
    """Each level moved to the mean of the numbers that it is the nearest to, the first of two."""
    at, means = (values.unsqueeze(-1) - levels).abs().argmin(-1), levels.clone()
    for index in range(16):
        chosen = at == index
        if chosen.any():
            means[index] = values[chosen].mean()
    return means


def quantize_w4a8(
    weight: Tensor, codebook: Tensor, group_size: int, rotation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (N, K / group_size) e4m3, (N) float32."""
    grouped = in_groups(weight, group_size, rotation)
    size = grouped.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST)
    level = codebook[between(grouped / size, codebook)]
    for _ in range(FITTED):
        across = (grouped * level).sum(-1, keepdim=True)
        size = (across / (level * level).sum(-1, keepdim=True).clamp(min=LEAST)).clamp(min=LEAST)
        level = codebook[between(grouped / size, codebook)]
    channel = ((level * size).abs().amax(dim=(1, 2)) / 127.0).clamp(min=LEAST)
    scale = (size.squeeze(-1) / channel.unsqueeze(1)).to(E4M3)
    numbers = (codebook * scale.to(torch.float32).unsqueeze(-1)).round_().clamp_(-127.0, 127.0)
    targets = grouped / channel.view(-1, 1, 1)
    codes = between(targets.flatten(0, 1), numbers.flatten(0, 1))
    return pack_low_first(codes.view(weight.shape)), scale, channel


def between(values: Tensor, levels: Tensor) -> Tensor:
    """Rising levels (16), or (R, 16) for values (R, g): the index of the nearest.

    Of the two levels around a number, the lower one where both are as near.
    """
    at, last = torch.searchsorted(levels, values.contiguous()), levels.shape[-1] - 1
    low, high = (at - 1).clamp(0, last), at.clamp(0, last)
    below, above = (
        (values - (levels[i] if levels.ndim == 1 else torch.gather(levels, -1, i))).abs()
        for i in (low, high)
    )
    return torch.where(above < below, high, low)


def integers(weight: Tensor, scale: Tensor, codebook: Tensor | None) -> Tensor:
    """(N, K / 2) int8 codes -> (N, K): the whole numbers within +-127 that they stand for."""
    codes = nibbles(weight)
    values = codes.to(torch.float32) - 8.0 if codebook is None else codebook[codes.to(torch.int32)]
    grouped = values.view(*scale.shape, 2 * weight.shape[1] // scale.shape[1])
    spread = grouped * scale.to(torch.float32).unsqueeze(-1)
    return spread.flatten(1).round_().clamp_(-127.0, 127.0)


def dequantize_w4a8(
    weight: Tensor, scale: Tensor, channel: Tensor, codebook: Tensor | None, rotation: int
) -> Tensor:
    """(N, K / 2) int8 -> (N, K) float32, rotated back."""
    return rotated(integers(weight, scale, codebook) * channel, rotation)


def w4a8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rotation: int,
    scale: Tensor,
    channel: Tensor,
    codebook: Tensor | None,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N); x is rotated, then int8 with one scale per row."""
    codes, sx = rounded_rows(rotated(x, rotation), 127.0, 0.0, 1e-30)
    return multiply(codes * sx, integers(weight, scale, codebook) * channel, bias, x.dtype)


def pack_low_first(codes: Tensor) -> Tensor:
    """Whole numbers (N, K) -> their low four bits, two a byte, even ones in the low nibble."""
    pairs = (codes.to(torch.int16) & 15).view(codes.shape[0], codes.shape[1] // 2, 2)
    return (pairs[..., 0] | (pairs[..., 1] << 4)).to(torch.uint8).view(torch.int8)


def nibbles(weight: Tensor) -> Tensor:
    """(N, K / 2) int8 -> (N, K) uint8 0..15."""
    packed = weight.view(torch.uint8)
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def signed(weight: Tensor) -> Tensor:
    """(N, K / 2) int8 -> (N, K) float32 -8..7."""
    codes = nibbles(weight).to(torch.float32)
    return torch.where(codes >= 8.0, codes - 16.0, codes)


CLAIMS = (
    Claim("quantize_w4a4", quantize_w4a4),
    Claim("dequantize_w4a4", dequantize_w4a4),
    Claim("w4a4_linear", w4a4_linear, error=0.2),
    Claim("w4a8_codebook", w4a8_codebook),
    Claim("quantize_w4a8", quantize_w4a8),
    Claim("dequantize_w4a8", dequantize_w4a8),
    Claim("w4a8_linear", w4a8_linear, error=0.015),
)
