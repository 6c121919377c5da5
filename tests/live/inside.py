"""Run by ComfyUI's interpreter: sets ComfyUI to the CPU, loads this repository, calls scripts.

The argument `one`: a request on standard input, as JSON. The argument `forks`: a line for each,
JSON of the seconds it may take and the request; ComfyUI is imported before the first, each runs in
a fork of this process, and its exit code (null when it took too long) is the line of the answer.

A request: the script, its options, the file for its lines and the one for all that it writes.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

LIVE = Path(__file__).resolve().parent
ROOT = LIVE.parents[1]


def load(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """A file -> the module under `name`; with `folder` it is a package of that folder."""
    places = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as {name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def prepare() -> None:
    """ComfyUI on the CPU; names of this folder must not hide its own modules (server, ...)."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != LIVE]
    from comfy.cli_args import args

    args.cpu = True
    args.disable_api_nodes = True


def call(script: str, options: dict[str, Any], lines: str, log: str) -> None:
    """Call the script's `run` and write one JSON line for each dictionary it makes."""
    with open(log, "wb") as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    load("fusequant", ROOT / "__init__.py", ROOT)
    load("tiny", LIVE / "tiny.py")
    load("small_sizes", LIVE / "small_sizes" / "__init__.py", LIVE / "small_sizes")
    made = load("live_script", Path(script)).run(**options)
    with open(lines, "w", encoding="utf-8") as out:
        for line in [made] if isinstance(made, dict) else made or ():
            out.write(json.dumps(line) + "\n")
            out.flush()


def serve() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import comfy.sd  # noqa: F401

    gc.collect()
    gc.freeze()  # what is imported stays; ComfyUI has all the rest looked through for every model
    forks = multiprocessing.get_context("fork")
    for line in sys.stdin:
        seconds, request = json.loads(line)
        fork = forks.Process(target=call, kwargs=json.loads(request))
        fork.start()
        fork.join(seconds)
        answers.write(f"{json.dumps(fork.exitcode)}\n")
        answers.flush()
        if fork.exitcode is None:
            fork.kill()
            fork.join()


if __name__ == "__main__":
    prepare()
    if sys.argv[1] == "forks":
        serve()
    else:
        call(**json.load(sys.stdin))
