"""Marked layers of ComfyUI's packed and block-scaled formats in, their logical layers out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..bits import not_finite
from ..layer import Layer, Part
from ..source import Source
from ..tensors import TensorSpec
from ..tiling import cell, filled, tiled
from ._layers import SMALL_BYTES, Reading
from ._markers import Marker
from ._names import Module, leaf
from ._scales import check_numbers

FLOATS = ("F32", "BF16", "F16")
E4M3, E8M0 = ("F8_E4M3", "U8"), ("F8_E8M0", "U8")
NO_NUMBER: dict[tuple[str, ...], tuple[int, ...]] = {
    E4M3: (0x7F, 0xFF),
    E8M0: (0xFF,),
}  # bytes that stand for NaN
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Beside:
    """A tensor beside the codes: its last name, dtypes, and its shape for (n, k, group size).

    `block`: one number for so many inputs, in tiles; None: not in tiles. `scale`: its numbers
    should be above zero, too.
    """

    leaf: str
    dtypes: tuple[str, ...]
    shape: Callable[[int, int, int], Shape]
    optional: bool = False
    scale: bool = True
    block: int | None = None


def _tiles(block: int, dtypes: tuple[str, ...]) -> Beside:
    """Block scales of one byte each, in tiles."""
    return Beside("weight_scale", dtypes, lambda n, k, g: tiled(n, k // block), block=block)


@dataclass(frozen=True)
class Packed:
    """A format: `per_byte` codes of these dtypes a byte, sides filled up to a `multiple`.

    `groups` and `rotation` are settings of its JSON and what they are where it does not name them.
    """

    scheme: str
    codes: tuple[str, ...]
    per_byte: int
    multiple: int
    beside: Mapping[str, Beside]
    groups: int | None = None
    rotation: int | None = None
    kept: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


def _one(n: int, k: int, group: int) -> Shape:
    return ()


SMOOTHING = Beside("pre_quant_scale", FLOATS, lambda n, k, g: (k,), optional=True, scale=False)
# format id: how it stores a layer
PACKED = {
    "nvfp4": Packed(
        "nvfp4", ("U8", "I8"), 2, 16,
        {
            "scale": _tiles(16, E4M3),
            "scale_2": Beside("weight_scale_2", ("F32",), _one),
            "pre_quant_scale": SMOOTHING,
        },
    ),
    "mxfp8": Packed(
        "mxfp8", ("F8_E4M3",), 1, 32,
        {"scale": _tiles(32, E8M0)},
    ),
    "hybrid_mxfp8": Packed(  # convert_to_quant: the same, and one scale for the whole weight
        "mxfp8", ("F8_E4M3",), 1, 32,
        {
            "scale": _tiles(32, E8M0),
            "scalar": Beside("weight_scalar", FLOATS, _one, optional=True),
        },
    ),
    "convrot_w4a4": Packed(
        "w4a4_convrot", ("I8", "U8"), 2, 1,
        {"scale": Beside("weight_scale", FLOATS, lambda n, k, g: (n,))},
        rotation=256,
        kept={"linear_dtype": ("int8",)},
    ),
    "asym_w4a8_int8": Packed(
        "w4a8", ("I8", "U8"), 2, 1,
        {
            "scale": Beside("weight_s_rel", E4M3, lambda n, k, g: (n, k // g)),
            "channel": Beside("weight_s_channel", ("F32",), lambda n, k, g: (n,)),
            "codebook": Beside(
                "weight_codebook", ("F32",), lambda n, k, g: (16,), optional=True, scale=False
            ),
        },
        groups=16,
        rotation=256,
    ),
}  # fmt: skip


def packed(reading: Reading, name: str, marker: Marker) -> None:
    """List the layer `name` in the format that its marker names."""
    form, module = PACKED[str(marker.id)], reading.modules[name]
    weight = module["weight"]
    if weight.dtype not in form.codes or len(weight.shape) != 2 or not all(weight.shape):
        found = f"{weight.dtype} {list(weight.shape)} as {marker.id}"
        reading.tell("codes-shape", found, name)
        return
    group = marker.size("group_size", form.groups or 1)
    if form.groups is not None and _has_six_bits(module, group):
        reading.tell("codes-shape", f"6-bit codes {list(weight.shape)} as {marker.id}", name)
        return
    rows, columns = weight.shape[0], weight.shape[1] * form.per_byte
    settings = _settings(reading, name, marker, (rows, columns))
    n, k = _real_shape(form, marker, module, rows, columns)
    if (n, k) != (rows, columns):
        settings["orig_shape"] = [n, k]
    tensors = {"weight": weight.name}
    for role, beside in form.beside.items():
        spec = module.get(beside.leaf)
        if spec is not None:
            tensors[role] = spec.name
            shape = beside.shape(rows, k if beside is SMOOTHING else columns, max(1, group))
            _check(reading, name, beside, spec, shape, (rows, columns))
        elif not beside.optional:
            reading.tell("tensor-absent", f"{marker.id} without {beside.leaf}", name)
    if "weight_correction" in module:
        reading.tell("asymmetric-codes", "weight_correction beside the codes", name)
    if weight.size_bytes <= SMALL_BYTES:
        reading.tell("small-layer-quantized", f"{weight.size_bytes} bytes", name)
    tensors |= reading.input_scale(name, module)
    part = Part(form.scheme, tensors, settings, view=(n, k))
    reading.add(Layer(weight.name, (n, k), reading.dtype, (part,)))


def _settings(
    reading: Reading, name: str, marker: Marker, shape: tuple[int, int]
) -> dict[str, object]:
    """What the JSON says of the arithmetic, checked against the codes."""
    form, k = PACKED[str(marker.id)], shape[1]
    settings: dict[str, object] = {
        key: marker.get(key) for key, values in form.kept.items() if marker.get(key) in values
    }
    if marker.get("full_precision_matrix_mult") is True:
        settings["full_precision_matrix_mult"] = True
    if form.groups is not None:
        settings["group_size"] = size = marker.size("group_size", form.groups)
        if size < 4 or k % size or (16 % size and size % 16):
            reading.tell("group-size", f"group_size {size} for {k} inputs", name)
    if form.rotation is not None:
        settings["convrot_groupsize"] = size = marker.size("convrot_groupsize", form.rotation)
        if not rotates(size, shape):
            found = f"convrot_groupsize {size} for a weight {list(shape)}"
            reading.tell("convrot-groupsize", found, name)
    return settings


def _has_six_bits(module: Module, group: int) -> bool:
    """Three bytes for four inputs, by the scales of groups: the wider codes under the same id."""
    scale = module.get("weight_s_rel")
    if scale is None or len(scale.shape) != 2:
        return False
    return 4 * module["weight"].shape[1] == 3 * group * scale.shape[1]


def rotates(group: int, shape: Shape) -> bool:
    """The group is a power of 4 that divides the inputs of a matrix."""
    power = group >= 4 and group & (group - 1) == 0 and group.bit_length() % 2 == 1
    return power and len(shape) == 2 and shape[1] % group == 0


def _real_shape(
    form: Packed, marker: Marker, module: Module, rows: int, columns: int
) -> tuple[int, int]:
    """(n, k) without what codes are filled up with: by the JSON, the bias and the smoothing.

    A file that says nothing of them is taken as not filled up.
    """

    def fits(size: object, stored: int) -> bool:
        whole = isinstance(size, int) and not isinstance(size, bool)
        return whole and size > 0 and filled(size, form.multiple) == stored  # type: ignore[operator, arg-type]

    bias, smooth = module.get("bias"), module.get("pre_quant_scale")
    told = marker.get("orig_shape")
    if isinstance(told, list) and len(told) == 2 and fits(told[0], rows) and fits(told[1], columns):
        return int(told[0]), int(told[1])
    n = bias.elements if bias is not None and fits(bias.elements, rows) else rows
    k = smooth.elements if smooth is not None and fits(smooth.elements, columns) else columns
    return n, k


def _check(
    reading: Reading, name: str, beside: Beside, spec: TensorSpec, shape: Shape, stored: Shape
) -> None:
    """Tell what is wrong with a tensor beside the codes."""
    if spec.dtype not in beside.dtypes:
        reading.tell("scale-dtype", f"{leaf(spec.name)} of dtype {spec.dtype}", name)
        return
    fits = _same(spec.shape, shape) if shape else spec.elements == 1
    if not fits:
        found = f"{leaf(spec.name)} {list(spec.shape)} where {list(shape)} fits"
        reading.tell("scale-shape", found, name)
        return
    if beside.dtypes in NO_NUMBER:
        blocks = stored[1] // beside.block if beside.block else None
        check_bytes(reading, name, spec, NO_NUMBER[beside.dtypes], stored[0], blocks)
    elif beside.scale:
        reading.problems += check_numbers(reading.source, spec, name)
    elif not_finite(reading.source, spec):
        reading.tell("scale-not-finite", f"{leaf(spec.name)} with NaN or infinity", name)


def _same(found: Shape, expected: Shape) -> bool:
    """Equal shapes; one number a row may stand in a column or a row."""
    flat = tuple(size for size in found if size != 1)
    return found == expected or (len(expected) == 1 and flat == expected)


def check_bytes(
    reading: Reading, name: str, spec: TensorSpec, no_number: tuple[int, ...], n: int,
    blocks: int | None,
) -> None:  # fmt: skip
    """Tell of scales of one byte that are no number, or below zero; not of what fills up a tile.

    In tiles, there are scales for `n` rows of `blocks` blocks.
    """
    data = reading.source.read_bytes(spec.name)
    places = (at for byte in no_number for at in _places(data, byte))
    if blocks is not None:
        cells = (cell(at, spec.shape[1]) for at in places)
        bad = sum(row < n and block < blocks for row, block in cells)
    else:
        bad = sum(1 for _ in places)
    if bad:
        reading.tell("scale-not-finite", f"{leaf(spec.name)}: {bad} bytes are NaN", name)
    elif 0x7F in no_number and not data.isascii():
        reading.tell("scale-negative", "scales below zero", name)


def _places(data: bytes, byte: int) -> Iterator[int]:
    """Where a byte stands."""
    at = data.find(byte)
    while at >= 0:
        yield at
        at = data.find(byte, at + 1)


def used_exponents(source: Source, spec: TensorSpec) -> list[int]:
    """[smallest, largest] byte above 0 of a tensor."""
    rest = source.read_bytes(spec.name).translate(None, b"\0")
    found: set[int] = set()
    while rest:  # neighbors are taken out together: a weight has few exponents
        near = bytes(range(max(1, rest[0] - 8), min(256, rest[0] + 9)))
        found.update(byte for byte in near if byte in rest)
        rest = rest.translate(None, near)
    return [min(found), max(found)] if found else [127, 127]
