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

import pytest
from PIL import Image

from fusequant.engine.recipe import VERSION

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
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


def test_what_the_registry_shows_is_given() -> None:
    """The fields that `comfy node publish` sends; its own validator lets all of them be empty."""
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert set(comfy) == {
        "PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui", "includes",
    }  # fmt: skip
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert comfy["includes"] == []  # nothing that git ignores is needed
    assert 20 < len(project["description"]) < 200
    assert len(project["name"]) < 100 and not re.search(r"[-_.]{2}|^\d", project["name"])
    assert project["license"] == "Apache-2.0" and (ROOT / "LICENSE").is_file()
    home = project["urls"]["Repository"]
    assert home.startswith("https://github.com/")
    assert all(url.startswith(home) for url in project["urls"].values())


@pytest.mark.parametrize("field", ["Icon", "Banner"])
def test_pictures_of_the_registry_are_in_the_repository(field: str) -> None:
    """The address is the raw file of the main branch, and that file is here in the right size."""
    home = PROJECT["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    start = f"https://raw.githubusercontent.com/{home}/main/"
    address = PROJECT["tool"]["comfy"][field]
    assert address.startswith(start)
    path = ROOT / address.removeprefix(start)
    with Image.open(path) as picture:
        width, height = picture.size
    if field == "Icon":
        assert width == height <= 400
    else:
        assert width * 9 == height * 21
    assert path.stat().st_size < 200_000


def test_the_version_is_the_same_everywhere() -> None:
    """pyproject, recipes in files, the newest entry of the changelog: semantic, and one."""
    heads = re.findall(r"^## (\S+) - (\S+)$", CHANGELOG, re.MULTILINE)
    assert heads[0][0] == PROJECT["project"]["version"] == VERSION
    versions = [tuple(map(int, version.split("."))) for version, _ in heads]
    assert versions == sorted(set(versions), reverse=True)
    for _, date in heads[1:]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date), "only the newest may be unreleased"
    assert heads[0][1] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", heads[0][1])


def test_the_version_is_published_by_its_own_tag() -> None:
    """The workflow that publishes compares the tag with pyproject before it sends anything."""
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert 'tags: ["v*.*.*"]' in text
    assert "Comfy-Org/publish-node-action@" in text
    assert text.index("python -m pytest") < text.index("Comfy-Org/publish-node-action@")


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
