"""The name of a module here and its arguments in, its exit code out; run by ComfyUI's interpreter.

Gives the module this repository as `fusequant` and the tiny models' tables as `tiny`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = "fusequant_gpu"


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


def main(module: str, *arguments: str) -> int:
    """Load the packages and call `module`'s `main`."""
    # names of this folder must not hide ComfyUI's own modules
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    load("fusequant", ROOT / "__init__.py", ROOT)
    load(PACKAGE, HERE / "__init__.py", HERE)
    return int(importlib.import_module(f"{PACKAGE}.{module}").main(list(arguments)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
