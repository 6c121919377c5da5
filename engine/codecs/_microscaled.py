"""Bytes and tiled block scales of a run of rows in, the tensors that ComfyUI's ops take out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..tiling import ROWS, filled

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

# roles of a layer's input: how the stored number becomes the largest input over 2688
INPUT = "input"  # the setting that names one of these
INPUT_SCALES: Mapping[str, float] = {"reciprocal": 1.0, "absmax": 2688.0}


def scale_rows(tensors: Tensors, start: int, stop: int) -> torch.Tensor:
    """The whole tiles that hold the scales of rows [start, stop), as bytes; start begins one."""
    import torch

    return tensors["scale"].view(torch.uint8)[start : filled(stop, ROWS)]


def exponents(tensors: Tensors, start: int, stop: int, inputs: int) -> torch.Tensor:
    """uint8 (rows, inputs / 32): the exponents of rows [start, stop) out of their tiles."""
    from ...kernels.tiles import untiled

    return untiled(scale_rows(tensors, start, stop), stop - start, inputs // 32)


def times_power(values: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
    """float32 (rows, k) times 2^(e - 127) of its block of 32; exponent byte 0 gives 0, NaN or not.

    The tool leaves NaN in blocks of zeros, whose exponent is 0.
    """
    import torch

    from ...kernels import bits

    spread = bits.e8m0_to_float(powers).unsqueeze(-1)
    blocks = values.view(values.shape[0], powers.shape[1], 32)
    return torch.where(spread == 0, 0.0, blocks * spread).view(values.shape)


def mxfp8_pieces(codes: torch.Tensor, powers: torch.Tensor) -> dict[str, torch.Tensor]:
    """e4m3 codes and exponents by row and block -> the pieces of scheme mxfp8, filled up."""
    import torch
    from torch.nn import functional

    from ...kernels.tiles import tiled

    rows, k = codes.shape
    raw = codes.view(torch.uint8).view(rows, k // 32, 32)
    raw = torch.where(powers.unsqueeze(-1) == 0, 0, raw).view(rows, k)
    raw = functional.pad(raw, (0, 0, 0, -rows % 32))
    return {"weight": raw.view(torch.float8_e4m3fn), "scale": tiled(powers)}


def input_scale(tensors: Tensors, settings: Settings) -> dict[str, torch.Tensor]:
    """{"input_scale": amax of the input / 2688}, {} where the file says nothing of the input."""
    import torch

    if "input_scale" not in tensors:
        return {}
    stored = tensors["input_scale"].to(torch.float32).reshape(())
    how = str(settings[INPUT])
    found = 1.0 / stored if how == "reciprocal" else stored / INPUT_SCALES[how]
    return {"input_scale": found}
