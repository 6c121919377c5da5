"""The answer of `fusequant batch` in, its plan, its lines and its summary as text out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .text import columns, duration, gigabytes, warning_lines
from .verb import Answer

_SHOWN = ("refused", "failed")


def plan_text(answer: Answer) -> str:
    """Every recipe with its size, memory and time; then disk, memory and time of all."""
    head = ("recipe", "scheme", "size", "memory", "time", "what")
    rows = [head, *map(_plan_row, answer["recipes"])]
    totals = answer["totals"]
    facts = [
        ("recipes", _counts(totals)),
        ("writes", gigabytes(totals["bytes_to_write"])),
        *(("disk", _disk(room)) for room in answer["disk"]),
        ("memory", _memory(answer)),
        ("time", f"about {duration(totals['estimated_seconds'])}, by {totals['estimated_from']}"),
    ]
    if not totals["planned"]:
        facts = facts[:1]
    return "\n".join([*columns(rows), "", *columns(facts), *_warnings(answer["recipes"])])


def _plan_row(row: Answer) -> tuple[str, ...]:
    if row["state"] == "refused":
        return (row["name"], "", "", "", "refused", _why(row))
    files = row["files"]
    scheme = "/".join(dict.fromkeys(file["scheme"] for file in files))
    size = gigabytes(row["bytes"])
    if row["state"] != "planned":
        return (row["name"], scheme, size, "", row["state"], _what(files))
    time = duration(row["estimated_seconds"])
    return (row["name"], scheme, size, gigabytes(row["memory_bytes"]), time, _what(files))


def _what(files: Sequence[Answer]) -> str:
    """`model.safetensors + 2 LoRAs -> out.safetensors`, the files of a pair side by side."""
    told = []
    for file in files:
        count = len(file["loras"])
        loras = f" + {count} LoRA{'s' if count > 1 else ''}" if count else ""
        part = f"{file['part']}: " if file["part"] else ""
        again = " (replaced)" if file["replaces"] else ""
        told.append(f"{part}{Path(file['source']).name}{loras} -> {Path(file['out']).name}{again}")
    return "; ".join(told)


def _counts(totals: Answer) -> str:
    names = ("planned", "done", "done_already", "refused", "failed")
    told = [f"{totals[name]} {name.replace('_', ' ')}" for name in names if totals[name]]
    return f"{totals['recipes']}: {', '.join(told)}"


def _disk(room: Answer) -> str:
    return (
        f"{gigabytes(room['needs_bytes'])} needed of {gigabytes(room['free_bytes'])} free "
        f"at {room['folder']}"
    )


def _memory(answer: Answer) -> str:
    if answer["memory_bytes"] is None:
        return "as much as the cluster has"
    return f"at most {gigabytes(answer['memory_bytes'])}, {answer['at_once']} recipes at a time"


def _warnings(recipes: Sequence[Answer]) -> list[str]:
    return warning_lines(
        [
            f"{row['name']}: {warning}"
            for row in recipes
            for warning in (
                *row.get("warnings", ()),
                *(warning for file in row["files"] for warning in file["warnings"]),
                *(_unmatched(lora) for file in row["files"] for lora in file["loras"]),
            )
            if warning
        ]
    )


def _unmatched(lora: Answer) -> str:
    missing = lora["unmatched"]
    if not missing:
        return ""
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return f"{len(missing)} modules of {Path(lora['file']).name} match no layer: {shown}"


def _why(row: Answer) -> str:
    error = row["error"]
    layer = f" in {error['layer']}" if error.get("layer") else ""
    return f"{error['kind']}{layer}: {error['found']}; {error['fix']}"


def end_line(row: Answer) -> str:
    """`NAME done 6.10 GB in 12.3 s, error 0.0041, worst 0.0057 in LAYER`."""
    if row["state"] in _SHOWN:
        return f"{row['name']} {row['state']}: {_why(row)}"
    tries = f", at attempt {row['attempts']}" if row.get("attempts", 1) > 1 else ""
    errors = [_error(file) for file in row["files"] if file.get("error")]
    told = "".join(f", {error}" for error in errors)
    return f"{row['name']} done: {gigabytes(row['bytes'])} in {row['seconds']:.1f} s{tries}{told}"


def _error(file: dict[str, Any]) -> str:
    error = file["error"]
    part = f"{file['part']} " if file["part"] else ""
    return f"{part}error {error['mean']:.4f}, worst {error['worst']:.4f} in {error['layer']}"


def summary_text(answer: Answer) -> str:
    """How many ended in which way, what was not done and why, where the log is."""
    totals = answer["totals"]
    rows = [
        ("recipes", _counts(totals)),
        ("files", gigabytes(totals["bytes"])),
        ("time", duration(totals["seconds"])),
        ("log", answer["log"]),
    ]
    lost = [
        (row["name"], row["state"], _why(row))
        for row in answer["recipes"]
        if row["state"] in _SHOWN
    ]
    return "\n".join([*columns(rows), *columns(lost), *_warnings(answer["recipes"])])
