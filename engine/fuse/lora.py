"""LoRA files and a model in, each layer's adapters in file order out; then rows with all deltas.

Opening and matching read headers only and know no torch; `Fused.reader` reads one layer's adapters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused
from ..family import Target
from ..files.open import open_source
from ..layer import Layer
from ..parts import discover
from ..source import Source
from .adapter import NUMBERS, READABLE, Adapter, Operands, Shape
from .grammar import SCALED, Key, Spelled, spell
from .place import Places, is_text, places

if TYPE_CHECKING:
    from ..model import Model
    from ..rows import RowReader

SINGLE_NUMBERS = ("alpha", "reshape")  # roles that are no part of the matrix product


@dataclass(frozen=True)
class LoraFile:
    """An opened LoRA: which modules it changes, and the user's strength for all of them.

    `rslora`: alpha is divided by sqrt(rank) instead of rank.
    """

    source: Source
    strength: float
    rslora: bool
    spelled: Spelled

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.source.path

    def close(self) -> None:
        """Let go of the file; readers made from it must be gone by then."""
        self.source.close()


@dataclass(frozen=True)
class Change:
    """One adapter of one file on one layer: `names` maps roles to tensor names of `file`."""

    file: LoraFile
    module: str
    kind: str
    target: Target
    names: Mapping[str, str]


@dataclass(frozen=True)
class LoraReport:
    """What became of a file: how many of its modules found a layer, and each that did not, once."""

    file: str
    strength: float
    matched: int
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The shape on the command line."""
        return {
            "file": self.file,
            "strength": self.strength,
            "matched": self.matched,
            "unmatched": list(self.unmatched),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Fused:
    """`changes[key]`: a layer's adapters in the order they are added; `report`: one a file."""

    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    report: tuple[LoraReport, ...] = ()

    def reader(self, layer: Layer, base: RowReader, device: str = "cpu") -> RowReader:
        """Rows of `layer` with every delta added in float32; `base` itself if nothing changes it.

        base(start, stop) -> (stop - start, row elements) float32 on `device`, fresh. The adapters'
        tensors live as long as the returned reader, which several threads may call.
        """
        reader = base
        for change in self.changes.get(layer.key, ()):
            reader = _over(change, reader, layer, device)
        return reader

    def deltas(self, layer: Layer, base: RowReader) -> Iterator[tuple[str, RowReader]]:
        """(file, rows of `layer` with the changes of that file alone) for each that has some."""
        changes = self.changes.get(layer.key, ())
        for path in dict.fromkeys(change.file.path for change in changes):
            alone = tuple(change for change in changes if change.file.path == path)
            yield str(path), Fused({layer.key: alone}).reader(layer, base)


def open_lora(path: str | Path, strength: float = 1.0, rslora: bool = False) -> LoraFile:
    """A LoRA file of any spelling -> its modules; reads the header only."""
    return lora_of(open_source(path), strength, rslora)


def lora_of(source: Source, strength: float = 1.0, rslora: bool = False) -> LoraFile:
    """An opened file -> its modules; refuses what is no LoRA and what no adapter kind can read."""
    if not math.isfinite(strength):
        raise Refused(
            "lora-strength",
            found=f"strength {strength} for {source.path.name}",
            expected="a finite number",
            fix="give a strength such as 0.8",
        )
    spelled = spell(source.tensors)
    if not any(_kinds_of(roles) for roles in spelled.modules.values()):
        some = ", ".join(list(source.tensors)[:3]) or "no tensor at all"
        raise Refused(
            "not-a-lora",
            found=f"{len(source.tensors)} tensors such as {some} in {source.path.name}",
            expected="adapter tensors such as NAME.lora_A.weight, NAME.lora_down.weight, NAME.diff",
            fix="give a model as the source to convert, and only LoRA files as LoRAs",
        )
    for (module, _), roles in spelled.modules.items():
        _check_dtypes(source, module, roles)
    return LoraFile(source, strength, rslora, spelled)


def match(
    files: Sequence[LoraFile], model: Model, names: Mapping[str, Target] | None = None
) -> Fused:
    """LoRA files x a model -> what changes which layer.

    Refuses shapes that do not fit and files that match nothing. `names`: module spellings with
    known targets, looked up before our own tables (the host's key map).
    """
    shapes = {layer.key: layer.shape for layer in model.layers}
    found = places(model.family, shapes)
    changes: dict[str, list[Change]] = {}
    report = []
    for file in files:
        report.append(_match_file(file, model, found, names or {}, changes))
    return Fused({key: tuple(of_layer) for key, of_layer in changes.items()}, tuple(report))


def _match_file(
    file: LoraFile,
    model: Model,
    found: Places,
    names: Mapping[str, Target],
    changes: dict[str, list[Change]],
) -> LoraReport:
    """Add a file's changes to `changes`; say what matched."""
    matched: dict[str, None] = {}
    unmatched: dict[str, None] = {}
    taken: dict[tuple[Target, str], str] = {}
    for key, roles in file.spelled.modules.items():
        kinds = _kinds_of(roles)
        if not kinds:
            unmatched |= dict.fromkeys(roles.values())
            continue
        target = names.get(key[0]) if key[1] == "weight" else None
        target = target or found.find(*key)
        if target is None:
            unmatched[_told(key, file.spelled)] = None
            continue
        read = frozenset().union(*(kind.reads for kind in kinds))
        unmatched |= dict.fromkeys(
            name for role, name in roles.items() if role.removesuffix(SCALED) not in read
        )
        whole = found.shapes[target.key] or (1,)
        for kind in kinds:
            change = _change(file, key[0], kind, target, roles, whole)
            twice = taken.setdefault((target, kind.name), key[0])
            if twice != key[0]:
                raise _refuse_twice(file, twice, key[0], target)
            if file.strength != 0.0:
                changes.setdefault(target.key, []).append(change)
        matched[key[0]] = None
    unmatched |= dict.fromkeys(file.spelled.rest)
    if not matched:
        raise _refuse_nothing(file, model, list(unmatched))
    text = [name for name in unmatched if is_text(name)]
    notes = (f"{len(text)} modules are for a text encoder, not for this model",) if text else ()
    return LoraReport(str(file.path), file.strength, len(matched), tuple(unmatched), notes)


def _told(key: Key, spelled: Spelled) -> str:
    """How an unmatched module is named: with its parameter where it has several."""
    module, parameter = key
    alone = parameter == "weight" or (module, "weight") not in spelled.modules
    return module if alone else f"{module} ({parameter})"


def _adapters() -> Mapping[str, Adapter]:
    return discover(f"{__package__}.adapters", "ADAPTER")


def _kinds_of(roles: Mapping[str, str]) -> list[Adapter]:
    """The adapter kinds that a module's roles show, in the order they are applied."""
    kinds = [kind for kind in _adapters().values() if not kind.marks.isdisjoint(roles)]
    return sorted(kinds, key=lambda kind: kind.order)


def _change(
    file: LoraFile,
    module: str,
    kind: Adapter,
    target: Target,
    roles: Mapping[str, str],
    whole: Shape,
) -> Change:
    """One adapter on its target after all that a header can tell has been checked."""
    names = {role: name for role, name in roles.items() if role.removesuffix(SCALED) in kind.reads}
    missing = kind.missing(names)
    if missing:
        raise Refused(
            "lora-partner-missing",
            found=f"{', '.join(sorted(names.values()))} in {file.path.name}",
            expected=f"{missing} beside it",
            fix="the file is incomplete: download or save it again",
            layer=target.key,
        )
    shape = whole if target.rows is None else (target.rows[1] - target.rows[0], *whole[1:])
    stored = {role: file.source.tensors[name].shape for role, name in names.items()}
    misfit = kind.fits(stored, shape) or kind.decomposition_misfit(stored, shape)
    if misfit is not None:
        found = ", ".join(f"{role} {stored[role]}" for role in stored if role != "alpha")
        raise Refused(
            misfit.kind,
            found=f"{found} for {module} in {file.path.name}",
            expected=misfit.expected,
            fix=misfit.fix,
            layer=target.key,
        )
    return Change(file, module, kind.name, target, names)


def _check_dtypes(source: Source, module: str, roles: Mapping[str, str]) -> None:
    """Refuse tensors that are neither floating point nor single numbers."""
    for role, name in roles.items():
        dtype = source.tensors[name].dtype
        if dtype not in (NUMBERS if role in SINGLE_NUMBERS else READABLE):
            raise Refused(
                "lora-dtype",
                found=f"{name} as {dtype}",
                expected=f"one of {', '.join(READABLE)}",
                fix="save the LoRA as bf16, fp16 or fp32",
                layer=module,
            )


def _refuse_twice(file: LoraFile, first: str, second: str, target: Target) -> Refused:
    return Refused(
        "lora-module-twice",
        found=f"{first} and {second} of {file.path.name} for one layer",
        expected="each layer once in a file",
        fix="the file holds the same adapter in two spellings: keep one of them",
        layer=target.key,
    )


def _refuse_nothing(file: LoraFile, model: Model, unmatched: list[str]) -> Refused:
    fix = "this LoRA is for another model: use one made for this family, or take it out"
    if all(is_text(name) for name in unmatched):
        fix = "this LoRA changes a text encoder only: load it in ComfyUI with the text encoder"
    return Refused(
        "lora-matches-nothing",
        found=f"{', '.join(unmatched[:3])} in {file.path.name}",
        expected=f"names of layers of {model.family.title}",
        fix=fix,
    )


def _over(change: Change, reader: RowReader, layer: Layer, device: str) -> RowReader:
    """`reader` with one change added, on the rows that it is for."""
    file, target = change.file, change.target
    operands = Operands(file.source, change.names, file.strength, layer.key, file.rslora, device)
    from .rows import part_of, put_back, swapped

    over = _adapters()[change.kind].over
    whole = layer.shape or (1,)
    if target.halves_swapped:
        inner = over(operands, swapped(reader, whole[0]), whole)
        return swapped(inner, whole[0])
    if target.rows is None:
        return over(operands, reader, whole)
    shape = (target.rows[1] - target.rows[0], *whole[1:])
    return put_back(reader, over(operands, part_of(reader, target.rows), shape), target.rows)
