"""LightX2V's nvfp4, mxfp4, mxfp6 and mxfp8: bytes with block scales in tiles, no marker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import Refused
from ..format import Contents, Format
from ..layer import Layer, Part
from ..source import Source
from ..tensors import TensorSpec
from ..tiling import tiled
from ._foreign import FROM_ORIGINAL
from ._layers import SMALL_BYTES, Reading, quantized_names
from ._names import Module, has_marker, modules
from ._packed import E4M3, E8M0, NO_NUMBER, check_bytes, used_exponents
from ._rows import UNMARKED
from ._scales import check_numbers

SCALES = ("F8_E4M3", "F8_E8M0", "U8")
# what belongs to an nvfp4 layer beside its block scales: role, last name
GLOBAL, ALPHA = "weight_global_scale", "alpha"
INPUTS = {"input_absmax": "absmax", "input_global_scale": "reciprocal"}
NOT_TILED = "get the file that LightX2V's converter wrote, or convert the unquantized checkpoint"


@dataclass(frozen=True)
class Micro:
    """How a layer is stored: `inputs` = bytes of a row * 4 / `quarters`, a scale for a `block`."""

    codec: str
    quarters: int
    block: int
    scales: tuple[str, ...]

    def shape(self, weight: TensorSpec) -> tuple[int, int] | None:
        """(n, k), None where these bytes hold no whole blocks."""
        n, width = weight.shape
        k, rest = divmod(4 * width, self.quarters)
        return None if rest or not k or k % self.block else (n, k)

    def fits(self, weight: TensorSpec, scale: TensorSpec) -> bool:
        """The scale's dtype and shape are those of such a weight."""
        shape = self.shape(weight)
        if shape is None or scale.dtype not in self.scales:
            return False
        return scale.shape == tiled(shape[0], shape[1] // self.block)


NVFP4 = Micro("lightx2v_nvfp4", 2, 16, E4M3)
POWERS = (
    Micro("lightx2v_mxfp8", 4, 32, E8M0),
    Micro("lightx2v_mxfp6", 3, 32, E8M0),
    Micro("lightx2v_mxfp4", 2, 32, E8M0),
)


def is_bytes(module: Module) -> bool:
    """A uint8 matrix called weight whose `weight_scale` holds numbers of one byte."""
    weight, scale = module.get("weight"), module.get("weight_scale")
    if weight is None or scale is None:
        return False
    return _is_matrix_of_bytes(weight) and scale.dtype in SCALES


def _is_matrix_of_bytes(weight: TensorSpec) -> bool:
    return weight.dtype == "U8" and len(weight.shape) == 2


def detect(source: Source) -> bool:
    """Such a layer, and no marker of ComfyUI."""
    return not has_marker(source) and any(map(is_bytes, modules(source).values()))


def micro_of(found: Mapping[str, Module]) -> Mapping[str, Micro]:
    """{module: how it is stored}; a file's layers without a global scale are all of one kind."""
    made, plain = {}, {}
    for name, module in found.items():
        if GLOBAL in module or (ALPHA in module and "input_global_scale" in module):
            made[name] = NVFP4
        else:
            plain[name] = module
    kinds = [
        kind for kind in POWERS
        if all(kind.fits(module["weight"], module["weight_scale"]) for module in plain.values())
    ]  # fmt: skip
    if plain and len(kinds) != 1:
        name, module = next(iter(plain.items()))
        scale = module["weight_scale"]
        raise Refused(
            "format-microscaled",
            found=f"bytes {list(module['weight'].shape)} with {scale.dtype} scales "
            f"{list(scale.shape)} and no {GLOBAL}",
            expected="LightX2V's nvfp4, mxfp4, mxfp6 or mxfp8, scales in tiles of 128 x 4",
            fix=NOT_TILED if "weight_scale_2" in module else FROM_ORIGINAL,
            layer=name,
        )
    return made | dict.fromkeys(plain, kinds[0])


def layer(reading: Reading, name: str, micro: Micro) -> None:
    """List one layer, with what is wrong with its scales."""
    module = reading.modules[name]
    weight, scale = module["weight"], module["weight_scale"]
    shape = micro.shape(weight)
    if shape is None:
        reading.tell("codes-shape", f"U8 {list(weight.shape)} as {micro.codec}", name)
        return
    n, k = shape
    if not micro.fits(weight, scale):
        found = f"weight_scale {scale.dtype} {list(scale.shape)}"
        expected = list(tiled(n, k // micro.block))
        reading.tell("scale-shape", f"{found} where {expected} in tiles fits", name)
        return
    check_bytes(reading, name, scale, NO_NUMBER[micro.scales], n, k // micro.block)
    tensors, settings = {"weight": weight.name, "scale": scale.name}, dict[str, object]()
    if micro is NVFP4:
        tensors |= _beside(reading, name, module, settings)
    elif micro.codec == "lightx2v_mxfp4":
        settings["exponents"] = used_exponents(reading.source, scale)
    if weight.size_bytes <= SMALL_BYTES:
        reading.tell("small-layer-quantized", f"{weight.size_bytes} bytes", name)
    reading.tell("scale-without-marker", f"{micro.codec} {list(scale.shape)}", name)
    part = Part(micro.codec, tensors, settings, view=(n, k))
    reading.add(Layer(weight.name, (n, k), reading.dtype, (part,)))


def _beside(
    reading: Reading, name: str, module: Module, settings: dict[str, object]
) -> dict[str, str]:
    """{role: tensor} of the numbers for the whole weight and for its input."""
    tensors = {
        role: module[key].name
        for role, key in {"global_scale": GLOBAL, "alpha": ALPHA}.items()
        if key in module
    }
    for key, how in INPUTS.items():
        if key in module and (how == "reciprocal" or GLOBAL in module):
            tensors["input_scale"], settings["input"] = module[key].name, how
            break
    for role in tensors:
        spec = reading.source.tensors[tensors[role]]
        if spec.elements != 1:
            reading.tell("scale-shape", f"{spec.name} {list(spec.shape)} where one fits", name)
        else:
            reading.problems += check_numbers(reading.source, spec, name)
    return tensors


def split(source: Source) -> Contents:
    """Layers of bytes by their scales, other codes by theirs, the rest as it is."""
    reading = Reading(source)
    found = {name: module for name, module in reading.modules.items() if is_bytes(module)}
    for name, micro in micro_of(found).items():
        layer(reading, name, micro)
    for name, module in reading.modules.items():
        weight = module.get("weight")
        if name not in found and weight is not None and _is_matrix_of_bytes(weight):
            reading.tell("tensor-absent", f"U8 {list(weight.shape)} without scales", name)
    for name in quantized_names(reading):
        reading.codes(name, UNMARKED)
    return reading.contents("microscaled")


FORMAT = Format("microscaled", "LightX2V nvfp4 or mx checkpoint", detect, split)
