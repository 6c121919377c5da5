"""Stored weights of other tools' codecs, packed from their definitions; `codec:variant` names."""

from __future__ import annotations

import torch

Coded = tuple[dict[str, torch.Tensor], dict[str, object], torch.Tensor]
N, K, GROUP = 192, 256, 128
GRID = torch.arange(N * K).reshape(N, K)
# the 16 values of 4-bit NormalFloat: quantiles of N(0, 1) with a zero among them, over the largest
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])  # fmt: skip


def spread(grid: torch.Tensor, size: int = GROUP) -> torch.Tensor:
    return grid.float().repeat_interleave(size, 1)


def scales(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return torch.linspace(0.5, 2, count).reshape(shape).to(dtype)


def codes(bits: int, shape: tuple[int, int] = (N, K)) -> torch.Tensor:
    """Codes from 0 up that differ along rows and inputs."""
    n, k = shape
    found = torch.arange(n)[:, None] * 5 + torch.arange(k)[None] * 3 + torch.arange(k)[None] // 7
    return found % (1 << bits)


def words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (rows, n) packed in int32, the first in the lowest bits."""
    each = 32 // bits
    padded = torch.nn.functional.pad(values.long(), (0, -values.shape[1] % each))
    shifts = torch.arange(each) * bits
    packed = (padded.reshape(len(values), -1, each) << shifts).sum(-1)
    return (packed - (packed >> 31 << 32)).to(torch.int32)


def settings(bits: int, group: int, centered: bool, **more: object) -> dict[str, object]:
    return {"bits": bits, "group": group, "inputs": K, "centered": centered, "scale": "BF16"} | more


def quanto_bytes(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (groups, size) packed across groups: the first of them in the lowest bits."""
    rows = -(-len(values) * bits // 8)
    packed = torch.zeros(rows, values.shape[1], dtype=torch.uint8)
    for block, part in enumerate(values.split(rows)):
        packed[: len(part)] |= (part << (bits * block)).to(torch.uint8)
    return packed


def quanto(bits: int, shape: tuple[int, int], size: int, whole: bool = False) -> Coded:
    n, k = shape
    values = codes(bits, shape).reshape(-1, size)
    groups = len(values)
    scale = scales(groups, 1, dtype=torch.float32)
    shift = torch.arange(groups).reshape(-1, 1) % 4
    value = scale * (values - shift) if whole else scale * values - shift.float() / 3
    stored = shift.to(torch.uint8) if whole else shift.float() / 3
    tensors = {"weight": quanto_bytes(values, bits), "scale": scale, "shift": stored}
    more = settings(bits, size, False) | {"inputs": k}
    return tensors, more, value.reshape(n, k)


def high_first(flat: torch.Tensor) -> torch.Tensor:
    """4-bit codes two a byte, the first in the high nibble: (bytes, 1)."""
    even = torch.nn.functional.pad(flat, (0, len(flat) % 2)).reshape(-1, 2)
    return (even[:, 0] << 4 | even[:, 1]).to(torch.uint8).reshape(-1, 1)


def four_bits(nested: bool, shape: tuple[int, int] = (N, K), block: int = 64) -> Coded:
    n, k = shape
    flat = codes(4, shape).reshape(-1)
    count = -(-n * k // block)
    tensors = {"weight": high_first(flat), "map": NF4}
    said: dict[str, object] = {"inputs": k, "block": block, "nested": 0, "offset": 0.0}
    if nested:
        inner = (torch.arange(count) * 7 % 256).to(torch.uint8)
        table, outer = torch.linspace(-1, 1, 256), torch.linspace(0.5, 1, -(-count // 4))
        tensors |= {"absmax": inner, "nested_map": table, "nested_absmax": outer}
        said |= {"nested": 4, "offset": 1.5}
        absmax = table[inner.long()] * outer.repeat_interleave(4)[:count] + 1.5
    else:
        absmax = tensors["absmax"] = torch.linspace(0.25, 3, count)
    value = NF4[flat] * absmax.repeat_interleave(block)[: n * k]
    return tensors, said, value.reshape(n, k)


def int8_rows() -> Coded:
    values, largest = (GRID % 255 - 127).to(torch.int8), torch.linspace(0.5, 4, N)
    return {"weight": values, "scale": largest}, {}, values * (largest / 127)[:, None]


def marlin_words(values: torch.Tensor) -> torch.Tensor:
    """Codes (n, k), each put where the fragment that a thread of the kernel loads has it."""
    n, k = values.shape
    packed = torch.zeros(k // 16, 2 * n, dtype=torch.int64)
    for place in range(1024):
        thread, tile, slot = place // 32, place % 32 // 8, (0, 2, 4, 6, 1, 3, 5, 7)[place % 8]
        row = 2 * (thread % 4) + (0, 1, 8, 9)[slot % 4]
        column = 16 * tile + thread // 4 + 8 * (slot // 4)
        found = values[column::64, row::16].t()  # (k / 16, n / 64)
        packed[:, place // 8 :: 128] |= found << 4 * (place % 8)
    return (packed - (packed >> 31 << 32)).to(torch.int32)


def marlin_scales(scale: torch.Tensor) -> torch.Tensor:
    """Scales (groups, n) in Marlin's order."""
    groups, n = scale.shape
    if groups > 1:
        return scale.reshape(groups, -1, 8, 8).transpose(2, 3).reshape(groups, n)
    picked = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    return scale.reshape(1, -1, 32)[:, :, picked].reshape(1, n)


def marlin(groups: int) -> Coded:
    values, scale, size = codes(4), scales(groups, N, dtype=torch.float16), K // groups
    tensors = {"weight": marlin_words(values), "scale": marlin_scales(scale)}
    return tensors, settings(4, size, True, scale="F16"), (values - 8) * spread(scale.t(), size)


def gptq(bits: int, group: int, below: int | None) -> Coded:
    """`below`: what a stored zero point lacks; None: all of them are the middle."""
    values, groups, middle = codes(bits), K // group, 1 << (bits - 1)
    zero = torch.full((N, groups), middle)
    if below is not None:
        zero = codes(bits, (N, groups)) % ((1 << bits) - 1) + 1
    stored = (zero - (1 if below is None else below)) % (1 << bits)
    scale = scales(N, groups, dtype=torch.float16)
    tensors = {
        "weight": words(values, bits).t().contiguous(),
        "zeros": words(stored.t(), bits),
        "scale": scale.t().contiguous(),
    }
    said = settings(bits, group, below is None, scale="F16", zero_below=below or 0)
    return tensors, said, (values - spread(zero, group)) * spread(scale, group)


def packed_int32(bits: int, group: int, zeros: str = "") -> Coded:
    values, groups, middle = codes(bits), K // group, 1 << (bits - 1)
    tensors = {"weight": words(values, bits), "scale": scales(N, groups)}
    zero = torch.zeros(N, groups, dtype=torch.long)
    if zeros:
        zero = codes(bits, (N, groups)) - middle
        packed = words((zero + middle).t(), bits).t().contiguous()
        tensors["zeros"] = packed if zeros == "packed" else zero.to(torch.int8)
    value = (values - middle - spread(zero, group)) * spread(tensors["scale"], group)
    return tensors, settings(bits, group, not zeros), value


def torchao_int4(zeros: bool) -> Coded:
    values = codes(4) - 8
    packed = (values[:, 0::2] & 15 | values[:, 1::2] << 4).to(torch.int8)
    scale, zero = scales(N, 2), scales(N, 2) - 1.25 if zeros else torch.zeros(N, 2).bfloat16()
    tensors = {"weight": packed, "scale": scale.t().contiguous(), "zeros": zero.t().contiguous()}
    more = {"offset": True} if zeros else {}
    return tensors, settings(4, GROUP, True, **more), values * spread(scale) + spread(zero)


def scaled_blocks(dtype: torch.dtype, rows: int, group: int, zeros: bool = False) -> Coded:
    values = (GRID % 13 - 6).to(dtype)
    scale = scales(N // rows, K // group)
    grid = spread(scale, group).repeat_interleave(rows, 0)
    tensors = {"weight": values, "scale": scale}
    value = values.float() * grid
    if zeros:
        tensors["zeros"] = (torch.arange(scale.numel()).reshape(scale.shape) % 5).to(torch.int8)
        shift = spread(tensors["zeros"], group).repeat_interleave(rows, 0)
        value = (values.float() - shift) * grid
    centered = dtype == torch.int8 and rows == 1 and not zeros
    return tensors, settings(4, group, centered, rows=rows), value


E5M2, FNUZ = torch.float8_e5m2, torch.float8_e4m3fnuz
CODED: dict[str, Coded] = {
    "quanto_bits": quanto(4, (N, K), GROUP),
    "quanto_bits:2": quanto(2, (N, K), GROUP),
    "quanto_bits:odd": quanto(4, (33, 96), 96),
    "quanto_bits:whole": quanto(4, (N, K), 64, whole=True),
    "bitsandbytes_4bit": four_bits(nested=False),
    "bitsandbytes_4bit:nested": four_bits(nested=True),
    "bitsandbytes_4bit:odd": four_bits(True, (33, 25)),
    "bitsandbytes_int8": int8_rows(),
    "marlin_int4": marlin(2),
    "marlin_int4:one": marlin(1),
    "gptq": gptq(4, GROUP, None),
    "gptq:less-one": gptq(4, 64, 1),
    "gptq:as-is": gptq(4, GROUP, 0),
    "gptq:2": gptq(2, GROUP, 1),
    "gptq:8": gptq(8, K, None),
    "packed_int32": packed_int32(4, GROUP),
    "packed_int32:zeros": packed_int32(4, GROUP, "packed"),
    "packed_int32:bytes": packed_int32(4, 32, "plain"),
    "packed_int32:8": packed_int32(8, K),
    "torchao_int4": torchao_int4(zeros=False),
    "torchao_int4:zeros": torchao_int4(zeros=True),
    "scaled_blocks": scaled_blocks(torch.int8, 1, GROUP),
    "scaled_blocks:zeros": scaled_blocks(torch.int8, 1, K, zeros=True),
    "scaled_blocks:tiles": scaled_blocks(torch.int8, 64, 64, zeros=True),
    "scaled_blocks:e5m2": scaled_blocks(E5M2, 1, K),
    "scaled_blocks:fnuz": scaled_blocks(FNUZ, 1, K),
}
