"""Tiny files of what stands under ComfyUI's markers beside its own formats: id -> a Fixture."""

from __future__ import annotations

import torch

from .coded_core import Coded, awq, mxfp8, svdquant
from .dialects import BIAS, NAME, Fixture, Tensors, marker

LEAVES = {
    "weight": "weight", "scale": "weight_scale", "zeros": "weight_zeros", "smooth": "smooth_factor",
    "down": "proj_down", "up": "proj_up",
}  # fmt: skip


def stored(coded: Coded, names: dict[str, str] | None = None, **config: object) -> Tensors:
    """The tensors of a layer under their names in a file, its marker and its bias."""
    spelled = LEAVES | (names or {})
    found = {f"{NAME}.{spelled[role]}": tensor for role, tensor in coded[0].items()}
    bias = {f"{NAME}.bias": torch.arange(coded[2].shape[0]).to(torch.bfloat16)}
    return found | bias | {f"{NAME}.comfy_quant": marker(**config)}


def int8_tiles() -> tuple[Tensors, torch.Tensor]:
    codes = (torch.arange(192 * 256).reshape(192, 256) % 251 - 125).to(torch.int8)
    scale = torch.linspace(0.5, 2, 12).reshape(3, 4)
    value = codes * scale.repeat_interleave(64, 0).repeat_interleave(64, 1)
    tensors = {f"{NAME}.weight": codes, f"{NAME}.weight_scale": scale, **BIAS}
    config = marker(format="int8_blockwise", group_size=64, orig_dtype="torch.bfloat16")
    return tensors | {f"{NAME}.comfy_quant": config, f"{NAME}.input_scale": torch.ones(())}, value


SVDQUANT = {"format": "svdquant_w4a4", "layout": "kitchen_tile_packed_w4a4"}
READ: dict[str, Fixture] = {
    "core-awq-64": (
        stored(awq(64), format="awq_w4a16", group_size=64), "core", "awq_w4a16", awq(64)[2]
    ),
    "core-awq-128-zeros": (
        stored(awq(128), format="awq_w4a16", group_size=128), "core", "int4_g128", awq(128)[2]
    ),
    "core-awq-256": (
        stored(awq(256), format="awq_w4a16", group_size=256), "core", "awq_w4a16", awq(256)[2]
    ),
    "comfy-quants-awq": (
        stored(awq(64, torch.float32), {"zeros": "weight_zero"}, format="awq_w4a16"),
        "core",
        "awq_w4a16",
        awq(64, torch.float32)[2],
    ),
    "comfy-quants-svdquant": (
        stored(svdquant(True), **SVDQUANT), "core", "svdquant_w4a4", svdquant(True)[2]
    ),
    "comfy-quants-svdquant-smoothed": (
        stored(svdquant(True, True), lowrank_branch_input_basis="post_smoothing", **SVDQUANT),
        "core",
        "svdquant_w4a4",
        svdquant(True, True)[2],
    ),
    "svdquant-plain-layout": (
        stored(svdquant(False), format="svdquant_w4a4"), "core", "svdquant_w4a4", svdquant(False)[2]
    ),
    "convert_to_quant-int8-blocks": (int8_tiles()[0], "core", "int8_blockwise", int8_tiles()[1]),
    "convert_to_quant-hybrid-mxfp8": (
        stored(mxfp8(), format="hybrid_mxfp8", group_size=32, orig_shape=[192, 250])
        | {f"{NAME}.weight_scalar": torch.tensor(256.0)},
        "core",
        "mxfp8",
        mxfp8()[2],
    ),
}  # fmt: skip
