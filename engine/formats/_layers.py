"""A source in, its layers out: what all dialects of 8-bit codes have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..format import Contents
from ..layer import Layer, Part
from ..problem import Problem
from ..problem_kinds import tell
from ..source import Source
from ..tensors import FP8, TensorSpec
from ._names import (
    COMPANIONS,
    INPUT_SCALES,
    MARKERS,
    SCALES,
    Module,
    float_dtype,
    is_quantized,
    leaf,
    modules,
)
from ._scales import check_numbers, fit, same_numbers

SMALL_BYTES = 16 * 1024
TOLD_ONE_BY_ONE = 8
ROWS = ("row", "row-flat", "row-transposed")

# (dtype of the codes, spread of the scale): scheme
SCHEMES = {
    ("F8_E4M3", "tensor"): "fp8",
    ("F8_E4M3", "row"): "fp8_row",
    ("F8_E4M3", "block128"): "fp8_block128",
    ("F8_E5M2", "tensor"): "fp8_e5m2",
    ("I8", "tensor"): "int8",
    ("I8", "row"): "int8",
}
BARE = {"F8_E4M3": "fp8", "F8_E5M2": "fp8_e5m2", "I8": "int8"}


@dataclass(frozen=True)
class Claim:
    """What the file says of a layer's codes, apart from the codes themselves.

    `spreads`: the scale shapes that its marker stands for (empty: it says nothing of them);
    `wrong_dtype`: {dtype of the codes: problem}; `without_scale`, `unmarked`: problem or None;
    `scheme` and `settings` override and complete what the codes and their scale tell.
    """

    spreads: tuple[str, ...] = ()
    wrong_dtype: dict[str, str] = field(default_factory=dict)
    without_scale: str | None = None
    unmarked: str | None = None
    float32_scales: bool = False
    settings: dict[str, object] = field(default_factory=dict)
    scheme: str | None = None


class Reading:
    """The layers of one source as they are found; `contents` gives the rest and closes the list."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.modules = modules(source)
        self.dtype = float_dtype(source.tensors.values())
        self.layers: dict[str, Layer] = {}
        self.problems: list[Problem] = []
        self.used: set[str] = set()

    def tell(self, kind: str, found: str, layer: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(tell(kind, found, layer))

    def add(self, layer: Layer) -> None:
        """List a layer and its tensors as read."""
        self.layers[layer.key] = layer
        self.used.update(name for part in layer.parts for name in part.tensors.values())

    def scale(self, name: str, module: Module) -> TensorSpec | None:
        """The one scale of a module; a second one must say the same."""
        present = [module[key] for key in SCALES if key in module]
        self.used.update(spec.name for spec in present)
        for other in present[1:]:
            kind = (
                "scale-twice" if same_numbers(self.source, present[0], other) else "scales-differ"
            )
            self.tell(kind, f"{leaf(present[0].name)} and {leaf(other.name)}", name)
        for spec in present:
            self.problems += check_numbers(self.source, spec, name)
        return present[0] if present else None

    def codes(self, name: str, claim: Claim) -> None:
        """List the module's quantized weight by its dtype and the shape of its scale."""
        module = self.modules[name]
        weight, scale = module["weight"], self.scale(name, module)
        if weight.dtype in claim.wrong_dtype:
            self.tell(claim.wrong_dtype[weight.dtype], f"{weight.dtype} codes", name)
        if len(weight.shape) == 2 and weight.size_bytes <= SMALL_BYTES:
            self.tell("small-layer-quantized", f"{weight.size_bytes} bytes", name)
        tensors = {"weight": weight.name}
        if scale is None:
            scheme = self._bare(name, weight, claim)
        else:
            scheme = self._scaled(name, weight, scale, claim)
            tensors["scale"] = scale.name
        tensors |= self.input_scale(name, module)
        settings = dict(claim.settings)
        if scheme == "fp8_block128":
            settings["group_size"] = 128
        part = Part(claim.scheme or scheme, tensors, settings)
        self.add(Layer(weight.name, weight.shape, self.dtype, (part,)))

    def input_scale(self, name: str, module: Module) -> dict[str, str]:
        """The static scale of the layer's input, where there is one."""
        for key in INPUT_SCALES:
            if key in module:
                self.problems += check_numbers(self.source, module[key], name)
                return {"input_scale": module[key].name}
        return {}

    def _bare(self, name: str, weight: TensorSpec, claim: Claim) -> str:
        """The scheme of codes that have no scale."""
        if weight.dtype == "I8":
            self.tell("int8-without-scale", f"int8 codes of shape {list(weight.shape)} alone", name)
        elif claim.without_scale:
            self.tell(claim.without_scale, "float8 codes alone", name)
        return BARE[weight.dtype]

    def _scaled(self, name: str, weight: TensorSpec, scale: TensorSpec, claim: Claim) -> str:
        """The scheme of codes by the spread of their scale."""
        spread = fit(weight, scale)
        found = f"{leaf(scale.name)} {list(scale.shape)} for a weight {list(weight.shape)}"
        kind = {
            "column": "scale-per-column",
            "unfit": "scale-shape",
            "row-transposed": "scale-transposed",
        }.get(spread)
        scheme = SCHEMES.get((weight.dtype, "row" if spread in ROWS else spread))
        if kind is None and scheme is None:
            kind = "e5m2-row-scale" if spread in ROWS else "block-size"
        if kind is None and claim.spreads and spread not in claim.spreads:
            flat = spread == "row-flat" and "row" in claim.spreads
            kind = "scale-one-dimension" if flat else "scale-of-other-format"
        if kind:
            self.tell(kind, found, name)
        if scale.dtype == "F8_E8M0":
            self.tell("scale-e8m0", f"{leaf(scale.name)} of dtype F8_E8M0", name)
        elif claim.float32_scales and scale.dtype != "F32":
            self.tell("scale-not-float32", f"{leaf(scale.name)} of dtype {scale.dtype}", name)
        if claim.unmarked:
            self.tell(claim.unmarked, f"{leaf(scale.name)} {list(scale.shape)} alone", name)
        return scheme or BARE[weight.dtype]

    def plain(self, spec: TensorSpec) -> None:
        """List a tensor as it is; a matrix of float8 codes is a quantized one with scale 1."""
        layer = Layer(spec.name, spec.shape, spec.dtype, (Part("none", {"weight": spec.name}),))
        if spec.dtype in FP8 and layer.is_matrix:
            part = Part(BARE[spec.dtype], {"weight": spec.name})
            layer = Layer(spec.name, spec.shape, self.dtype, (part,))
        self.add(layer)

    def contents(self, format_name: str) -> Contents:
        """What is left is plain, a marker, or a scale without a weight; then the whole."""
        ignored = list(self.used)  # what no layer reads
        for name, spec in self.source.tensors.items():
            if name in self.used:
                continue
            last = leaf(name)
            if last in MARKERS:
                ignored.append(name)
            elif last in COMPANIONS:
                ignored.append(name)
                self.tell("orphan-scale", f"{name} without a quantized weight", name)
            else:
                self.plain(spec)
        read = {name for layer in self.layers.values() for name in _tensors(layer)}
        order = {name: at for at, name in enumerate(self.source.tensors)}
        layers = sorted(self.layers.values(), key=lambda x: order[x.parts[0].tensors["weight"]])
        return Contents(
            format_name,
            tuple(layers),
            gathered(self.problems),
            tuple(sorted(name for name in set(ignored) if name not in read)),
        )


def _tensors(layer: Layer) -> Iterable[str]:
    """The names of all tensors of a layer."""
    return (name for part in layer.parts for name in part.tensors.values())


def gathered(problems: list[Problem]) -> tuple[Problem, ...]:
    """One problem instead of many where more than a few layers have the same one."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    told: list[Problem] = []
    for kind, same in kinds.items():
        if len(same) <= TOLD_ONE_BY_ONE:
            told += same
            continue
        first = same[0]
        found = f"{first.found}, and the same in {len(same) - 1} other layers"
        told.append(tell(kind, found, first.layer))
    return tuple(told)


def quantized_names(reading: Reading) -> list[str]:
    """Modules whose weight holds 8-bit codes."""
    return [
        name
        for name, module in reading.modules.items()
        if "weight" in module and is_quantized(module["weight"])
    ]
