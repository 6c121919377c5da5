"""Contents in, what a mended file would store for each layer out: headers alone, nothing is read.

A mended file holds the same codes wherever a format for them exists; only where none does is a
layer dequantized or quantized again, and then it says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

from .format import Contents
from .layer import Layer
from .plan import Choice
from .problem import Problem
from .scheme_names import schemes
from .stored import all_codecs, held_by, home_of

CORE, OURS, LATER = "ComfyUI 0.33", "FuseQuant's loaders", "ComfyUI 0.38 and FuseQuant's loaders"
# who opens a scheme's format, by what the scheme says of core
OPENED_BY = {"yes": CORE, "no: our loader": OURS, "0.38 and later, and our loader": LATER}


@dataclass(frozen=True)
class Home:
    """Where the codes of a scheme can live: the format id and who opens it."""

    format_id: str
    opened_by: str


@cache
def homes() -> Mapping[str, Home]:
    """{scheme: Home} of every scheme that has a format of its own."""
    return MappingProxyType(
        {
            name: Home(scheme.format_id, OPENED_BY[scheme.core_reads])
            for name, scheme in schemes().items()
            if scheme.format_id is not None
        }
    )


@cache
def stored_forms() -> Mapping[str, Home]:
    """`homes`, and for each codec what it reads and who opens that as it lies in the file."""
    codecs = all_codecs().values()
    read = {codec.name: Home(codec.title, OPENED_BY[codec.core_reads]) for codec in codecs}
    return MappingProxyType({**homes(), **read})


BARE = {"fp8": "F8_E4M3", "fp8_e5m2": "F8_E5M2"}  # schemes that may lack a scale: their codes
# what a mended file still has
LASTING = frozenset(
    ("scale-zero", "scale-negative", "small-layer-quantized", "maybe-rotated", "not-finite")
)


@dataclass(frozen=True)
class Mended:
    """What becomes of one layer.

    `action`: `keep` (plain numbers), `respell` (the same codes in `format_id`, a scale of shape
    `scale_shape` beside them), `restate` (the same codes in another order, or one below the other),
    `dequantize` (to the layer's dtype) or `requantize` (to `scheme`).
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
        return all(mended.action in ("keep", "respell", "restate") for mended in self.layers)


def plain_codes(layer: Layer) -> Layer:
    """A layer whose float8 codes have no scale, as the plain float8 numbers that they also are."""
    part = layer.parts[0]
    dtype = BARE.get(layer.scheme)
    if dtype is None or len(layer.parts) > 1 or set(part.tensors) != {"weight"}:
        return layer
    return replace(layer, dtype=dtype, parts=(replace(part, scheme="none", settings={}),))


def mend_layer(layer: Layer) -> Mended:
    """What a mended file stores for one layer."""
    part = layer.parts[0]
    if layer.scheme == "none":
        return Mended(layer, "keep", "none", "plain numbers")
    if not layer.is_matrix:
        return Mended(layer, "dequantize", "none", "only matrices are stored as codes")
    scheme = held_by(layer)
    if scheme == "none":
        return _mend_numbers(layer)
    home, (n, k) = homes()[scheme], layer.shape
    if layer.is_whole and part.scheme == scheme:
        why = f"the same codes under {home.format_id}"
        shape = schemes()[scheme].pieces(n, k, layer.dtype)["scale"].shape
        return Mended(layer, "respell", scheme, why, home.format_id, shape, home.opened_by)
    source = "several stored weights" if part.scheme in schemes() else part.scheme
    why = f"the codes of {source} in the order of {home.format_id}"
    return Mended(layer, "restate", scheme, why, home.format_id, None, home.opened_by)


def _mend_numbers(layer: Layer) -> Mended:
    """What becomes of codes that no format holds as they are."""
    if any(part.scheme != layer.scheme for part in layer.parts):
        why = "its parts are stored in different schemes"
        return Mended(layer, "dequantize", "none", why)
    scheme = home_of(layer.parts[0])
    if scheme == "none":
        why = f"no format holds the codes of {layer.scheme}"
        return Mended(layer, "dequantize", "none", why)
    why = "it is put together from several stored weights"
    return Mended(layer, "requantize", scheme, why)


def mend(contents: Contents) -> Mend:
    """The decisions for every layer, from headers alone."""
    layers = tuple(mend_layer(layer) for layer in contents.layers)
    opened_by = {mended.opened_by for mended in layers}
    return Mend(
        layers,
        tuple(problem for problem in contents.problems if problem.kind in LASTING),
        next((who for who in (OURS, LATER) if who in opened_by), CORE),
    )
