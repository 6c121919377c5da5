"""A product's operands in, its kernel started with a tile that fits the device, y out."""

from __future__ import annotations

import os
import subprocess
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.errors import TritonError

from ..product_tiles import BLOCK128, block_rank, choose

Tensor = torch.Tensor
_DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def target(device: torch.device) -> tuple[str, int]:
    """(`sm_90`, `gfx942`, ..., number of multiprocessors); the interpreter plays an A100."""
    if device.type != "cuda":
        return "sm_80", 0
    facts = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return facts.gcnArchName.split(":")[0], facts.multi_processor_count
    return f"sm_{facts.major}{facts.minor}", facts.multi_processor_count


def casts_e4m3(device: torch.device) -> bool:
    """Whether the device converts to e4m3 by itself; the interpreter's cast is not exact."""
    if interpreted() or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)


def start(kernel: Any, grid: tuple[int, ...], first: Tensor, *more: Any, **constants: Any) -> None:
    """Start the kernel on the device of its first argument, also while another one is current.

    What Triton cannot build or place is a RuntimeError, as torch's own are; so is a compiler that
    is missing or fails.
    """
    device = torch.cuda.device(first.device) if first.device.type == "cuda" else nullcontext()
    try:
        with device:
            kernel[grid](first, *more, **constants)
    except (TritonError, subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Ends:
    """What a product adds to its sums: bias (N), and middle (M, R) times up (N, R) transposed."""

    bias: Tensor | None
    middle: Tensor | None
    up: Tensor | None

    def contiguous(self) -> Ends:
        """The same numbers, each row behind the other, as the kernels read them."""
        sides = (self.bias, self.middle, self.up)
        return Ends(*(None if side is None else side.contiguous() for side in sides))

    @property
    def rank(self) -> int:
        """R, 0 without a branch."""
        return 0 if self.up is None else self.up.shape[1]


def product(
    kernel: Any, kind: str, x: Tensor, weight: Tensor, scales: tuple[Tensor | None, ...],
    ends: Ends, dtype: torch.dtype, compute: torch.dtype, **constants: Any,
) -> Tensor:  # fmt: skip
    """(M, K), (N, K or packed) -> (M, N) `dtype`. `compute` is the dtype of what is multiplied.

    `constants` are the kernel's own; no `block_inputs` spans two groups.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0]
    ends = ends.contiguous()
    result = x.new_empty((rows, outputs), dtype=dtype)
    arch, processors = target(x.device)
    tile = choose(kind, rows, outputs, arch, processors, ends.rank)
    if kind != BLOCK128:
        constants["block_inputs"] = min(tile.inputs, constants.get("group", tile.inputs))
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs),)
    start(
        kernel, grid, x, weight, *scales, ends.bias, ends.middle, ends.up, result,
        rows, outputs, inputs, ends.rank,
        block_rows=tile.rows, block_outputs=tile.outputs, block_rank=block_rank(ends.rank),
        has_bias=ends.bias is not None,
        # the interpreter multiplies bfloat16 as if its bits were whole numbers
        compute=_DTYPES[torch.float32 if interpreted() else compute],
        num_warps=tile.warps, num_stages=tile.stages, **constants,
    )  # fmt: skip
    return result
