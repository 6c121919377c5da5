"""A script of scripts/ -> the JSON lines it makes inside ComfyUI's own interpreter, on the CPU.

A script is a file with `def run(**options)` that returns or yields dictionaries. It finds ComfyUI's
packages, the repository as `fusequant`, the tiny models as `tiny` and the pack `small_sizes`, which
does nothing before its `replaced` is imported; it may print what it likes.

Importing ComfyUI takes longer than most scripts. Where a process can be forked, one process of each
run of pytest imports it, and nothing of this pack, and every script has a fork of that one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from .comfy import Comfy
from .server import ENVIRONMENT

SCRIPTS = Path(__file__).resolve().parent / "scripts"
INSIDE = Path(__file__).resolve().parent / "inside.py"
FORKS = sys.platform == "linux"


def run_inside(
    comfy: Comfy, script: str, timeout_s: float = 180.0, fresh: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """The name of a script (no suffix) and its options (JSON values, paths) -> its lines.

    `fresh`: in a process of its own, in which ComfyUI is not imported yet. Raises RuntimeError with
    what the process wrote when it failed.
    """
    with tempfile.TemporaryDirectory(prefix="fusequant-live-") as folder:
        lines, log = Path(folder) / "lines.jsonl", Path(folder) / "log"
        request = {"script": SCRIPTS / f"{script}.py", "lines": lines, "options": options}
        run = _started if fresh or not FORKS else _forked
        ended = run(comfy, json.dumps({**request, "log": log}, default=str), timeout_s)
        written = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if ended is None:
            raise RuntimeError(f"{script} took more than {timeout_s:.0f} s:\n{written}")
        if ended:
            raise RuntimeError(f"{script} ended with {ended}:\n{written}")
        return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def _open(comfy: Comfy, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(comfy.python), str(INSIDE), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=comfy.path,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(comfy.path)},
        text=True,
        encoding="utf-8",
    )


def _started(comfy: Comfy, request: str, timeout_s: float) -> int | None:
    """The exit code of a process for this request alone; None when it took too long."""
    with _open(comfy, "one") as process:
        try:
            process.communicate(request, timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        return process.returncode


@cache
def _parent(comfy: Comfy) -> subprocess.Popen[str]:
    """The process that is forked; it ends when this one does, with which its input closes."""
    return _open(comfy, "forks")


def _forked(comfy: Comfy, request: str, timeout_s: float) -> int | None:
    """The exit code of a fork; None when it took too long."""
    parent = _parent(comfy)
    if parent.stdin is None or parent.stdout is None:
        raise RuntimeError("the process that is forked has no pipes")
    parent.stdin.write(json.dumps([timeout_s, request]) + "\n")
    parent.stdin.flush()
    answer = parent.stdout.readline()
    if not answer:
        raise RuntimeError(f"ComfyUI could not be imported: ended with {parent.wait()}")
    code = json.loads(answer)
    return None if code is None else int(code)
