"""What ComfyUI-Manager and the registry read: pyproject, requirements, versions in step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from fusequant.engine.recipe import VERSION

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

ACCELERATORS = {
    "Environment :: GPU :: NVIDIA CUDA", "Environment :: GPU :: AMD ROCm",
    "Environment :: GPU :: Intel Arc", "Environment :: NPU :: Huawei Ascend",
    "Environment :: GPU :: Apple Metal",
}  # fmt: skip
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")


def test_requirements_are_the_dependencies() -> None:
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert listed == PROJECT["project"]["dependencies"]


def test_nothing_that_comfyui_brings_is_required() -> None:
    forbidden = re.compile(r"^(torch|numpy|comfy-kitchen|comfy-aimdo|torchvision)\b(?!ao)")
    assert not [d for d in PROJECT["project"]["dependencies"] if forbidden.match(d)]


def test_the_registry_can_parse_the_project() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z0-9-]+", project["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["version"] == VERSION
    assert comfy["PublisherId"]
    assert comfy["DisplayName"]
    for line in project["classifiers"]:
        if line.startswith("Operating System :: "):
            assert line.removeprefix("Operating System :: ").startswith(SYSTEMS)
        elif line.startswith("Environment :: "):
            assert line in ACCELERATORS  # one unknown value empties the whole list


def test_every_package_folder_is_listed() -> None:
    rooms = ("kernels", "engine", "cli", "host", "nodes")
    folders = {p.parent for room in rooms for p in (ROOT / room).rglob("__init__.py")}
    names = {".".join(("fusequant", *f.relative_to(ROOT).parts)) for f in folders}
    assert names | {"fusequant"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_root_imports_in_twenty_milliseconds() -> None:
    code = (
        "import time, importlib.util; s = time.perf_counter();"
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r});"
        "m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m);"
        "import sys; sys.stdout.write(str(time.perf_counter() - s))"
    )
    best = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        for _ in range(3)
    )
    assert best < 0.020
