"""Entries in, what cannot be done with them out: names, outputs, files that are not there.

Reads headers at most; torch is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import Refused
from ..files.open import open_source
from .entry import Entry, Part, Trouble
from .ours import written_by_us


def check(entries: Sequence[Entry]) -> list[Trouble]:
    """Every trouble of every entry that can be seen without a plan."""
    return [
        *_names_twice(entries),
        *_outputs_twice(entries),
        *_outputs_over_inputs(entries),
        *_outputs_in_the_way(entries),
        *_inputs_unread(entries),
    ]


def same_place(path: Path) -> str:
    """Equal for two spellings of one place, links followed."""
    return os.path.normcase(os.path.realpath(path))


def _inputs(parts: Iterable[Part]) -> dict[str, Path]:
    paths = [path for part in parts for path in (part.source, *(x.path for x in part.loras))]
    return {same_place(path): path for path in paths}


def _names_twice(entries: Sequence[Entry]) -> Iterator[Trouble]:
    names = [entry.name for entry in entries]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Trouble(
                name,
                Refused(
                    "name-twice",
                    found=f"{names.count(name)} recipes of the name {name}",
                    expected="each name once",
                    fix="give each a `name` of its own; {stem} and {scheme} may stand in it",
                ),
            )


def _outputs_twice(entries: Sequence[Entry]) -> Iterator[Trouble]:
    makers: dict[str, list[tuple[Entry, Part]]] = {}
    for entry in entries:
        for part in entry.parts:
            makers.setdefault(same_place(part.out), []).append((entry, part))
    for found in makers.values():
        for entry, part in found[1:]:
            yield Trouble(
                entry.name,
                Refused(
                    "output-twice",
                    found=f"{part.out}, which {found[0][0].name} writes too",
                    expected="an `out` of its own for each file",
                    fix="put {stem}, {name}, {scheme} or, for a pair, {part} into `out`",
                ),
            )


def _outputs_over_inputs(entries: Sequence[Entry]) -> Iterator[Trouble]:
    inputs = _inputs(part for entry in entries for part in entry.parts)
    folders = {place: path for place, path in inputs.items() if path.is_dir()}
    for entry in entries:
        for part in entry.parts:
            place = same_place(part.out)
            over = inputs.get(place) or _same_file(part.out, inputs.values())
            within = next((p for at, p in folders.items() if place.startswith(at + os.sep)), None)
            if over is None and within is None:
                continue
            yield Trouble(
                entry.name,
                Refused(
                    "output-is-input",
                    found=f"{part.out}, which is {over} of this batch"
                    if over
                    else f"{part.out}, which would lie in the folder {within} that is read",
                    expected="an `out` that is neither a source nor a LoRA",
                    fix="write into another folder, or under another name",
                ),
            )


def _same_file(out: Path, inputs: Iterable[Path]) -> Path | None:
    """An input that is the same file under another name (a hard link)."""
    if not out.is_file() or out.stat().st_nlink < 2:
        return None
    return next((path for path in inputs if path.is_file() and path.samefile(out)), None)


def _outputs_in_the_way(entries: Sequence[Entry]) -> Iterator[Trouble]:
    """What stands at an output and is not a file of ours is not replaced."""
    inputs = _inputs(part for entry in entries for part in entry.parts)
    for entry in entries:
        for part in entry.parts:
            if same_place(part.out) in inputs:
                continue  # told as such
            refusal = _in_the_way(part.out)
            if refusal is not None:
                yield Trouble(entry.name, refusal)


def _in_the_way(out: Path) -> Refused | None:
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir():
        return Refused(
            "no-such-folder",
            found=f"{above}, which is no folder",
            expected=f"a folder for {out.name}",
            fix="choose another `out`",
        )
    if not out.exists():
        return None
    if written_by_us(out):
        return None
    return Refused(
        "output-exists",
        found=f"{out}, which FuseQuant did not write",
        expected="a free name, or a file of an earlier batch",
        fix="choose another `out`, or move what stands there",
    )


def _inputs_unread(entries: Sequence[Entry]) -> Iterator[Trouble]:
    """Files that are not there or whose container is broken; each is opened once."""
    known: dict[Path, Refused | None] = {}
    for entry in entries:
        told: dict[Path, None] = {}
        for part in entry.parts:
            told |= dict.fromkeys((part.source, *(lora.path for lora in part.loras)))
        for path in told:
            if path not in known:
                known[path] = _unread(path)
            refusal = known[path]
            if refusal is not None:
                yield Trouble(entry.name, refusal)


def _unread(path: Path) -> Refused | None:
    try:
        open_source(path).close()
    except Refused as refusal:
        return refusal
    return None
