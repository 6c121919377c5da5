"""A ComfyUI on this machine -> a clean copy of it that a pack can be installed into.

The copy has an interpreter of its own. It sees the packages of the first one through links, less
those that only our requirements bring: pip fetches these as on a user's machine, and nothing that
is installed here ever reaches the first one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..live.comfy import Comfy
from ..live.server import ComfyServer

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = {".venv", "venv", ".git", "output", "temp", "user", "input"}
OURS = ("optimum-quanto", "torchao", "matplotlib")  # what ComfyUI does not bring
QUIET = {
    "DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "GIT_TERMINAL_PROMPT": "0", "NO_PROXY": "127.0.0.1", "PYTHONIOENCODING": "utf-8",
}  # fmt: skip
LISTED = """
import importlib.metadata as m, json, os, site, sys
ours = set()
for name in json.loads(sys.argv[1]):
    try: ours |= {f.parts[0] for f in m.distribution(name).files or ()}
    except m.PackageNotFoundError: pass
entries = [e.path for e in os.scandir(site.getsitepackages()[-1])]
print(json.dumps([e for e in entries if os.path.basename(e) not in ours | {"__pycache__"}]))
"""


@dataclass(frozen=True)
class Step:
    """One command of an installation: what it was, how long it took, what it said at the end."""

    way: str
    step: str
    seconds: float
    said: str = ""


STEPS: list[Step] = []  # of all ways, in the order in which they ran
VERSIONS: dict[str, str] = {}  # what was installed with what
WENT: set[str] = set()  # the ways that were gone to their end


@dataclass
class Bed:
    """A clean ComfyUI in `base`/ComfyUI; everything that is timed goes into STEPS."""

    way: str
    base: Path

    @property
    def comfy(self) -> Comfy:
        """Its folder and its interpreter."""
        folder = self.base / "ComfyUI"
        inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
        return Comfy(folder, folder / ".venv" / inside)

    @property
    def pack(self) -> Path:
        """Where the pack is when it is installed."""
        return self.comfy.path / "custom_nodes" / "fusequant"

    def environment(self) -> dict[str, str]:
        """This process's environment with a home of its own and no other virtual environment."""
        kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
        cache = kept.get("PIP_CACHE_DIR") or str(Path.home() / ".cache" / "pip")
        home = {"HOME": str(self.base / "home"), "PIP_CACHE_DIR": cache}
        return {**kept, **QUIET, **home, "COMFYUI_PATH": str(self.comfy.path)}

    def run(self, step: str, *command: str, cwd: Path | None = None, last: str = "") -> str:
        """Run a command, time it under `step`, give back what it wrote; raise where it failed.

        What is remembered is the last line with the word `last`.
        """
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=cwd or self.comfy.path, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        seconds = time.monotonic() - started
        if done.returncode:
            raise RuntimeError(f"{step} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        self.note(step, seconds, said(done.stdout, last).replace(str(self.base), "…"))
        return done.stdout

    def note(self, step: str, seconds: float, line: str = "") -> None:
        """Remember a step that was timed elsewhere."""
        STEPS.append(Step(self.way, step, round(seconds, 2), line))

    def done(self) -> None:
        """The end of the way was reached: its times may be recorded, and the copy can go."""
        WENT.add(self.way)
        shutil.rmtree(self.base)

    def python(self, step: str, *arguments: str, cwd: Path | None = None, last: str = "") -> str:
        """The same with the copy's own interpreter."""
        return self.run(step, str(self.comfy.python), *arguments, cwd=cwd, last=last)


def said(text: str, word: str) -> str:
    """The last line of a text that has the word in it; nothing without a word."""
    lines = [line.strip() for line in text.splitlines() if word and word in line]
    return " ".join(lines[-1].split())[:200] if lines else ""


def make_bed(way: str, first: Comfy, base: Path) -> Bed:
    """Copy ComfyUI into `base` and give it an interpreter."""
    bed = Bed(way, base)
    for folder in (base / "home", base / "shared"):
        folder.mkdir(parents=True)
    shutil.copytree(first.path, bed.comfy.path, ignore=_left_out(first.path))
    for pack in (bed.comfy.path / "custom_nodes").iterdir():
        if pack.is_dir() and not pack.is_symlink():
            shutil.rmtree(pack)
    environment = str(bed.comfy.path / ".venv")
    subprocess.run([str(first.python), "-m", "venv", environment], check=True)
    _link_packages(first, bed)
    return bed


def _left_out(top: Path) -> Callable[[str, list[str]], set[str]]:
    """What `copytree` leaves out: at the top what is no code, and compiled files everywhere."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        skipped = {"__pycache__"} | (NOT_COPIED if Path(folder) == top else set())
        return skipped & set(names)

    return ignored


def _link_packages(first: Comfy, bed: Bed) -> None:
    """The first interpreter's packages, less ours, on the path of the second."""
    command = [str(first.python), "-c", LISTED, json.dumps(OURS)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    for entry in map(Path, json.loads(listed.stdout)):
        if entry.suffix != ".pth":
            (bed.base / "shared" / entry.name).symlink_to(entry)
    ask = "import site; print(site.getsitepackages()[-1])"
    asked = subprocess.run(
        [str(bed.comfy.python), "-c", ask], capture_output=True, text=True, check=True
    )
    shared = str(bed.base / "shared")
    (Path(asked.stdout.strip()) / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")


class Started(ComfyServer):
    """ComfyUI as it was installed: its own folders, and in custom_nodes what was put there."""

    limit_s = 400.0  # nothing is compiled yet, and pip may have left the disk busy

    def __init__(self, bed: Bed, flags: tuple[str, ...] = ()) -> None:
        super().__init__(bed.comfy, bed.comfy.path, flags)

    def _prepare(self) -> None:
        for name in ("input", "output", "temp", "user"):
            (self.base / name).mkdir(exist_ok=True)


def our_nodes(server: Started) -> Mapping[str, str]:
    """A running ComfyUI -> id and module of every node that comes from the pack's folder."""
    module = "python_module"
    return {
        name: info[module]
        for name, info in server.object_info().items()
        if info.get(module) == "custom_nodes.fusequant"
    }
