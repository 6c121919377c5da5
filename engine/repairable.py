"""Contents in, what a mended file would store for each layer out: headers alone, nothing is read.

A mended file holds the same codes wherever a format for them exists; only where none does is a
layer dequantized or quantized again, and then it says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .format import Contents
from .layer import Layer, Part
from .plan import Choice
from .problem import Problem

CORE, OURS, LATER = "ComfyUI 0.33", "FuseQuant's loaders", "ComfyUI 0.38 and FuseQuant's loaders"


@dataclass(frozen=True)
class Home:
    """Where the codes of a scheme can live: the format id, who opens it, its scale for (n, k)."""

    format_id: str
    opened_by: str
    scale: str  # "tensor", "row-flat", "row", "block128" or "group128"


HOMES: Mapping[str, Home] = {
    "fp8": Home("float8_e4m3fn", CORE, "tensor"),
    "fp8_e5m2": Home("float8_e5m2", CORE, "tensor"),
    "fp8_row": Home("float8_e4m3fn_rowwise", OURS, "row-flat"),
    "fp8_block128": Home("float8_e4m3fn_blockwise", OURS, "block128"),
    "int8": Home("int8_tensorwise", CORE, "row"),
    "int8_convrot": Home("int8_tensorwise", CORE, "row"),
    "int8_weight_only": Home("int8_tensorwise", CORE, "row"),
    "int4_g128": Home("awq_w4a16", LATER, "group128"),
}
# what a mended file no longer has, whatever the layer
LASTING = frozenset(
    ("scale-zero", "scale-negative", "small-layer-quantized", "maybe-rotated", "not-finite")
)


@dataclass(frozen=True)
class Mended:
    """What becomes of one layer.

    `action`: `keep` (plain numbers), `respell` (the same codes in `format_id`, scales as float32
    of shape `scale_shape`), `dequantize` (to the layer's dtype) or `requantize` (to `scheme`).
    """

    layer: Layer
    action: str
    scheme: str
    why: str
    format_id: str | None = None
    scale_shape: tuple[int, ...] | None = None
    opened_by: str = CORE

    @property
    def choice(self) -> Choice:
        """The same decision as a plan states it."""
        return Choice(self.layer, self.scheme, self.layer.dtype, self.why)


@dataclass(frozen=True)
class Mend:
    """The decisions for a file, the problems that no respelling mends, and who opens the result."""

    layers: tuple[Mended, ...]
    left: tuple[Problem, ...]
    opened_by: str

    @property
    def exact(self) -> bool:
        """Every number of the mended file is the number of the source."""
        return all(mended.action in ("keep", "respell") for mended in self.layers)


def scale_shape(spread: str, n: int, k: int) -> tuple[int, ...]:
    """The shape of a float32 scale of a weight (n, k) as the format has it on disk."""
    return {
        "tensor": (),
        "row-flat": (n,),
        "row": (n, 1),
        "block128": (-(-n // 128), -(-k // 128)),
        "group128": (k // 128, n),
    }[spread]


def mend_layer(layer: Layer) -> Mended:
    """What a mended file stores for one layer."""
    part = layer.parts[0]
    if layer.scheme == "none":
        return Mended(layer, "keep", "none", "plain numbers")
    if not layer.is_matrix:
        return Mended(layer, "dequantize", "none", "only matrices are stored as codes")
    if any(other.scheme != part.scheme for other in layer.parts):
        return Mended(layer, "dequantize", "none", "its parts are stored in different schemes")
    if len(layer.parts) > 1 or part.rows is not None:
        why = "it is put together from several stored weights"
        return Mended(layer, "requantize", layer.scheme, why)
    home = HOMES[layer.scheme]
    n, k = layer.shape
    return Mended(
        layer,
        "respell",
        layer.scheme,
        f"the same codes under {home.format_id}",
        home.format_id,
        scale_shape(home.scale, n, k),
        home.opened_by,
    )


def mend(contents: Contents) -> Mend:
    """The decisions for every layer, from headers alone."""
    layers = tuple(mend_layer(layer) for layer in contents.layers)
    homes = {mended.opened_by for mended in layers}
    return Mend(
        layers,
        tuple(problem for problem in contents.problems if problem.kind in LASTING),
        next((home for home in (OURS, LATER) if home in homes), CORE),
    )


def as_rotated(contents: Contents, group: int = 256) -> Contents:
    """The same contents with int8 rows taken as Hadamard-rotated in groups of `group` inputs.

    For files that do not say so (`maybe-rotated`); layers whose inputs do not divide stay.
    """

    def rotated(layer: Layer) -> Layer:
        part = layer.parts[0]
        if layer.scheme != "int8" or len(layer.shape) != 2 or layer.shape[1] % group:
            return layer
        settings = {**part.settings, "convrot_groupsize": group}
        return replace(layer, parts=(Part("int8_convrot", part.tensors, settings, part.rows),))

    kept = tuple(problem for problem in contents.problems if problem.kind != "maybe-rotated")
    return replace(contents, layers=tuple(map(rotated, contents.layers)), problems=kept)
