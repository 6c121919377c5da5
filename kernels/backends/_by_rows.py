"""x and a quantized weight in, y out: x as it is, the weight widened a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn import functional

from .. import bits, cpu

Tensor = torch.Tensor

# What one widened block of weights may take. On CPUs, bfloat16 with AMX: 8 MiB measured 1.2 to 6
# times as fast as the whole weight at once (12288 x 3072); float32 with AVX2: 4 MiB 1.3 times as
# fast as 8 or 16 (1536 x 3072), because it stays in a cache.
BLOCK_BYTES = {("cpu", torch.bfloat16): 8 * 2**20, ("cpu", torch.float32): 4 * 2**20}
BLOCK_BYTES_ELSEWHERE = 256 * 2**20

# CPUs with bfloat16 units have none for float16; Apple's float16 sums overflow
COMPUTE = {
    ("cpu", torch.float16): torch.float32,
    ("mps", torch.float16): torch.bfloat16,
}


def compute_dtype(device: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that this device multiplies numbers of `dtype` fastest in, none less exact."""
    if device == "cpu" and dtype == torch.bfloat16 and not cpu.multiplies_bf16():
        return torch.float32
    return COMPUTE.get((device, dtype), dtype)


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
    dtype = compute_dtype(device, x.dtype)
    rows = min(outputs, _rows(device, dtype, x.shape[1], tile or 1))
    # codes are exact in every compute dtype, so one scale a row can wait for the sums; not in
    # float16, whose sums would overflow
    late = not (group_size or tile) and dtype != torch.float16
    room = _Room(x, rows, dtype if late or group_size else torch.float32)
    values = x.to(dtype)
    added = None if bias is None else bias.to(torch.float32)
    result = x.new_empty((x.shape[0], outputs))
    for start in range(0, outputs, rows):
        stop = min(start + rows, outputs)
        part = weight[start:stop]
        if group_size:
            some = None if zeros is None else zeros[:, start:stop]
            wide = room.grouped(part, scale[:, start:stop], some, group_size)
        elif tile:
            wide = room.tiled(part, scale[start // tile : -(-stop // tile)], tile)
        else:
            wide = room.codes(part)
            if not late:
                wide.mul_(_of_rows(scale, start, stop))
        sums = functional.linear(values, wide.to(dtype))
        if late:
            sums = sums.to(torch.float32).mul_(_of_rows(scale, start, stop).reshape(1, -1))
        if added is not None:
            sums = sums.to(torch.float32).add_(added[start:stop])
        result[:, start:stop] = sums
    return result


def _rows(device: str, dtype: torch.dtype, k: int, multiple: int) -> int:
    budget = BLOCK_BYTES.get((device, dtype), BLOCK_BYTES_ELSEWHERE)
    rows = max(1, budget // (dtype.itemsize * max(k, 1)))
    return max(multiple, rows // multiple * multiple)


def _of_rows(scale: Tensor, start: int, stop: int) -> Tensor:
    return scale if scale.ndim == 0 else scale[start:stop]


class _Room:
    """The memory of one widened block (rows, K), used again for every block of a call.

    What a method returns is overwritten by the next call.
    """

    def __init__(self, x: Tensor, rows: int, dtype: torch.dtype) -> None:
        self._wide = torch.empty((rows, x.shape[1]), dtype=dtype, device=x.device)
        self._half: Tensor | None = None

    def codes(self, codes: Tensor) -> Tensor:
        """int8 or fp8 codes -> the same numbers, NaN included."""
        wide = self._wide[: codes.shape[0]]
        if codes.device.type != "cpu" or codes.dtype not in _BY_BITS:
            return wide.copy_(codes)
        if self._half is None:
            self._half = torch.empty(self._wide.shape, dtype=torch.int16)
        half = self._half[: codes.shape[0]]
        if codes.dtype == torch.float8_e5m2:
            return wide.copy_(bits.e5m2_to_half(codes, half))
        wide.copy_(bits.e4m3_to_half(codes, half)).mul_(256.0)
        return wide.masked_fill_(wide.abs() == 480.0, torch.nan) if _has_nan(codes) else wide

    def tiled(self, codes: Tensor, scale: Tensor, tile: int) -> Tensor:
        """fp8 codes times the scales of their tiles (rows / tile, K / tile)."""
        wide = self.codes(codes)
        rows, k = wide.shape
        wide.view(rows // tile, tile, k // tile, tile).mul_(scale[:, None, :, None])
        return wide

    def grouped(
        self, packed: Tensor, scale: Tensor, zeros: Tensor | None, group_size: int
    ) -> Tensor:
        """Two 4-bit codes a byte -> (code - 8) times the scale of their group, plus its zero."""
        wide = self._wide[: packed.shape[0]]
        values = wide.view(packed.shape[0], -1, group_size)
        values.copy_(bits.unpack_nibbles(packed).sub_(8).view(values.shape))
        values.mul_(scale.t().unsqueeze(-1).to(wide.dtype))
        if zeros is not None:
            values.add_(zeros.t().unsqueeze(-1).to(wide.dtype))
        return wide


_BY_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


def _has_nan(codes: Tensor) -> bool:
    return bool(codes.numel()) and int((codes.view(torch.int8) & 0x7F).amax()) == 0x7F


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
