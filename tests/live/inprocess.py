"""A script of scripts/ -> the JSON lines it makes inside ComfyUI's own interpreter, on the CPU.

A script is a file with `def run(**options)` that returns or yields dictionaries. It finds ComfyUI's
packages, the repository as `fusequant`, the tiny models as `tiny` and the pack `small_sizes`, which
does nothing before its `replaced` is imported; it may print what it likes.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .comfy import Comfy
from .server import ENVIRONMENT

SCRIPTS = Path(__file__).resolve().parent / "scripts"
INSIDE = Path(__file__).resolve().parent / "inside.py"


def run_inside(
    comfy: Comfy, script: str, timeout_s: float = 180.0, **options: Any
) -> list[dict[str, Any]]:
    """The name of a script (no suffix) and its options (JSON values, paths) -> its lines.

    Raises RuntimeError with what the process wrote when it failed.
    """
    with tempfile.TemporaryDirectory(prefix="fusequant-live-") as folder:
        lines = Path(folder) / "lines.jsonl"
        done = subprocess.run(
            [str(comfy.python), str(INSIDE), str(SCRIPTS / f"{script}.py"), str(lines)],
            input=json.dumps(options, default=str),
            cwd=comfy.path,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(comfy.path)},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
        )
        if done.returncode:
            written = done.stdout + done.stderr
            raise RuntimeError(f"{script} ended with {done.returncode}:\n{written}")
        return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
