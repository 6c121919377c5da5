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


def _of_codes(sums: Tensor, out: Tensor, scale: Tensor, sx: Tensor, bias: Tensor | None) -> None:
    """out = sums * scale * sx + bias; sums int32 or float32 (M, N)."""
    values = sums.to(torch.float32) * scale * sx
    out.copy_(values if bias is None else values + bias)


quantized, of_codes = passes.Pass(_quantized), passes.Pass(_of_codes)


def pack_int8(weight: Tensor) -> Tensor:
    """int8 (N, K) -> oneDNN's order, (K, N) as torch sees it."""
    # tensors out of a file may begin anywhere; oneDNN wants them aligned
    aligned = weight if weight.data_ptr() % 64 == 0 else weight.clone()
    packed: Tensor = torch.ops.onednn.qlinear_prepack(aligned, None)
    return packed


def packed_product(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """A packed weight -> what multiplies int8 (M, K) by it into float32 (M, N)."""
    outputs = weight.shape[1]
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)

    def product(codes: Tensor) -> Tensor:
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, weight, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums

    return product


def linear_by(
    product: Callable[[Tensor], Tensor],
    x: Tensor,
    outputs: int,
    bias: Tensor | None,
    scale: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """(M, K) -> (M, N) in `dtype`, in blocks of rows whose sums stay in memory that is reused."""
    columns = scale.reshape(1, -1)
    added = None if bias is None else bias.to(torch.float32)
    result = x.new_empty((x.shape[0], outputs), dtype=dtype)
    step = max(32, BLOCK_BYTES["cpu"] // (4 * outputs))
    for start in range(0, x.shape[0], step):
        codes, sx = quantized(x[start : start + step])
        of_codes(product(codes), result[start : start + step], columns, sx, added)
    return result


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    rows = weight.t()
    return linear_by(
        lambda codes: torch._int_mm(codes, rows), x, weight.shape[0], bias, scale, x.dtype
    )


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    turned, rows = rotate_groups(x, group_size), weight.t()
    return linear_by(
        lambda codes: torch._int_mm(codes, rows), turned, weight.shape[0], bias, scale, x.dtype
    )


def int8_packed_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), a packed weight -> (M, N); x is rotated first where there is a group size."""
    values = rotate_groups(x, group_size) if group_size else x
    return linear_by(packed_product(weight), values, weight.shape[1], bias, scale, x.dtype)


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
    try:
        found = {
            "_int_mm": torch._int_mm(x, weight.t()),
            "qlinear_pointwise": packed_product(pack_int8(weight))(x),
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
