"""Faults of what stands under ComfyUI's markers beside its own formats: (sick, healthy) files."""

from __future__ import annotations

import math

import torch

from .coded_core import awq, mxfp8, svdquant
from .dialects import NAME, Tensors
from .dialects_core import SVDQUANT, int8_tiles, stored

AWQ = stored(awq(64), format="awq_w4a16", group_size=64)
SVD, PLAIN = stored(svdquant(True), **SVDQUANT), stored(svdquant(False), **SVDQUANT)
HYBRID = stored(mxfp8(), format="hybrid_mxfp8", orig_shape=[192, 250])
TILES = int8_tiles()[0]


def without(tensors: Tensors, *leaves: str) -> Tensors:
    gone = {f"{NAME}.{leaf}" for leaf in leaves}
    return {name: tensor for name, tensor in tensors.items() if name not in gone}


def other(tensors: Tensors, leaf: str, tensor: torch.Tensor) -> Tensors:
    return tensors | {f"{NAME}.{leaf}": tensor}


FAULTS: dict[str, list[tuple[Tensors, Tensors]]] = {
    "group-size": [
        (stored(awq(64), format="awq_w4a16", group_size=100), AWQ),
        (stored(awq(64), format="awq_w4a16", group_size=0), AWQ),
    ],
    "tensor-absent": [
        *((without(SVD, leaf), SVD) for leaf in ("proj_down", "proj_up", "smooth_factor")),
        (without(SVD, "weight_scale"), SVD),
        (
            without(stored(svdquant(True), act_unsigned=True, **SVDQUANT), "bias"),
            stored(svdquant(True), act_unsigned=True, **SVDQUANT),
        ),
    ],
    "hybrid-mxfp8": [(HYBRID, stored(mxfp8(), format="mxfp8", orig_shape=[192, 250]))],
    "branch-unknown": [
        (stored(svdquant(True), lowrank_branch_input_basis=told, **SVDQUANT), SVD)
        for told in ("sideways", ["raw"], 1)
    ],
}
# more of the faults that other files have too: kind, sick, healthy
MORE: list[tuple[str, Tensors, Tensors]] = [
    ("scale-shape", other(AWQ, "weight_zeros", torch.ones(2, 2).half()), AWQ),
    ("scale-shape", other(SVD, "proj_down", torch.ones(4, 8)), SVD),
    ("scale-shape", other(SVD, "proj_up", torch.ones(4, 8)), PLAIN),
    ("scale-shape", other(TILES, "weight_scale", torch.ones(2, 2)), TILES),
    ("scale-shape", other(HYBRID, "weight_scale", torch.zeros(4, dtype=torch.uint8)), HYBRID),
    ("tensor-absent", without(HYBRID, "weight_scale"), HYBRID),
    ("codes-shape", other(HYBRID, "weight", torch.ones(192, 256).to(torch.int8)), HYBRID),
    ("scale-dtype", other(HYBRID, "weight_scale", torch.ones(256, 8)), HYBRID),
    ("int8-without-scale", without(AWQ, "weight_scale"), AWQ),
    ("int8-without-scale", without(TILES, "weight_scale"), TILES),
    ("scale-not-finite", other(AWQ, "weight_zeros", torch.full((4, 192), math.nan).half()), AWQ),
    ("scale-not-finite", other(SVD, "smooth_factor", torch.full((256,), math.inf)), SVD),
    (
        "scale-not-finite",
        other(HYBRID, "weight_scale", torch.full((256, 8), 255, dtype=torch.uint8)),
        HYBRID,
    ),
    ("codes-shape", other(SVD, "weight", torch.ones(2, 4, 16, 128).to(torch.int8)), SVD),
    ("codes-shape", other(SVD, "weight", torch.ones(256, 256).to(torch.float8_e4m3fn)), SVD),
    ("codes-shape", other(TILES, "weight", torch.ones(192, 256).to(torch.float8_e4m3fn)), TILES),
]
for _kind, _sick, _healthy in MORE:
    FAULTS.setdefault(_kind, []).append((_sick, _healthy))
