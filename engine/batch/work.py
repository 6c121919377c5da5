"""A task in, its files out, all or none; runs in whatever process it is called in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import Refused
from ..pipeline import convert
from ..recipe import METADATA_KEY
from .opening import prepared_for
from .sample import sampled_error
from .staging import Staging
from .task import DONE, Json, Outcome, Task, TaskPart

Moved = Callable[[int, int], None]


def work(task: Task, moved: Moved = lambda done, total: None) -> Outcome:
    """Make every file aside, look at some rows of each, then move them all to their places."""
    try:
        _check_visible(task)
        with Staging(task.staging, [part.part.out for part in task.parts]) as staging:
            files = [
                _make(task, number, staging.place(part.part.out), moved)
                for number, part in enumerate(task.parts)
            ]
            staging.commit()
            attempt = staging.attempt
    except Refused as refusal:
        return Outcome.of(refusal)
    return Outcome(
        DONE,
        {
            "files": files,
            "seconds": sum(file["seconds"] for file in files),
            "attempts": attempt,
            "host": socket.gethostname(),
            "torch": torch_version(),
        },
    )


def torch_version() -> str:
    """What does the arithmetic."""
    try:
        return version("torch")
    except PackageNotFoundError:  # torch that a system brings without its papers
        return "unknown"


def _make(task: Task, number: int, place: Path, moved: Moved) -> Json:
    """One file of the task, in its place aside."""
    wanted, total = task.parts[number], sum(part.bytes for part in task.parts)
    before = sum(part.bytes for part in task.parts[:number])

    def progress(done: int, of: int) -> None:
        moved(before + (wanted.bytes * done // of if of else 0), total)

    moved(before, total)
    prepared = prepared_for(wanted.part, task.layers_at_once)
    try:
        _check_same(wanted, prepared.metadata[METADATA_KEY])
        written = convert(prepared, place, progress)
    finally:
        prepared.close()
    again = prepared_for(wanted.part, task.layers_at_once)
    try:
        error = sampled_error(again, place)
    finally:
        again.close()
    return {
        "part": wanted.part.name,
        "out": str(wanted.part.out),
        "bytes": written.bytes,
        "seconds": round(written.seconds, 3),
        "layers": dict(written.layers),
        "error": error,
    }


def _check_visible(task: Task) -> None:
    """Every file must be where it was planned: another machine may have other disks."""
    for task_part in task.parts:
        part = task_part.part
        for path in (part.source, *(lora.path for lora in part.loras), part.out.parent):
            if not path.exists():
                raise Refused(
                    "not-visible-here",
                    found=f"no {path} on {socket.gethostname()}, which was to do the work",
                    expected="the same path to the same file on every machine that takes part",
                    fix="put sources, LoRAs and outputs on a disk that all of them share",
                )


def _check_same(wanted: TaskPart, recipe: str) -> None:
    if recipe != wanted.recipe:
        raise Refused(
            "changed-since-plan",
            found=f"{wanted.part.source.name} or a LoRA with other numbers than were planned",
            expected="the same files from the plan to the end",
            fix="run the batch again when nothing writes to its sources",
        )
