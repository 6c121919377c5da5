"""The types of ggml, as GGUF files number them: a type's name in, the size of its blocks out.

A type that is a number as it is has a safetensors dtype. Any other is stored in blocks of
`elements` numbers in `size` bytes; `decoded`: a codec of this name reads it, else the `gguf`
package does where it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TYPE_MARK = "ggml_type:"  # of a source's metadata: the type of one tensor
SHAPE_MARK = "comfy.gguf.orig_shape."  # the shape of a tensor that was flattened to fit blocks
PACKAGE = "gguf"


@dataclass(frozen=True)
class GgmlType:
    """One type: its name, the numbers and the bytes of a block, its dtype where it has one."""

    name: str
    elements: int
    size: int
    dtype: str | None = None
    decoded: bool = False

    @property
    def codec(self) -> str:
        """The codec that reads its blocks."""
        return f"gguf_{self.name.lower()}" if self.decoded else "gguf_other"


def _plain(dtype: str, size: int) -> GgmlType:
    return GgmlType(dtype, 1, size, dtype)


def _blocks(name: str, elements: int, size: int) -> GgmlType:
    return GgmlType(name, elements, size, decoded=True)


TYPES: Mapping[int, GgmlType] = {
    0: _plain("F32", 4),
    1: _plain("F16", 2),
    2: _blocks("Q4_0", 32, 18),
    3: _blocks("Q4_1", 32, 20),
    6: _blocks("Q5_0", 32, 22),
    7: _blocks("Q5_1", 32, 24),
    8: _blocks("Q8_0", 32, 34),
    10: _blocks("Q2_K", 256, 84),
    11: _blocks("Q3_K", 256, 110),
    12: _blocks("Q4_K", 256, 144),
    13: _blocks("Q5_K", 256, 176),
    14: _blocks("Q6_K", 256, 210),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: _blocks("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: _blocks("IQ4_XS", 256, 136),
    24: _plain("I8", 1),
    25: _plain("I16", 2),
    26: _plain("I32", 4),
    27: _plain("I64", 8),
    28: _plain("F64", 8),
    29: GgmlType("IQ1_M", 256, 56),
    30: _plain("BF16", 2),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
}
BY_NAME: Mapping[str, GgmlType] = {kind.name: kind for kind in TYPES.values()}
