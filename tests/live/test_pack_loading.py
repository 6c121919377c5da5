"""The pack in ComfyUI's process: it loads without its optional packages and changes nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from .comfy import Comfy
from .inprocess import run_inside

ROOT = Path(__file__).resolve().parents[2]
# what ComfyUI does not bring (einops it needs itself, and cannot start without)
OPTIONAL = ("triton", "optimum", "torchao", "matplotlib")
OURS = ("FuseQuant", "fusequant", "float8_e4m3fn_rowwise", "float8_e4m3fn_blockwise", "awq_w4a16")

Facts = dict[str, dict[str, Any]]


def asked(comfy: Comfy, base: Path, missing: list[str] | None, fresh: bool = False) -> Facts:
    """The lines of the script by what they are about."""
    lines = run_inside(comfy, "pack_loading", fresh=fresh, base=base, missing=missing)
    return {line.pop("fact"): line for line in lines}


@pytest.fixture(scope="module")
def whole(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """The pack with whatever is installed."""
    return asked(comfy, tmp_path_factory.mktemp("whole"), None)


def installed(comfy: Comfy) -> list[str]:
    """Which of the optional packages ComfyUI's interpreter has."""
    code = (
        "import importlib.util as u, sys\n"
        f"print(*[n for n in {OPTIONAL!r} if u.find_spec(n)])"
    )  # fmt: skip
    done = subprocess.run([str(comfy.python), "-c", code], capture_output=True, text=True)
    return done.stdout.split()


def test_every_node_loads(whole: Facts) -> None:
    files = [path for path in (ROOT / "nodes").glob("*.py") if path.stem[0] != "_"]
    assert len(whole["nodes"]["ids"]) == len(files)
    assert whole["nodes"]["left_out"] == []


def test_every_node_loads_without_any_optional_package(
    comfy: Comfy, whole: Facts, tmp_path: Path
) -> None:
    bare = asked(comfy, tmp_path, list(OPTIONAL), fresh=True)  # ComfyUI has to start without too
    for fact in ("ids", "left_out"):
        assert bare["nodes"][fact] == whole["nodes"][fact]
    assert bare["schemes"]["schemes"] == whole["nodes"]["schemes"]


def test_every_node_loads_without_each_package_that_is_installed(
    comfy: Comfy, whole: Facts, tmp_path: Path
) -> None:
    """Those that are not installed are missing in every test here."""
    for package in installed(comfy):
        bare = asked(comfy, tmp_path / package, [package])
        for fact in ("ids", "left_out"):
            assert bare["nodes"][fact] == whole["nodes"][fact], package
        assert bare["schemes"]["schemes"] == whole["nodes"]["schemes"], package


def test_loading_the_pack_changes_nothing_in_the_process(whole: Facts) -> None:
    looked = whole["looked at"]
    assert looked["objects"] > 3000 and looked["model_management"] > 20
    assert looked["torch"] > 10 and looked["formats"] > 5 and looked["handlers"] > 10
    assert whole["loading"] == {"changed": [], "added": []}


def test_using_it_adds_its_own_formats_and_replaces_nothing(whole: Facts) -> None:
    assert whole["using"]["changed"] == []
    added = whole["using"]["added"]
    assert {line.split(": ")[0] for line in added} <= {"formats", "handlers", "layouts"}
    foreign = [line for line in added if not any(name in line for name in (*OURS, "SchemeLayout"))]
    assert foreign == []


def test_the_hosts_own_tests_of_quantization_pass_unchanged(comfy: Comfy) -> None:
    folder = comfy.path / "tests-unit" / "comfy_quant"
    if not folder.is_dir():
        pytest.skip("this ComfyUI came without its tests-unit folder")
    with_pack = run_inside(comfy, "core_quant_tests", 300, folder=folder, pack=True)
    assert with_pack.pop(0)["pack"] > 0
    broken = [line for line in with_pack if line["outcome"] == "failed"]
    if broken:  # a host that fails by itself says nothing about us
        without = run_inside(comfy, "core_quant_tests", 300, folder=folder, pack=False)
        names = {line["test"] for line in without if line["outcome"] == "failed"}
        broken = [line for line in broken if line["test"] not in names]
    assert broken == []
    assert sum(line["outcome"] == "passed" for line in with_pack) > 3
