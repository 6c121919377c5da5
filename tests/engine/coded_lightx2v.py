"""Weights as LightX2V's kernels lay them out, built number by number from the layout's formula."""

from __future__ import annotations

import torch

Coded = tuple[dict[str, torch.Tensor], dict[str, object], torch.Tensor]
N, K = 192, 512  # below 416 inputs the bytes of mxfp6 could be mxfp8 too
GRID = torch.arange(N * K).reshape(N, K)

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
E2M1 += [-number for number in E2M1]
# s eee mm with a bias of 3: three numbers below the normal ones, then 2^(eee - 3) * (1 + mm / 4)
E3M2 = [mantissa / 16 for mantissa in range(4)]
E3M2 += [
    2.0 ** (exponent - 3) * (1 + mantissa / 4) for exponent in range(1, 8) for mantissa in range(4)
]
E3M2 += [-number for number in E3M2]


def in_tiles(scales: torch.Tensor, filler: int = 0) -> torch.Tensor:
    """uint8 (rows, blocks) at [tile row, tile column, row % 32, row % 128 // 32, column % 4]."""
    rows, blocks = scales.shape
    down, across = -(-rows // 128), -(-blocks // 4)
    made = torch.full((down, across, 32, 4, 4), filler, dtype=torch.uint8)
    for row in range(rows):
        for block in range(blocks):
            at = (row // 128, block // 4, row % 32, row % 128 // 32, block % 4)
            made[at] = scales[row, block]
    return made.reshape(128 * down, 4 * across)


def two_a_byte(codes: torch.Tensor) -> torch.Tensor:
    """The even input in the low half."""
    return (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)


def four_in_three(codes: torch.Tensor) -> torch.Tensor:
    """a in the low six bits, then b, c and d."""
    a, b, c, d = (codes[:, at::4] for at in range(4))
    three = torch.stack((a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2), -1) & 255
    return three.reshape(codes.shape[0], -1).to(torch.uint8)


def powers(blocks: int, low: int, high: int) -> torch.Tensor:
    """Exponents of every size from low to high, a block of zeros among them."""
    made = (torch.arange(N * blocks) % (high - low + 1) + low).reshape(N, blocks)
    made[5, 1] = 0
    return made


def spread(scales: torch.Tensor, size: int) -> torch.Tensor:
    return scales.repeat_interleave(size, 1)


def power_of(exponents: torch.Tensor) -> torch.Tensor:
    return torch.where(exponents == 0, 0.0, 2.0 ** (exponents.double() - 127))


def nvfp4() -> Coded:
    codes = GRID * 7 % 16
    scales = (torch.arange(N * K // 16).reshape(N, -1) % 100 + 1).to(torch.float32) / 16
    stored = scales.to(torch.float8_e4m3fn)
    g = torch.tensor(37.25)
    values = torch.tensor(E2M1)[codes] * spread((1 / g) * stored.float(), 16)
    tensors = {
        "weight": two_a_byte(codes),
        "scale": in_tiles(stored.view(torch.uint8)).view(torch.float8_e4m3fn),
        "global_scale": g,
    }
    return tensors, {}, values


def nvfp4_calibrated() -> Coded:
    """alpha = 1 / (g * gi) and gi instead of g: the same weight."""
    tensors, _, _ = nvfp4()
    g, of_input = tensors.pop("global_scale"), torch.tensor(512.0)
    tensors |= {"alpha": 1 / (g * of_input), "input_scale": of_input}
    stored = nvfp4()[2] * (float(tensors["alpha"] * of_input) / float(1 / g))
    return tensors, {"input": "reciprocal"}, stored


def mxfp8() -> Coded:
    codes = (GRID * 5 % 120 + (GRID // 128 % 2) * 128).to(torch.uint8)
    exponents = powers(K // 32, 110, 130)
    codes[5, 32:64] = 0x7F  # NaN in a block of zeros, as the kernel leaves it
    numbers = codes.view(torch.float8_e4m3fn).double().nan_to_num(0.0)
    tensors = {"weight": codes, "scale": in_tiles(exponents.to(torch.uint8), filler=255)}
    return tensors, {}, numbers * spread(power_of(exponents), 32)


def mxfp6() -> Coded:
    codes, exponents = GRID * 11 % 64, powers(K // 32, 115, 127)
    numbers = torch.tensor(E3M2, dtype=torch.float64)[codes]
    tensors = {"weight": four_in_three(codes), "scale": in_tiles(exponents.to(torch.uint8))}
    return tensors, {}, numbers * spread(power_of(exponents), 32)


def mxfp4(low: int = 112, high: int = 129) -> Coded:
    codes, exponents = GRID * 3 % 16, powers(K // 32, low, high)
    numbers = torch.tensor(E2M1, dtype=torch.float64)[codes]
    tensors = {"weight": two_a_byte(codes), "scale": in_tiles(exponents.to(torch.uint8))}
    return tensors, {"exponents": [low, high]}, numbers * spread(power_of(exponents), 32)


LIGHTX2V: dict[str, Coded] = {
    "lightx2v_nvfp4": nvfp4(),
    "lightx2v_mxfp8": mxfp8(),
    "lightx2v_mxfp6": mxfp6(),
    "lightx2v_mxfp4": mxfp4(),
}
