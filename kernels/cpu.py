"""Nothing in, what the processor's instructions are good at out: read once from torch's table."""

from __future__ import annotations

import platform
from functools import cache

import torch

# sums of int8 products in 32 bits: without these oneDNN adds pairs in 16 bits, which overflow
INT8_UNITS = ("avx512_vnni", "avx_vnni", "amx_int8")
# products of bfloat16 that are no slower than those of float32
BF16_UNITS = ("avx512_f", "avx512_bf16", "avx_ne_convert", "amx_bf16")


@cache
def features() -> frozenset[str]:
    """The names in torch's table that are true; before torch had one, what its questions tell."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        return frozenset(name for name, there in ask().items() if there is True)
    questions = {
        "avx2": "_is_avx2_supported",
        "avx512_f": "_is_avx512_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "avx512_vnni": "_is_vnni_supported",
        "amx_int8": "_is_amx_tile_supported",
        "amx_bf16": "_is_amx_tile_supported",
    }
    found = {name: getattr(torch.cpu, question, None) for name, question in questions.items()}
    return frozenset(name for name, has in found.items() if has is not None and has())


def is_x86() -> bool:
    """Whether the names above are this processor's."""
    return platform.machine().lower() in ("x86_64", "amd64", "x86", "i686")


def multiplies_int8() -> bool:
    """Whether `torch._int_mm` has units of its own to run on; elsewhere it is a plain loop."""
    return not is_x86() or bool(features().intersection(INT8_UNITS))


def multiplies_bf16() -> bool:
    """Whether a product in bfloat16 is as fast as one in float32 (on AVX2 it takes 6 times)."""
    return not is_x86() or bool(features().intersection(BF16_UNITS))
