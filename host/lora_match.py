"""LoRA files and a loaded model in, each adapter with the host's parameter that it is for out.

The engine's grammar reads every spelling and says what matched; ComfyUI's key map is looked up
before the engine's own tables, so what it knows lands where it would put it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.lora
import torch

from ..engine.errors import Refused
from ..engine.family import Target
from ..engine.fuse.lora import Change, LoraFile, LoraReport, match, open_lora
from ..engine.model import Model, recognise
from ..engine.workers import single_threaded_torch
from .choosing import contents_of

ROOT = "diffusion_model."
REMEMBERED = 10  # files for each model; as many as a node takes


@dataclass(frozen=True)
class Lora:
    """A LoRA as the user asked for it. `rslora`: alpha is over the square root of the rank."""

    path: Path
    strength: float
    rslora: bool = False


@dataclass(frozen=True)
class Placed:
    """One adapter of one file on one parameter of the host's model.

    `key` is the parameter's, `rows` the part of it that is meant, `shape` of that part; `function`
    turns a delta as the file has it into one as the host has it. What is expensive to make from the
    adapter and does not depend on its strength may be kept in `kept`.
    """

    change: Change
    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    function: Any = None
    strength: float = 1.0
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def spot(self) -> Any:
        """The key as the host's patchers take it."""
        if self.rows is None and self.function is None:
            return self.key
        first, last = self.rows or (0, self.shape[0])
        return (self.key, (0, first, last - first), self.function)

    @property
    def layer(self) -> str:
        """The module's name from the model's root."""
        return self.key.rpartition(".")[0]


@dataclass(frozen=True)
class Matched:
    """What every file changes, in the order of the files, and what became of each file."""

    placed: tuple[Placed, ...]
    reports: tuple[LoraReport, ...]


# by model: {(path, size, time, rsLoRA): (its adapters at strength 1, its report)}. A change of
# strength is told apart from a change of file, so that it costs no more than it has to.
_known: WeakKeyDictionary[Any, OrderedDict[Any, Any]] = WeakKeyDictionary()


def match_loras(model: Any, loras: Sequence[Lora]) -> Matched:
    """Every adapter of the LoRAs on its parameter of a host model; strength 0 changes nothing."""
    placed: list[Placed] = []
    reports = []
    for lora in loras:
        found, report = _match_file(model, lora)
        reports.append(replace(report, strength=lora.strength))
        if lora.strength != 0.0:
            placed += [replace(one, strength=lora.strength) for one in found]
    return Matched(tuple(placed), tuple(reports))


def _match_file(model: Any, lora: Lora) -> tuple[tuple[Placed, ...], LoraReport]:
    """One file's adapters at strength 1, remembered as long as the model and the file are there."""
    known = _known.setdefault(model, OrderedDict())
    stat = lora.path.stat() if lora.path.exists() else None
    key = (str(lora.path), stat and (stat.st_size, stat.st_mtime_ns), lora.rslora)
    if key not in known:
        known[key] = _matched(model, open_lora(lora.path, 1.0, lora.rslora))
    known.move_to_end(key)
    while len(known) > REMEMBERED:
        known.popitem(last=False)
    found: tuple[tuple[Placed, ...], LoraReport] = known[key]
    return found


def _matched(model: Any, file: LoraFile) -> tuple[tuple[Placed, ...], LoraReport]:
    spots = comfy.lora.model_lora_keys_unet(model, {})
    engine = engine_model(model)
    fused = match([file], engine, names=_targets(spots))
    placed = tuple(
        _placed(change, key, engine.shapes[key], spots)
        for key, changes in fused.changes.items()
        for change in changes
    )
    _refuse_not_finite(file, placed)
    return placed, fused.report[0]


def engine_model(model: Any) -> Model:
    """What the engine needs to know of a host model: its family, its keys without the root."""
    contents = contents_of(model, ROOT)
    return replace(recognise(contents), layers=contents.layers, prefix="")


def _targets(spots: Mapping[str, Any]) -> dict[str, Target]:
    """ComfyUI's key map as the engine takes it; what is no run of rows is left out."""
    found = {}
    for name, spot in spots.items():
        key, offset, function = _parts(spot)
        if key.startswith(ROOT) and (offset is None or offset[0] == 0):
            rows = None if offset is None else (offset[1], offset[1] + offset[2])
            found[name] = Target(key.removeprefix(ROOT), rows, function is not None)
    return found


def _parts(spot: Any) -> tuple[str, Any, Any]:
    """(key, offset, function) of an entry of the host's key map."""
    if isinstance(spot, str):
        return spot, None, None
    return (*spot, None, None)[:3]


def _placed(change: Change, key: str, shape: tuple[int, ...], spots: Mapping[str, Any]) -> Placed:
    """Where a change goes: by the host's map if it has the name, else by the engine's tables."""
    target = change.target
    rows = target.rows
    part = shape if rows is None else (rows[1] - rows[0], *shape[1:])
    function = swap_halves if target.halves_swapped else None
    known = spots.get(change.module)
    if known is not None and _parts(known)[0] == ROOT + key:
        function = _parts(known)[2]
    return Placed(change, ROOT + key, part, rows, function)


def swap_halves(delta: torch.Tensor) -> torch.Tensor:
    """(2 n, ...) -> the same with its halves of rows exchanged."""
    first, second = delta.chunk(2, dim=0)
    return torch.cat([second, first])


def _refuse_not_finite(file: LoraFile, placed: Sequence[Placed]) -> None:
    """Refuse NaN and infinity in the adapters that are used."""
    names = sorted({name for one in placed for name in one.change.names.values()})
    with single_threaded_torch():  # many small tensors: threads would wait for each other
        bad = next((name for name in names if not _finite(file.source.tensor(name))), None)
    if bad is not None:
        raise Refused(
            "lora-not-finite",
            found=f"NaN or infinity in {bad} of {file.path.name}",
            expected="finite numbers",
            fix="its training diverged: use an earlier checkpoint of this LoRA",
        )


def _finite(tensor: torch.Tensor) -> bool:
    """No NaN and no infinity: the smallest and the largest number show either."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    return all(bool(torch.isfinite(edge)) for edge in torch.aminmax(wide))
