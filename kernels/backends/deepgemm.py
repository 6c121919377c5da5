"""fp8 with a scale per 128 x 128 tile by DeepGEMM, made for Hopper."""

from __future__ import annotations

import torch

from ..constraints import MultipleOf
from ..registry import SIGNATURE, Backend
from ._library import Library, on_card, quantized

Tensor = torch.Tensor
DEEPGEMM = Library("deep_gemm", "deep_gemm")
# the second is the first's name before version 2
NAMES = ("fp8_gemm_nt", "gemm_fp8_fp8_bf16_nt")
_TILES = (MultipleOf(0, 128), MultipleOf(1, 128))


def fp8_block128_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 of whole tiles -> (M, N); it writes bfloat16 into what it is given."""
    codes, sx = quantized(x, torch.float8_e4m3fn, 128)
    shape = (x.shape[0], weight.shape[0])
    result = torch.empty(shape, dtype=torch.bfloat16, device=x.device)
    name = next((name for name in NAMES if DEEPGEMM.has(name)), NAMES[0])
    DEEPGEMM.get(name)((codes, sx), (weight, scale.contiguous()), result)
    if bias is not None:
        result = result.to(torch.float32).add_(bias.to(torch.float32))
    return result.to(x.dtype)


BACKEND = Backend(
    name="deepgemm",
    title="DeepGEMM",
    order=76,
    available=DEEPGEMM.refusal,
    proven=SIGNATURE,
    claims=(on_card("fp8_block128_linear", fp8_block128_linear, 0.03, (9, 0), _TILES),),
)
