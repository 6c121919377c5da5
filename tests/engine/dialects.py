"""Tiny checkpoints of every dialect that is read, as its tool writes them, with their numbers."""

from __future__ import annotations

import json

import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
Tensors = dict[str, torch.Tensor]
BIAS = {"block.0.proj.bias": torch.arange(192).to(torch.bfloat16)}
NAME = "block.0.proj"
WEIGHT = torch.linspace(-3, 3, 192 * 256).reshape(192, 256).sin()


def marker(**config: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def fp8(shape: tuple[int, ...] = (192, 256)) -> torch.Tensor:
    return WEIGHT[: shape[0], : shape[1]].contiguous().to(E4M3)


def int8(shape: tuple[int, ...] = (192, 256)) -> torch.Tensor:
    return (WEIGHT[: shape[0], : shape[1]] * 127).round().to(torch.int8).contiguous()


def rows(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(0.25, 2, 192).reshape(192, 1).to(dtype)


def blocks() -> torch.Tensor:
    return torch.tensor([[0.5, 1.0], [2.0, 4.0]])


def spread(scale: torch.Tensor, n: int = 192, k: int = 256) -> torch.Tensor:
    return scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]


def int4() -> tuple[Tensors, torch.Tensor]:
    """Packed codes, low nibble first, and (q - 8) * s."""
    codes = torch.arange(192 * 256).reshape(192, 256) % 16
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
    scale = torch.linspace(0.5, 2, 2 * 192).reshape(2, 192).to(torch.bfloat16)
    value = (codes - 8) * scale.float().t().repeat_interleave(128, 1)
    stored = {f"{NAME}.weight": packed, f"{NAME}.weight_scale": scale}
    return stored | {f"{NAME}.weight_zeros": torch.zeros(2, 192, dtype=torch.bfloat16)}, value


def layer(weight: torch.Tensor, prefix: str = "", **beside: torch.Tensor) -> Tensors:
    """The tensors of one quantized layer with its bias, under any prefix."""
    found = {f"{NAME}.weight": weight, **BIAS}
    found |= {f"{NAME}.{leaf}": tensor for leaf, tensor in beside.items()}
    return {prefix + name: tensor for name, tensor in found.items()}


def core(weight: torch.Tensor, scale: torch.Tensor, **config: object) -> Tensors:
    return layer(weight, weight_scale=scale, comfy_quant=marker(**config))


TENSOR = torch.tensor(0.5)
ONES, ZEROS2 = torch.ones(()), torch.zeros(2).to(E4M3)
ROTATED = {"convrot": True, "convrot_groupsize": 256}
SIXTEEN = {"block.0.proj.weight": WEIGHT.to(torch.bfloat16), "norm.weight": torch.ones(8)}

# id: (tensors, dialect, scheme of the layer, its numbers; None where a rotation stands before them)
Fixture = tuple[Tensors, str, str, torch.Tensor | None]
READ: dict[str, Fixture] = {
    "bf16": (SIXTEEN, "plain", "none", WEIGHT.to(torch.bfloat16)),
    "fp16": ({f"{NAME}.weight": WEIGHT.half(), **BIAS}, "plain", "none", WEIGHT.half()),
    "ids": (
        {f"{NAME}.weight": WEIGHT, "position_ids": torch.arange(7)[None]}, "plain", "none", WEIGHT
    ),
    "bare-e4m3": (layer(fp8()), "plain_fp8", "fp8", fp8()),
    "bare-e5m2": (layer(WEIGHT.to(E5M2)), "plain_fp8", "fp8_e5m2", WEIGHT.to(E5M2)),
    "core-fp8": (core(fp8(), TENSOR, format="float8_e4m3fn"), "core", "fp8", fp8().float() / 2),
    "core-e5m2": (
        core(WEIGHT.to(E5M2), TENSOR, format="float8_e5m2"),
        "core",
        "fp8_e5m2",
        WEIGHT.to(E5M2).float() / 2,
    ),
    "core-int8": (
        core(int8(), rows(), format="int8_tensorwise"), "core", "int8", int8() * rows()
    ),
    "core-int8-scalar": (
        core(int8(), TENSOR, format="int8_tensorwise"), "core", "int8", int8() * 0.5
    ),
    "core-weight-only": (
        core(int8(), rows(), format="int8_tensorwise", full_precision_matrix_mult=True),
        "core",
        "int8_weight_only",
        int8() * rows(),
    ),
    "core-convrot": (
        core(int8(), rows(), format="int8_tensorwise", **ROTATED), "core", "int8_convrot", None
    ),
    "core-convrot-nested": (
        core(int8(), rows(), format="int8_tensorwise", params=ROTATED), "core", "int8_convrot", None
    ),
    "core-rows": (
        core(fp8(), rows().flatten(), format="float8_e4m3fn_rowwise"),
        "core",
        "fp8_row",
        fp8().float() * rows(),
    ),
    "core-blocks": (
        core(fp8(), blocks(), format="float8_e4m3fn_blockwise", group_size=128),
        "core",
        "fp8_block128",
        fp8().float() * spread(blocks()),
    ),
    "core-int4": (
        int4()[0] | {f"{NAME}.comfy_quant": marker(format="awq_w4a16", group_size=128), **BIAS},
        "core",
        "int4_g128",
        int4()[1],
    ),
    "convert_to_quant-per-row": (
        core(int8(), rows(), format="int8_tensorwise", per_row=True),
        "core",
        "int8",
        int8() * rows(),
    ),
    "scaled_fp8": (
        layer(fp8(), scale_weight=TENSOR, scale_input=ONES)
        | {"scaled_fp8": torch.zeros(0).to(E4M3)},
        "scaled_fp8",
        "fp8",
        fp8().float() / 2,
    ),
    "scaled_fp8-nested": (
        layer(fp8(), "text_encoders.t5.", scale_weight=TENSOR)
        | {"text_encoders.t5.scaled_fp8": torch.zeros(0), "vae.weight": torch.ones(3)},
        "scaled_fp8",
        "fp8",
        fp8().float() / 2,
    ),
    "scaled_fp8-e5m2": (
        layer(WEIGHT.to(E5M2), scale_weight=TENSOR) | {"scaled_fp8": torch.zeros(2).to(E5M2)},
        "scaled_fp8",
        "fp8_e5m2",
        WEIGHT.to(E5M2).float() / 2,
    ),
    "lightx2v-comfy-fp8": (
        layer(fp8(), scale_weight=TENSOR.bfloat16()) | {"scaled_fp8": ZEROS2},
        "scaled_fp8",
        "fp8",
        fp8().float() / 2,
    ),
    "lightx2v-comfy-int8": (
        layer(int8(), scale_weight=TENSOR) | {"scaled_fp8": ZEROS2},
        "lightx2v_comfy",
        "int8",
        int8() * 0.5,
    ),
    "lightx2v-int8": (layer(int8(), weight_scale=rows()), "lightx2v", "int8", int8() * rows()),
    "lightx2v-fp8-bf16-scale": (
        layer(fp8(), weight_scale=rows(torch.bfloat16)),
        "lightx2v",
        "fp8_row",
        fp8().float() * rows(torch.bfloat16).float(),
    ),
    "lightx2v-per-tensor": (
        layer(fp8(), weight_scale=TENSOR.reshape(1), input_scale=ONES),
        "lightx2v",
        "fp8",
        fp8().float() / 2,
    ),
    "blocks": (
        layer(fp8(), weight_scale=blocks()),
        "fp8_block128",
        "fp8_block128",
        fp8().float() * spread(blocks()),
    ),
    "deepseek": (
        layer(fp8(), weight_scale_inv=blocks()),
        "fp8_block128",
        "fp8_block128",
        fp8().float() * spread(blocks()),
    ),
    "comfy-quants-cli": (
        core(int8(), rows(), convrot=False, convrot_groupsize=256, per_row=True),
        "int8_unnamed",
        "int8",
        int8() * rows(),
    ),
    "comfy-quants-cli-rotated": (
        core(int8(), rows(), per_row=True, **ROTATED), "int8_unnamed", "int8_convrot", None
    ),
    "int8-fast-older": (
        core(int8(), TENSOR, convrot=False, per_row=False), "int8_unnamed", "int8", int8() * 0.5
    ),
    "int8-fast-saved": (
        layer(int8(), "model.diffusion_model.", weight_scale=rows()),
        "int8_saved",
        "int8",
        int8() * rows(),
    ),
}  # fmt: skip
