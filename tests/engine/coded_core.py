"""Stored weights for the codecs under ComfyUI's markers, each made from its definition."""

from __future__ import annotations

import torch

Coded = tuple[dict[str, torch.Tensor], dict[str, object], torch.Tensor]
N, K, RANK, SHIFT = 256, 256, 8, 0.171875
GRID = torch.arange(N * K).reshape(N, K)


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes a byte, the even column low."""
    low, high = codes[:, 0::2] & 15, codes[:, 1::2] & 15
    return (low | high << 4).to(torch.uint8).view(torch.int8)


def awq(group: int, dtype: torch.dtype = torch.bfloat16, n: int = 192) -> Coded:
    """Codes of every value, scales and zeros that differ in every group."""
    codes, groups = (GRID[:n] * 7 + GRID[:n] // 13) % 16, K // group
    scale = torch.linspace(0.5, 2, groups * n).reshape(groups, n).to(dtype)
    zeros = torch.linspace(-3, 3, groups * n).reshape(groups, n).to(dtype)
    spread = [x.float().t().repeat_interleave(group, 1) for x in (scale, zeros)]
    tensors = {"weight": packed(codes), "scale": scale, "zeros": zeros}
    settings = {"group_size": group, "halves": dtype != torch.float32}
    return tensors, settings, (codes - 8) * spread[0] + spread[1]


def swizzled(scale: torch.Tensor) -> torch.Tensor:
    """Scales (rows to 128, columns to 4) where tensor cores look for them, one by one."""
    rows, columns = -(-scale.shape[0] // 128) * 128, -(-scale.shape[1] // 4) * 4
    found = torch.zeros(rows * columns, dtype=scale.dtype)
    for r in range(scale.shape[0]):
        for c in range(scale.shape[1]):
            tile = (r // 128) * (columns // 4) + c // 4
            found[512 * tile + 16 * (r % 32) + 4 * (r % 128 // 32) + c % 4] = scale[r, c]
    return found.reshape(rows, columns)


def mxfp8(n: int = 192, k: int = 250) -> Coded:
    """e4m3 codes padded to 32, exponents from 2^-7 to 2^8."""
    rows, columns = -(-n // 32) * 32, -(-k // 32) * 32
    values = (torch.arange(rows * columns).reshape(rows, columns) * 0.37).sin() * 400
    codes = values.to(torch.float8_e4m3fn)
    exponents = torch.arange(rows * columns // 32).reshape(rows, -1) % 16 + 120
    powers = torch.exp2(exponents.float() - 127).repeat_interleave(32, 1)
    tensors = {"weight": codes, "scale": swizzled(exponents.to(torch.uint8))}
    return tensors, {"columns": k}, (codes.float() * powers)[:n, :k]


def _svdquant_parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes, scale, smooth), whose products and sums float32 holds without rounding."""
    codes = GRID * 5 % 16 - 8
    scale = (torch.arange(K // 64 * N).reshape(K // 64, N) % 29 + 1) / 16
    smooth = torch.exp2(torch.arange(K) % 4 - 1.0)
    return codes, scale.to(torch.bfloat16), smooth.to(torch.bfloat16)


def svdquant(tiled: bool, smoothed_branch: bool = False) -> Coded:
    """4-bit codes with a scale for each 64 inputs, a smoothing factor and a low-rank branch."""
    codes, scale, smooth = _svdquant_parts()
    down = ((torch.arange(K * RANK).reshape(K, RANK) % 7 - 3) / 8).to(torch.bfloat16)
    up = ((torch.arange(N * RANK).reshape(N, RANK) % 5 - 2) / 4).to(torch.bfloat16)
    plain = codes * scale.float().t().repeat_interleave(64, 1)
    branch = up.float() @ down.float().t()
    weight = plain / smooth.float() + branch
    if smoothed_branch:
        weight = (plain + branch) / smooth.float()
    tensors = {"weight": packed(codes), "scale": scale, "smooth": smooth, "down": down, "up": up}
    if tiled:
        tiles = tensors["weight"].view(N // 128, 32, 4, K // 64, 32).permute(0, 3, 1, 2, 4)
        tensors["weight"] = tiles.reshape(N // 128, K // 64, 32, 128).contiguous()
        tensors["scale"] = scale.view(K // 64, N // 128, 128).transpose(0, 1).contiguous()
        tensors["up"] = up.view(N // 128, 128, RANK).transpose(1, 2).contiguous()
    return tensors, {"smoothed_branch": smoothed_branch}, weight


def svdquant_bias() -> Coded:
    """bias + shift * sum over the inputs of q s / smooth."""
    stored, _, _ = svdquant(tiled=True)
    codes, scale, smooth = _svdquant_parts()
    total = (codes * scale.float().t().repeat_interleave(64, 1) / smooth.float()).sum(1)
    bias = (torch.arange(N) % 9 - 4).to(torch.bfloat16)
    tensors = {"weight": bias, "codes": stored["weight"]}
    tensors |= {role: stored[role] for role in ("scale", "smooth")}
    return tensors, {}, (bias.float() + SHIFT * total).unsqueeze(1)


CODED: dict[str, Coded] = {
    "awq_w4a16": awq(256),
    "svdquant_w4a4": svdquant(tiled=True),
    "svdquant_bias": svdquant_bias(),
}
