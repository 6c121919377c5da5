"""The name of a dtype in, a MODEL that computes in it, and what that means on its device, out.

Setting it is the host's own mechanism; our quantized layers stay quantized under it.
"""

from __future__ import annotations

from typing import Any

import torch

from ..kernels import cpu
from .ops import compute_dtype_of

UNCHANGED = "unchanged"
DTYPES = {
    UNCHANGED: None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def compute_in(patcher: Any, name: str) -> str:
    """Have `patcher`, a clone, compute in a dtype of DTYPES; the line that says so."""
    before = compute_dtype_of(patcher)
    dtype = DTYPES[name] or before
    if dtype != before:
        patcher.set_model_compute_dtype(dtype)
    told = f"{_named(before)}, unchanged" if dtype == before else f"{_named(dtype)} for this model"
    return f"computes in: {told}{_advice(dtype, patcher.load_device)}"


def _named(dtype: torch.dtype) -> str:
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))


def _advice(dtype: torch.dtype, device: torch.device) -> str:
    """What the dtype costs on a CPU, where it is not the fastest."""
    if device.type != "cpu":
        return ""
    if dtype == torch.float16:
        return "; few CPUs have units for fp16"
    if dtype == torch.float32 and cpu.multiplies_bf16():
        return "; this CPU has units for bf16: that is faster"
    if dtype == torch.bfloat16 and not cpu.multiplies_bf16():
        return "; this CPU has no units for bf16: what is not quantized is slower than in fp32"
    return ""
