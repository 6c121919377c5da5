"""Run by ComfyUI's interpreter: sets ComfyUI to the CPU, loads this repository, calls a script.

Arguments: the script, the file for its lines. Standard input: its options as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

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


def main(script: Path, lines: Path) -> None:
    """Call the script's `run` and write one JSON line for each dictionary it makes."""
    options = json.load(sys.stdin)
    # names of this folder must not hide ComfyUI's own modules (server, ...)
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != LIVE]
    from comfy.cli_args import args

    args.cpu = True
    args.disable_api_nodes = True
    load("fusequant", ROOT / "__init__.py", ROOT)
    load("tiny", LIVE / "tiny.py")
    load("small_sizes", LIVE / "small_sizes" / "__init__.py", LIVE / "small_sizes")
    made = load("live_script", script).run(**options)
    with lines.open("w", encoding="utf-8") as out:
        for line in [made] if isinstance(made, dict) else made or ():
            out.write(json.dumps(line) + "\n")
            out.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
