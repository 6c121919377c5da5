"""A weight in, e4m3 codes and one scale for all of it out: scale = max(amax / 448, 1e-30)."""

from __future__ import annotations

from ..scheme import Scheme, Tensor
from ._fp8 import dequantize, linear, pieces_of, quantize_to
from ._whole import LARGEST

SCHEME = Scheme(
    name="fp8",
    title="FP8 e4m3, one scale per tensor",
    bits=8,
    granularity=Tensor(),
    format_id="float8_e4m3fn",
    pieces=pieces_of("F8_E4M3"),
    quantize=quantize_to("float8_e4m3fn"),
    dequantize=dequantize,
    linear=linear,
    worst_error=0.03,
    row_axis={"weight": 0},
    survey=LARGEST,
    aliases={"fp8-scaled": None, "diffsynth-fp8": None, "fp8-e4m3": None, "float8-e4m3fn": None},
)
