"""Small floats and packed nibbles in, wider floats out, by their bits: exact, faster than casts."""

from __future__ import annotations

import torch

Tensor = torch.Tensor

_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


def magnitudes(values: Tensor) -> Tensor:
    """bf16 or fp16 -> int16 of the same shape that orders as |v| does, NaN above infinity."""
    return values.view(_INTEGERS[values.dtype]) & 0x7FFF


def largest(values: Tensor, dim: int | None = None) -> Tensor:
    """max |v| as float32, over everything or over `dim` (kept). NaN is never lost."""
    if values.dtype in _INTEGERS:
        bits = magnitudes(values)
        top = bits.amax() if dim is None else bits.amax(dim=dim, keepdim=True)
        return top.view(values.dtype).to(torch.float32)
    values = values.to(torch.float32)
    if dim is None:
        return torch.maximum(values.amax(), values.amin().neg_()).abs_()
    high, low = values.amax(dim=dim, keepdim=True), values.amin(dim=dim, keepdim=True)
    return torch.maximum(high, low.neg_()).abs_()


def e4m3_to_half(codes: Tensor, room: Tensor | None = None) -> Tensor:
    """e4m3 -> fp16 of value / 256, exactly; the NaN codes 0x7F and 0xFF become 480 / 256.

    s eeee mmm moves to s 0 eeee mmm 0000000: the exponent's bias differs by 8. `room`: int16 memory
    of the same shape that the result may lie in.
    """
    signed = codes.view(torch.int8)
    shifted = signed.to(torch.int16) if room is None else room.copy_(signed)
    return shifted.bitwise_left_shift_(7).bitwise_and_(~0x407F).view(torch.float16)


def e4m3_to_float(codes: Tensor) -> Tensor:
    """e4m3 -> float32, every code exactly, NaN included."""
    values = e4m3_to_half(codes).to(torch.float32).mul_(256.0)
    magnitude = codes.view(torch.int8) & 0x7F
    if codes.numel() and int(magnitude.amax()) == 0x7F:
        values.masked_fill_(magnitude == 0x7F, torch.nan)
    return values


def e5m2_to_half(codes: Tensor, room: Tensor | None = None) -> Tensor:
    """e5m2 -> fp16, every code exactly: e5m2 is fp16's upper byte. `room` as above."""
    raw = codes.view(torch.uint8)
    wide = raw.to(torch.int16) if room is None else room.copy_(raw)
    return wide.bitwise_left_shift_(8).view(torch.float16)


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 codes 0..15 (N, K) -> int8 (N, K / 2), low nibble = even column. Little-endian."""
    pairs = codes.view(torch.int16)
    return pairs.bitwise_or(pairs >> 4).to(torch.int8)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """int8 (N, K / 2) -> int8 codes 0..15 (N, K). Little-endian."""
    pairs = packed.view(torch.uint8).to(torch.int16)
    spread = (pairs << 4).bitwise_or_(pairs).bitwise_and_(0x0F0F)
    return spread.view(torch.int8)


def pack_high_first(codes: Tensor) -> Tensor:
    """uint8 codes 0..15 (N, K) -> uint8 (N, K / 2), high nibble = even column. Little-endian."""
    pairs = codes.view(torch.int16)
    return (pairs << 4).bitwise_or_(pairs >> 8).to(torch.uint8)


def unpack_high_first(packed: Tensor) -> Tensor:
    """uint8 (N, K / 2) -> uint8 codes 0..15 (N, K), the even column from the high nibble."""
    pairs = packed.to(torch.int16)
    spread = (pairs << 8).bitwise_or_(pairs >> 4).bitwise_and_(0x0F0F)
    return spread.view(torch.uint8)


def swap_nibbles(packed: Tensor) -> Tensor:
    """uint8 -> uint8 with the two halves of each byte changed over."""
    return (packed << 4).bitwise_or_(packed >> 4)


def e2m1_to_float(codes: Tensor) -> Tensor:
    """uint8 codes 0..15 -> float32, every code exactly, the sign of zero kept.

    s ee m moves to fp16's s 000ee m00...: the exponent's bias differs by 14, and 0.5, the one
    subnormal, is a subnormal there too.
    """
    wide = codes.to(torch.int16)
    shifted = ((wide & 8) << 12).bitwise_or_((wide & 7) << 9)
    return shifted.view(torch.float16).to(torch.float32).mul_(2.0**14)


def e8m0_to_float(exponents: Tensor) -> Tensor:
    """uint8 e -> float32 2^(e - 127); 0 gives 0 and 255 infinity."""
    return (exponents.to(torch.int32) << 23).view(torch.float32)
