"""Nothing in, pytest's exit code out: the tests marked `gpu`, with this repository as `fusequant`.

NO_PYTEST stands for a ComfyUI whose interpreter has none; nothing is installed there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

from .start import ROOT

FOLDERS = ("tests/kernels", "tests/engine")
NO_PYTEST = 77
OPTIONS = (
    "-m", "gpu", "-q", "--maxfail=20", "--tb=line", "--no-header", "-p", "no:cacheprovider",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the tests."""
    if importlib.util.find_spec("pytest") is None:
        sys.stderr.write("ComfyUI's interpreter has no pytest (pip install pytest)\n")
        return NO_PYTEST
    pytest = importlib.import_module("pytest")
    folders = [str(ROOT / folder) for folder in FOLDERS]
    return int(pytest.main([*OPTIONS, "--rootdir", str(ROOT), *folders, *arguments]))
