"""Faults of ComfyUI's packed and block-scaled layers: for each kind, (sick, healthy) files."""

from __future__ import annotations

import torch

from .dialects import NAME, Tensors, marker
from .dialects_blocks import K, N, mxfp8, nvfp4, w4a4, w4a8

NV, MX, W44, W48 = nvfp4()[0], mxfp8()[0], w4a4()[0], w4a8(None)[0]


def without(tensors: Tensors, *leaves: str) -> Tensors:
    return {k: t for k, t in tensors.items() if k.rpartition(".")[2] not in leaves}


def with_(tensors: Tensors, **leaves: torch.Tensor) -> Tensors:
    return tensors | {f"{NAME}.{leaf}": tensor for leaf, tensor in leaves.items()}


def damaged(at: int, byte: int, tensors: Tensors = NV) -> torch.Tensor:
    """The block scales of a layer with one other byte."""
    scales = tensors[f"{NAME}.weight_scale"].clone()
    scales.view(-1)[at] = byte
    return scales


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.ones(shape).to(torch.uint8)


W4A8 = "asym_w4a8_int8"
FAULTS: dict[str, list[tuple[Tensors, Tensors]]] = {
    "tensor-absent": [
        (without(NV, "weight_scale"), NV),
        (without(NV, "weight_scale_2"), NV),
        (without(MX, "weight_scale"), MX),
        (without(W44, "weight_scale"), W44),
        (without(W48, "weight_s_channel"), W48),
    ],
    "scale-shape": [
        (with_(NV, weight_scale=bytes_of(N, K // 16)), NV),  # not in tiles
        (with_(NV, weight_scale_2=torch.ones(2)), NV),
        (with_(W48, weight_s_rel=bytes_of(N, K // 32)), W48),  # groups of 16 are told
    ],
    "scale-dtype": [(with_(NV, weight_scale=torch.ones(256, 16)), NV)],
    "codes-shape": [
        (with_(NV, weight=torch.ones(N, K // 2)), NV),
        (with_(NV, weight=bytes_of(2, N, K // 2)), NV),
        (with_(NV, comfy_quant=marker(format="float8_e4m3fn")), NV),
        (with_(MX, weight=bytes_of(N, K)), MX),
        (with_(W48, weight=torch.ones(N, 3 * K // 4, dtype=torch.int8)), W48),  # 6 bits
    ],
    "scale-not-finite": [
        (with_(NV, weight_scale=damaged(700, 0x7F)), NV),
        (with_(NV, weight_scale_2=torch.tensor(torch.nan)), NV),
        (with_(MX, weight_scale=damaged(3, 0xFF, MX)), MX),
        (with_(W48, weight_codebook=torch.full((16,), torch.nan)), W48),
    ],
    "scale-negative": [(with_(NV, weight_scale=damaged(700, 0x81)), NV)],
    "scale-zero": [(with_(NV, weight_scale_2=torch.tensor(0.0)), NV)],
    "asymmetric-codes": [(with_(W48, weight_correction=torch.ones(16, N)), W48)],
    "group-size": [(with_(W48, comfy_quant=marker(format=W4A8, group_size=6)), W48)],
    "convrot-groupsize": [
        (with_(W48, comfy_quant=marker(format=W4A8, group_size=16, convrot_groupsize=100)), W48),
        (with_(W44, comfy_quant=marker(format="convrot_w4a4", convrot_groupsize=32)), W44),
    ],
}
