"""A weight in, e5m2 codes and one scale for all of it out: scale = max(amax / 57344, 1e-30)."""

from __future__ import annotations

from ..scheme import Scheme, Tensor
from ._fp8 import dequantize, linear, pieces_of, quantize_to
from ._whole import LARGEST

SCHEME = Scheme(
    name="fp8_e5m2",
    title="FP8 e5m2, one scale per tensor",
    bits=8,
    granularity=Tensor(),
    format_id="float8_e5m2",
    pieces=pieces_of("F8_E5M2"),
    quantize=quantize_to("float8_e5m2"),
    dequantize=dequantize,
    linear=linear,
    worst_error=0.06,
    row_axis={"weight": 0},
    survey=LARGEST,
    aliases={"float8-e5m2": None},
)
