"""Without any optional package the engine fuses, quantizes, saves, and says what it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = ("comfy_kitchen", "triton", "matplotlib", "optimum", "torchao", "gguf", "psutil")
SCHEMES = (
    "fp8", "fp8_row", "int8", "int8_convrot", "int4_g128", "mxfp8", "nvfp4", "w4a4_convrot", "w4a8",
)  # fmt: skip

CODE = """
import importlib.abc, json, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from fusequant.cli.main import main
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import write_flux_like
folder = {folder!r}
write_flux_like(folder + "/m.safetensors", FluxConfig(256, 1, 1), seed=1)
for scheme in {schemes!r}:
    out = f"{{folder}}/{{scheme}}.safetensors"
    code = main(["convert", folder + "/m.safetensors", "--scheme", scheme, "--out", out])
    sys.exit(code) if code else None
from fusequant.engine.measure.chart import bars
from fusequant.kernels.registry import describe_backends
sys.stderr.write(json.dumps({{
    "chart": bars(folder + "/c.png", "t", [("a", {{"b": 1.0}})]),
    "backends": {{facts.name: facts.refusal for facts in describe_backends()}},
}}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("bare")
    code = CODE.format(missing=set(OPTIONAL), folder=str(folder), schemes=SCHEMES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(Path(folder).glob("*.safetensors"))) == 1 + len(SCHEMES)
    found: dict[str, object] = json.loads(done.stderr.splitlines()[-1])
    return found


def test_converting_needs_none_of_them(told: dict[str, object]) -> None:
    assert told["backends"]["reference"] is None  # type: ignore[index]
    assert told["backends"]["torch_native"] is None  # type: ignore[index]


def test_what_is_missing_is_named(told: dict[str, object]) -> None:
    assert "comfy_kitchen" in told["backends"]["kitchen"]  # type: ignore[index]
    assert "matplotlib" in str(told["chart"])
