"""Tiny checkpoints of ComfyUI's packed and block-scaled formats, with their numbers by formula."""

from __future__ import annotations

import torch

from .coded_lightx2v import E2M1, in_tiles, power_of, spread
from .dialects import BIAS, NAME, Tensors, marker

N, K = 192, 256
GRID = torch.arange(N * K).reshape(N, K)
# id: (tensors, scheme of the layer, its shape, its numbers)
Fixture = tuple[Tensors, str, tuple[int, int], torch.Tensor]


def layer(weight: torch.Tensor, config: dict[str, object], **beside: torch.Tensor) -> Tensors:
    """One marked layer with its bias."""
    found = {f"{NAME}.weight": weight, f"{NAME}.comfy_quant": marker(**config), **BIAS}
    return found | {f"{NAME}.{leaf}": tensor for leaf, tensor in beside.items()}


def rotated_back(weight: torch.Tensor, group: int) -> torch.Tensor:
    """w H, H = the regular Hadamard matrix of 4, as often as it takes, over sqrt(group)."""
    four = torch.tensor(
        [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64
    )
    whole = four
    while len(whole) < group:
        whole = torch.kron(whole, four)
    return (weight.double().reshape(-1, group) @ whole / group**0.5).reshape(weight.shape)


def high_half_first(codes: torch.Tensor) -> torch.Tensor:
    """The even input in the high half of a byte."""
    return (codes[:, 0::2] << 4 | codes[:, 1::2]).to(torch.uint8)


def low_half_first(codes: torch.Tensor) -> torch.Tensor:
    """The even input in the low half of a byte."""
    return (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8).view(torch.int8)


def nvfp4(dtype: torch.dtype = torch.uint8, **more: torch.Tensor) -> Fixture:
    codes = GRID * 7 % 16
    scales = (torch.arange(N * K // 16).reshape(N, -1) % 100 + 1).float() / 16
    stored, whole = scales.to(torch.float8_e4m3fn), torch.tensor(0.0371)
    values = torch.tensor(E2M1)[codes] * spread(whole * stored.float(), 16)
    tiles = in_tiles(stored.view(torch.uint8)).view(dtype)
    smooth = more.get("pre_quant_scale", torch.ones(K))
    return (
        layer(
            high_half_first(codes), {"format": "nvfp4"},
            weight_scale=tiles, weight_scale_2=whole, **more,
        ),
        "nvfp4", (N, K), values * smooth.float(),
    )  # fmt: skip


def filled(n: int, k: int, told: bool) -> Fixture:
    """(n, k) filled up to (192, 256); with `told` the JSON says so, else the bias does for n."""
    tensors, scheme, _, values = nvfp4()
    tensors = tensors | {f"{NAME}.bias": torch.arange(n).bfloat16()}
    if told:
        tensors[f"{NAME}.comfy_quant"] = marker(format="nvfp4", orig_shape=[n, k])
    shape = (n, k if told else K)
    return tensors, scheme, shape, values[:n, : shape[1]]


def mxfp8(dtype: torch.dtype = torch.uint8) -> Fixture:
    codes = (GRID * 5 % 120 + (GRID // 128 % 2) * 128).to(torch.uint8).view(torch.float8_e4m3fn)
    exponents = (torch.arange(N * K // 32) % 21 + 110).reshape(N, -1)
    exponents[5, 1] = 0
    values = codes.double() * spread(power_of(exponents), 32)
    tiles = in_tiles(exponents.to(torch.uint8)).view(dtype)
    return layer(codes, {"format": "mxfp8"}, weight_scale=tiles), "mxfp8", (N, K), values


def w4a4(**config: object) -> Fixture:
    codes = GRID * 3 % 15 - 7
    scale = torch.linspace(0.25, 2, N)
    size = int(str(config.get("convrot_groupsize", 256)))
    packed = low_half_first(codes & 15)
    return (
        layer(packed, {"format": "convrot_w4a4", **config}, weight_scale=scale),
        "w4a4_convrot", (N, K), rotated_back(codes * scale[:, None], size),
    )  # fmt: skip


def w4a8(levels: torch.Tensor | None, group: int = 16) -> Fixture:
    codes = GRID * 3 % 16
    scale = ((torch.arange(N * K // group) % 90 + 3).reshape(N, -1)).float().to(torch.float8_e4m3fn)
    channel = torch.linspace(0.01, 0.02, N)
    used = torch.arange(-8.0, 8.0) if levels is None else levels
    whole = (used[codes] * spread(scale.float(), group)).round().clamp(-127, 127)
    more = {} if levels is None else {"weight_codebook": levels}
    config = {"format": "asym_w4a8_int8", "group_size": group, "convrot_groupsize": 64}
    return (
        layer(
            low_half_first(codes), config, weight_s_rel=scale.view(torch.uint8),
            weight_s_channel=channel, **more,
        ),
        "w4a8", (N, K), rotated_back(whole * channel[:, None], 64),
    )  # fmt: skip


BLOCKS: dict[str, Fixture] = {
    "core-nvfp4": nvfp4(),
    "core-nvfp4-float8": nvfp4(torch.float8_e4m3fn, input_scale=torch.tensor(0.5)),
    "core-nvfp4-filled": filled(185, 250, told=True),
    "core-nvfp4-bias": filled(185, 250, told=False),
    "core-mxfp8": mxfp8(),
    "core-mxfp8-e8m0": mxfp8(torch.float8_e8m0fnu),
    "core-w4a4": w4a4(),
    "core-w4a4-64": w4a4(convrot_groupsize=64, linear_dtype="int8"),
    "core-w4a8": w4a8(torch.linspace(-0.98, 0.97, 16)),
    "core-w4a8-uniform": w4a8(None, group=8),
}
# what stock ComfyUI multiplies the input with is no part of the weight that it dequantizes
SMOOTHED = {"core-nvfp4-smooth": nvfp4(pre_quant_scale=torch.linspace(0.5, 2, K).bfloat16())}
