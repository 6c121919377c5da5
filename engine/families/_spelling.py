"""A table of names in, layers renamed and joined or LoRA targets out: what the families share.

A table maps a module's name with its block index written `{}` to its `Place` in core's model.
Only the first number of a name is the index: `transformer_blocks.{}.ff.net.0.proj`. From such
tables and from the names by which a spelling is known come the functions that a family is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import Refused
from ..family import Shapes, Target
from ..layer import Layer, Part

LEAVES = (".weight", ".bias", ".scale")
LINEARS = ("linear_1", "linear_2")  # of a two-layer embedder in Diffusers
Shape = tuple[int, ...]
_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Place:
    """Core's module, and in a joined weight the place `slot` among `of` parts, top to bottom.

    `swapped`: the two halves of the rows change places on the way. `leaf`: what core calls the
    parameter, if not by the same name. `seen_as`: core's shape from the spelled one, same order.
    """

    module: str
    slot: int = 0
    of: int = 1
    swapped: bool = False
    leaf: str = ""
    seen_as: Callable[[Shape], Shape] | None = None


Table = Mapping[str, Place]
Rows = Callable[[Shapes, str, int], list[int]]  # (shapes, key, parts) -> row counts of the parts


@dataclass(frozen=True)
class Sign:
    """What tells a spelling: parameter names of which all, any, or none are in the model."""

    spelling: str
    all_of: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()

    def told_by(self, shapes: Shapes) -> bool:
        """Whether the names say so."""
        return (
            all(name in shapes for name in self.all_of)
            and (not self.any_of or any(name in shapes for name in self.any_of))
            and not any(name in shapes for name in self.none_of)
        )


def known_by(*signs: Sign) -> Callable[[Shapes], str | None]:
    """A family's `spelling`: that of the first sign found."""
    return lambda shapes: next((x.spelling for x in signs if x.told_by(shapes)), None)


def renames(names: Mapping[str, str], inside: str = "*", target: str = "*") -> dict[str, Place]:
    """One place for each pair of names, both put for the `*` of `inside` and `target`."""
    return {
        inside.replace("*", spelled): Place(target.replace("*", core))
        for spelled, core in names.items()
    }


def stacked(names: Iterable[str], module: str) -> dict[str, Place]:
    """The names whose rows lie one below the other in `module`."""
    listed = tuple(names)
    return {name: Place(module, slot, len(listed)) for slot, name in enumerate(listed)}


def sides(
    embedders: Mapping[str, str], ends: tuple[str, str], spelled: tuple[str, str] = LINEARS
) -> dict[str, Place]:
    """Two-layer embedders, {spelled: core}: `spelled` ends of their names stand for core's."""
    return {
        f"{name}.{theirs}": Place(f"{core}.{ours}")
        for name, core in embedders.items()
        for theirs, ours in zip(spelled, ends, strict=True)
    }


def split_leaf(key: str) -> tuple[str, str]:
    """A key as (module, leaf); the leaf is empty for a bare parameter."""
    leaf = next((leaf for leaf in LEAVES if key.endswith(leaf)), "")
    return key.removesuffix(leaf), leaf


def template(name: str) -> tuple[str, str]:
    """A name with its first number written `{}`, and that number."""
    found = _INDEX.search(name)
    if not found:
        return name, ""
    return name[: found.start()] + "{}" + name[found.end() :], found[0]


def first_index(name: str) -> str:
    """The block index in a name; empty if it has none."""
    return template(name)[1]


def find(table: Table, module: str) -> Place | None:
    """The place of a module, its index filled in."""
    form, index = template(module)
    place = table.get(form) or table.get(module)
    return replace(place, module=place.module.replace("{}", index)) if place else None


def _rows(part: Part, first: int, last: int) -> Part:
    low = part.rows[0] if part.rows else 0
    return replace(part, rows=(low + first, low + last))


def _cut(layer: Layer) -> tuple[Part, ...]:
    """The parts of a layer, each with the rows that it takes."""
    if not layer.is_whole or not layer.shape:
        return layer.parts
    return (_rows(layer.parts[0], 0, layer.shape[0]),)


def swapped_halves(layer: Layer) -> tuple[Part, ...]:
    """The parts that put the lower half of a one-part layer's rows first."""
    half, part = layer.shape[0] // 2, layer.parts[0]
    return (_rows(part, half, 2 * half), _rows(part, 0, half))


def seen_as(layer: Layer, key: str, shape: Shape, transposed: bool = False) -> Layer:
    """A plain layer's numbers in another shape."""
    part = Part("none", layer.parts[0].tensors, view=shape, transposed=transposed)
    return replace(layer, key=key, shape=shape, parts=(part,))


def row_slice(layer: Layer, key: str, first: int, last: int) -> Layer:
    """Rows [first, last) of a one-part layer as a layer of its own."""
    shape = (last - first, *layer.shape[1:])
    return replace(layer, key=key, shape=shape, parts=(_rows(layer.parts[0], first, last),))


def _join(key: str, members: dict[int, Layer], of: int) -> Layer:
    """One layer of `of` members stacked along dim 0."""
    missing = [str(slot + 1) for slot in range(of) if slot not in members]
    if missing:
        raise Refused(
            "layer-incomplete",
            found=f"{', '.join(sorted(layer.key for layer in members.values()))}",
            expected=f"all {of} parts of {key}",
            fix="the file is incomplete: download it again",
            layer=key,
        )
    ordered = [members[slot] for slot in range(of)]
    if len({layer.shape[1:] for layer in ordered}) > 1:
        raise Refused(
            "layer-shape",
            found=", ".join(f"{layer.key} {layer.shape}" for layer in ordered),
            expected="parts of the same width",
            fix="the file mixes models: convert from the original checkpoint",
            layer=key,
        )
    rows = sum(layer.shape[0] for layer in ordered)
    parts = tuple(part for layer in ordered for part in _cut(layer))
    return Layer(key, (rows, *ordered[0].shape[1:]), ordered[0].dtype, parts)


def convert(layers: tuple[Layer, ...], find_place: Callable[[str], Place | None]) -> list[Layer]:
    """Layers under core's names; what `find_place` does not know keeps its name."""
    result: dict[str, Layer | dict[int, Layer]] = {}
    sizes: dict[str, int] = {}
    for layer in layers:
        module, leaf = split_leaf(layer.key)
        place = find_place(module) or Place(module)
        key = place.module + (place.leaf or leaf)
        if place.of > 1:
            members = result.setdefault(key, {})
            if isinstance(members, dict):
                members[place.slot] = layer
            sizes[key] = place.of
            continue
        if place.seen_as:
            result[key] = seen_as(layer, key, place.seen_as(layer.shape))
            continue
        parts = swapped_halves(layer) if place.swapped else layer.parts
        result[key] = replace(layer, key=key, parts=parts)
    return [
        _join(key, found, sizes[key]) if isinstance(found, dict) else found
        for key, found in result.items()
    ]


def even_rows(shapes: Shapes, key: str, of: int) -> list[int]:
    """Row counts of the parts of a joined weight that has `of` equal parts."""
    return [shapes[key][0] // of] * of


def targets(table: Table, shapes: Shapes, rows: Rows = even_rows) -> dict[str, Target]:
    """Every spelled module name whose place exists in `shapes`, with the rows it means."""
    by_form: dict[str, list[tuple[str, str]]] = {}
    for key in shapes:
        module, leaf = split_leaf(key)
        if leaf in ("", ".weight", ".scale"):
            form, index = template(module)
            by_form.setdefault(form, []).append((index, key))
    found = {}
    for spelled, place in table.items():
        form = place.module if "{}" in place.module else template(place.module)[0]
        for index, key in by_form.get(form, []):
            if "{}" not in place.module and split_leaf(key)[0] != place.module:
                continue
            span = None
            if place.of > 1:
                counts = rows(shapes, key, place.of)
                low = sum(counts[: place.slot])
                span = (low, low + counts[place.slot])
            found[spelled.replace("{}", index)] = Target(key, span, place.swapped)
    return found


def converted_by(*tables: Table) -> Callable[[tuple[Layer, ...], str], tuple[Layer, ...]]:
    """A family's `to_core`: renamed and joined by the tables, whatever the other spelling is."""
    table = {name: place for one in tables for name, place in one.items()}

    def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
        if spelled == "core":
            return layers
        return tuple(convert(layers, lambda module: find(table, module)))

    return to_core


def called_by(*tables: Table, rows: Rows = even_rows) -> Callable[[Shapes], dict[str, Target]]:
    """A family's `aliases`: the names in the tables, except those that core uses itself."""
    table = {name: place for one in tables for name, place in one.items()}

    def aliases(shapes: Shapes) -> dict[str, Target]:
        own = {split_leaf(key)[0] for key in shapes}
        found = targets(table, shapes, rows)
        return {name: target for name, target in found.items() if name not in own}

    return aliases
