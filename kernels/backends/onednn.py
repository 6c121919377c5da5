"""int8 products by oneDNN on a CPU with int8 units, x rounded in one pass over memory.

A weight comes as its rows, or packed by `pack_int8` into oneDNN's own order: the packed tensor
takes the place of the rows, as large as they are. Nothing is kept here: who holds a layer's weight
holds the one or the other, so no copy can outlive a change of the weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import cpu, passes
from ..constraints import CpuUnits, Dtypes
from ..registry import Backend, Claim
from ._integers import BLOCK_BYTES
from .torch_native import rotate_groups

Tensor = torch.Tensor

OPS = ("qlinear_prepack", "qlinear_pointwise")
Product = Callable[[Tensor], Tensor]

# What each thread quantizes at a time where nothing is compiled: 512 KiB in float32. On Zen 3, one
# thread, 1024 x 3072 in bf16: 5.1 ms, twice as many 4.8, eight times 6.0, all at once 42 ms.
RUN_ELEMENTS = 1 << 17
MOST_ELEMENTS = 1 << 21  # of all threads: 8 MiB still come from what the allocator kept


def available() -> str | None:
    """None, or why int8 products are not for this processor or this torch."""
    if not torch._C._has_mkldnn:
        return "this torch is built without oneDNN"
    missing = [name for name in OPS if not hasattr(torch.ops.onednn, name)]
    if missing:
        return f"this torch has no onednn::{missing[0]}"
    if not cpu.features().intersection(cpu.INT8_UNITS):
        return "this CPU has neither VNNI nor AMX: oneDNN's int8 sums would overflow 16 bits"
    return inexact()


def _quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) -> int8 (M, K), float32 (M, 1): the formula of `quantize_int8`."""
    values = x.to(torch.float32)
    scale = (values.abs().amax(dim=-1, keepdim=True) / 127.0).clamp(min=1e-30)
    return (values / scale).round().clamp(-127.0, 127.0).to(torch.int8), scale


def _quantized_in_runs(x: Tensor) -> tuple[Tensor, Tensor]:
    """`_quantized` of so few rows at a time that what its seven passes make stays in a cache."""
    rows, k = x.shape
    step = max(1, min(RUN_ELEMENTS * torch.get_num_threads(), MOST_ELEMENTS) // k)
    if rows <= step:
        return _quantized(x)
    codes = x.new_empty((rows, k), dtype=torch.int8)
    scale = x.new_empty((rows, 1), dtype=torch.float32)
    for start in range(0, rows, step):
        run = slice(start, start + step)
        codes[run], scale[run] = _quantized(x[run])
    return codes, scale


def _of_values(values: Tensor, out: Tensor, sx: Tensor, bias: Tensor | None) -> None:
    """out = values * sx + bias; values float32 (M, N), the weight's scale in them already."""
    scaled = values * sx
    out.copy_(scaled if bias is None else scaled + bias)


def _of_values_in_place(values: Tensor, out: Tensor, sx: Tensor, bias: Tensor | None) -> None:
    """The same over the values' own memory. Not `addcmul`: it rounds once where this does twice."""
    scaled = values.mul_(sx)
    out.copy_(scaled if bias is None else scaled.add_(bias))


quantized = passes.Pass(_quantized, eager=_quantized_in_runs)
of_values = passes.Pass(_of_values, eager=_of_values_in_place)


def pack_int8(weight: Tensor) -> Tensor:
    """int8 (N, K) -> oneDNN's order, (K, N) as torch sees it."""
    # tensors out of a file may begin anywhere; oneDNN wants them aligned
    aligned = weight if weight.data_ptr() % 64 == 0 else weight.clone()
    packed: Tensor = torch.ops.onednn.qlinear_prepack(aligned, None)
    return packed


def packed_product(weight: Tensor, scale: Tensor | None = None) -> Product:
    """A packed weight -> what multiplies int8 (M, K) by it into float32 (M, N).

    The `scale` of 1 or N numbers, none for 1, is multiplied in before oneDNN writes its sums.
    """
    outputs = weight.shape[1]
    columns = torch.ones(outputs) if scale is None else scale.reshape(-1).expand(outputs)
    columns, zeros = columns.contiguous(), torch.zeros(outputs, dtype=torch.int32)

    def product(codes: Tensor) -> Tensor:
        values: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, weight, columns, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return values

    return product


def rows_product(weight: Tensor, scale: Tensor) -> Product:
    """`packed_product` of rows (N, K): `_int_mm` puts them into oneDNN's order for each call.

    Two passes more over the sums: to float32, and times the scale.
    """
    rows, columns = weight.t(), scale.reshape(1, -1)
    return lambda codes: torch._int_mm(codes, rows).to(torch.float32).mul_(columns)


def linear_by(
    product: Product, x: Tensor, outputs: int, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(M, K) -> (M, N) in `dtype`, in blocks of rows whose sums stay in memory that is reused.

    Bytes to and from memory, for each number of x: 2 read and 1 written where the pass is compiled
    (bf16 x). Without a compiler seven passes go over it, but over a run that stays in a cache; its
    codes are then written once more. For each number of the result: 4 written by oneDNN, 4 read and
    2 written where compiled; without a compiler 8 more for the scale of x and 8 for a bias, in
    place.
    """
    added = None if bias is None else bias.to(torch.float32)
    result = x.new_empty((x.shape[0], outputs), dtype=dtype)
    step = block_rows(x.shape[0], outputs)
    for start in range(0, x.shape[0], step):
        codes, sx = quantized(x[start : start + step])
        of_values(product(codes), result[start : start + step], sx, added)
    return result


def block_rows(rows: int, outputs: int) -> int:
    """Rows of one block: as even as can be, no full blocks and then a small, slow rest."""
    most = max(32, BLOCK_BYTES["cpu"] // (4 * outputs))
    blocks = -(-rows // most)
    return -(-rows // blocks)


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    return linear_by(rows_product(weight, scale), x, weight.shape[0], bias, x.dtype)


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    turned = rotate_groups(x, group_size)
    return linear_by(rows_product(weight, scale), turned, weight.shape[0], bias, x.dtype)


def int8_packed_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), a packed weight -> (M, N); x is rotated first where there is a group size."""
    values = rotate_groups(x, group_size) if group_size else x
    return linear_by(packed_product(weight, scale), values, weight.shape[1], bias, x.dtype)


def inexact() -> str | None:
    """Multiply the largest codes once: None, or which product came out wrong on this CPU."""
    rows, outputs, k = 33, 48, 512
    source = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randint(120, 128, (size, k), generator=source).to(torch.int8)
        for size in (rows, outputs)
    )
    x[::2] *= -1
    exact = x.to(torch.float64) @ weight.to(torch.float64).t()
    halves = torch.full((1,), 0.5)  # a scale that loses nothing
    try:
        found = {
            "_int_mm": torch._int_mm(x, weight.t()),
            "qlinear_pointwise": packed_product(pack_int8(weight), halves)(x) * 2.0,
        }
    except RuntimeError as error:
        return f"a trial product: {str(error).splitlines()[0]}"
    wrong = [name for name, sums in found.items() if not torch.equal(sums.to(torch.float64), exact)]
    return f"{wrong[0]} gave a wrong product on this CPU" if wrong else None


_FLOATS = Dtypes((torch.bfloat16, torch.float16, torch.float32))
_X = {"x": (CpuUnits(cpu.INT8_UNITS), _FLOATS)}
_ROWS = {"weight": (CpuUnits(cpu.INT8_UNITS), Dtypes((torch.int8,)))}

BACKEND = Backend(
    name="onednn",
    title="oneDNN's int8 products",
    proven="its calls run on a CPU without these units, with codes that cannot overflow there",
    order=15,
    available=available,
    claims=(
        Claim("int8_linear", int8_linear, _X, error=0.015),
        Claim("int8_convrot_linear", int8_convrot_linear, _X, error=0.015),
        Claim("pack_int8", pack_int8, _ROWS),
        Claim("int8_packed_linear", int8_packed_linear, _X, error=0.015),
    ),
)
