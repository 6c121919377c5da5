"""Loops in C++ that torch's own compiler builds once on the user's machine, and their calls.

Nothing is built before a product asks for it; what is built stays in torch's cache.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .. import passes

Tensor = torch.Tensor
_FOLDER = Path(__file__).parent


def why_not() -> str | None:
    """Why nothing can be built here, or None."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        return "TORCH_COMPILE_DISABLE is 1: nothing is compiled"
    return passes.no_compiler()


@cache
def library(name: str) -> Any:
    """The functions of `name`.cpp. Raises what torch's compiler raises: see `FAULTS`."""
    from torch._inductor.codecache import CppCodeCache

    source = (_FOLDER / f"{name}.cpp").read_text(encoding="utf-8")
    return CppCodeCache.load(source)


# a compiler that is missing or fails, a torch whose code cache is another
FAULTS = (RuntimeError, ImportError, AttributeError, OSError, TypeError, ValueError)


def int8_product(codes: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """int8 (M, K), int8 (N, K), float32 (N) -> float32 (M, N), exact until the scale."""
    (rows, inputs), outputs = codes.shape, weight.shape[0]
    out = codes.new_empty((rows, outputs), dtype=torch.float32)
    given = (codes.contiguous(), weight.contiguous(), scale.contiguous(), out)
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in given)
    sizes = (ctypes.c_int64(size) for size in (rows, outputs, inputs))
    library("int8_avx2").int8_product(*addresses, *sizes)
    return out
