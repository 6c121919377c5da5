"""x and a quantized weight in, y out: x as it is, the weight widened a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn import functional

from .. import bits

Tensor = torch.Tensor

# What one widened block of weights may take. On a CPU 8 MiB measured 1.2 to 6 times as fast as the
# whole weight at once (12288 x 3072): memory that the allocator kept needs no clearing.
BLOCK_BYTES = {"cpu": 8 * 2**20}
BLOCK_BYTES_ELSEWHERE = 256 * 2**20

# CPUs with bfloat16 units have none for float16; Apple's float16 sums overflow
COMPUTE = {
    ("cpu", torch.float16): torch.float32,
    ("mps", torch.float16): torch.bfloat16,
}


def weight_only_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    *,
    zeros: Tensor | None = None,
    group_size: int = 0,
    tile: int = 0,
) -> Tensor:
    """(M, K) x (N, K) int8 or fp8, or (N, K / 2) nibbles with a `group_size` -> (M, N).

    `scale` is () or (N, 1), per tile (`tile`), or per group (K / group_size, N).
    """
    device, outputs = x.device.type, weight.shape[0]
    dtype = COMPUTE.get((device, x.dtype), x.dtype)
    rows = _rows(device, dtype, x.shape[1], tile or 1)
    # codes are exact in every compute dtype, so one scale a row can wait for the sums; not in
    # float16, whose sums would overflow
    late = not (group_size or tile) and dtype != torch.float16
    values = x.to(dtype)
    added = None if bias is None else bias.to(torch.float32)
    result = x.new_empty((x.shape[0], outputs))
    for start in range(0, outputs, rows):
        stop = min(start + rows, outputs)
        part = weight[start:stop]
        if group_size:
            some = None if zeros is None else zeros[:, start:stop]
            wide = _grouped(part, scale[:, start:stop], some, group_size, dtype)
        elif tile:
            wide = _tiled(part, scale[start // tile : -(-stop // tile)], tile, dtype)
        else:
            wide = _codes(part, dtype if late else torch.float32)
            if not late:
                wide = wide.mul_(_of_rows(scale, start, stop)).to(dtype)
        sums = functional.linear(values, wide)
        if late:
            sums = sums.to(torch.float32).mul_(_of_rows(scale, start, stop).reshape(1, -1))
        if added is not None:
            sums = sums.to(torch.float32).add_(added[start:stop])
        result[:, start:stop] = sums
    return result


def _rows(device: str, dtype: torch.dtype, k: int, multiple: int) -> int:
    budget = BLOCK_BYTES.get(device, BLOCK_BYTES_ELSEWHERE)
    rows = max(1, budget // (dtype.itemsize * max(k, 1)))
    return max(multiple, rows // multiple * multiple)


def _of_rows(scale: Tensor, start: int, stop: int) -> Tensor:
    return scale if scale.ndim == 0 else scale[start:stop]


def _codes(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 or fp8 codes -> the same numbers in `dtype`, in memory of their own."""
    if codes.device.type == "cpu" and codes.dtype == torch.float8_e4m3fn:
        return bits.e4m3_to_float(codes) if dtype == torch.float32 else _e4m3(codes, dtype)
    if codes.device.type == "cpu" and codes.dtype == torch.float8_e5m2:
        return bits.e5m2_to_half(codes).to(dtype)
    return codes.to(dtype)


def _e4m3(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """e4m3 -> bfloat16, every code exactly, NaN included."""
    values = bits.e4m3_to_half(codes).to(dtype).mul_(256.0)
    return values.masked_fill_(values.abs() == 480.0, torch.nan) if _has_nan(codes) else values


def _has_nan(codes: Tensor) -> bool:
    return bool(codes.numel()) and int((codes.view(torch.int8) & 0x7F).amax()) == 0x7F


def _tiled(codes: Tensor, scale: Tensor, tile: int, dtype: torch.dtype) -> Tensor:
    rows, k = codes.shape
    values = _codes(codes, torch.float32).view(rows // tile, tile, k // tile, tile)
    return values.mul_(scale[:, None, :, None]).view(rows, k).to(dtype)


def _grouped(
    packed: Tensor, scale: Tensor, zeros: Tensor | None, group_size: int, dtype: torch.dtype
) -> Tensor:
    rows, half = packed.shape
    codes = bits.unpack_nibbles(packed).sub_(8).view(rows, 2 * half // group_size, group_size)
    values = codes.to(dtype).mul_(scale.t().unsqueeze(-1).to(dtype))
    if zeros is not None:
        values.add_(zeros.t().unsqueeze(-1).to(dtype))
    return values.view(rows, 2 * half)


def plain_linear(x: Tensor, runs: Iterable[Tensor], outputs: int, bias: Tensor | None) -> Tensor:
    """(M, K) times runs of widened rows, which make (N, K) one below the other -> (M, N)."""
    result, start = x.new_empty((x.shape[0], outputs)), 0
    added = None if bias is None else bias.to(torch.float32)
    for wide in runs:
        stop = start + wide.shape[0]
        sums = functional.linear(x.to(wide.dtype), wide)
        if added is not None:
            sums = sums.to(torch.float32).add_(added[start:stop])
        result[:, start:stop] = sums
        start = stop
    return result


def blocks_of_rows(rows: int, k: int, elements: int, multiple: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of rows of about so many elements, each a multiple of `multiple`.

    The last run takes what would be less than `multiple` with it.
    """
    step = max(multiple, elements // max(k, 1) // multiple * multiple)
    start = 0
    while start < rows:
        stop = rows if rows - start < step + multiple else start + step
        yield start, stop
        start = stop
