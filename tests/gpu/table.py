"""The rows of a run in, a table for a reader and what else a result file says out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fusequant.engine.measure.table import text_table

from .process import Row

GB = 10**9
WHY_SHOWN = 90
HEADERS = (
    "case", "result", "s/step", "over auto", "peak GB", "predicted GB", "off by %", "seconds",
    "why",
)  # fmt: skip
STATUS = ("ok", "skipped", "failed")


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows with a limit get their seconds a step over those of ComfyUI's own way, same card."""
    own = {row["case"]: row.get("step_s") for row in rows if row["status"] == "ok"}
    found = []
    for row in rows:
        name = row["case"]
        base = own.get(name.replace(": limit", ": auto")) if ": limit" in name else None
        ratio = {"over_auto": round(row["step_s"] / base, 3)} if base and "step_s" in row else {}
        found.append({**row, **ratio})
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows for a reader."""
    lines = [
        (
            row["case"], row["status"], row.get("step_s"), row.get("over_auto"),
            _gb(row, "peak_bytes"), _gb(row, "predicted_bytes"), _percent(row, "predicted_error"),
            row.get("seconds"), (row.get("why") or "")[:WHY_SHOWN],
        )
        for row in rows
    ]  # fmt: skip
    return text_table(HEADERS, lines)


def _gb(row: Row, key: str) -> float | None:
    return round(row[key] / GB, 2) if row.get(key) else None


def _percent(row: Row, key: str) -> float | None:
    return None if row.get(key) is None else round(100 * row[key], 1)


def counted(rows: Sequence[Row]) -> str:
    """How many are ok, skipped and failed."""
    return ", ".join(f"{sum(row['status'] == word for row in rows)} {word}" for word in STATUS)


def comfy_version(comfy: str) -> str | None:
    """What ComfyUI's comfyui_version.py says."""
    path = Path(comfy) / "comfyui_version.py"
    words = path.read_text(encoding="utf-8").split('"') if path.is_file() else []
    return words[1] if len(words) > 1 else None


def commit(root: Path) -> str | None:
    """The commit of the repository, `+` behind it where files were changed; None without git."""
    git = ["git", "-C", str(root)]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def said(*words: str) -> str | None:
        try:
            done = subprocess.run([*git, *words], capture_output=True, text=True, env=environment)
        except OSError:
            return None
        return None if done.returncode else done.stdout.strip()

    head = said("rev-parse", "--short", "HEAD")
    return head and head + ("+" if said("status", "--porcelain") else "")
