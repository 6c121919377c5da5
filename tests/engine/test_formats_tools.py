"""Checkpoints of other tools: who claims them, their layers and numbers, and what is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import inspect
from fusequant.engine.pipeline import convert
from fusequant.engine.read import formats, read
from fusequant.engine.repairable import mend_layer
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import all_schemes, rows_of

from .tool_dialects import NAME, TOOLS

KEY = f"{NAME}.weight"


@pytest.fixture
def path(tmp_path: Path, name: str) -> Path:
    """The file of a tool."""
    tool, where = TOOLS[name], tmp_path / f"{name}.safetensors"
    own = {key: tensor.clone().contiguous() for key, tensor in tool.tensors.items()}
    save_file(own, where, tool.metadata or None)
    return where


@pytest.fixture
def source(path: Path):
    found = open_source(path)
    yield found
    found.close()


@pytest.mark.parametrize("name", TOOLS)
def test_one_format_claims_the_file_and_reads_every_number(name, source):
    claims = [form.name for form in formats().values() if form.detect(source)]
    contents = read(source)
    assert (claims, contents.format) == ([TOOLS[name].dialect], TOOLS[name].dialect)
    assert contents.problems == ()
    layer = next(x for x in contents.layers if x.key == KEY)
    assert (layer.scheme, layer.shape) == (TOOLS[name].scheme, (192, 256))
    found = rows_of(layer, source)(0, 192)
    torch.testing.assert_close(found, TOOLS[name].numbers, rtol=1e-6, atol=0)
    assert {x.key: x.scheme for x in contents.layers if x is not layer} == {f"{NAME}.bias": "none"}
    used = [x for y in contents.layers for part in y.parts for x in part.tensors.values()]
    assert sorted([*used, *contents.ignored]) == sorted(TOOLS[name].tensors)


@pytest.mark.parametrize("name", TOOLS)
def test_dequant_writes_the_numbers_under_the_plain_name(name, source, tmp_path):
    out = tmp_path / "out.safetensors"
    convert(prepare_dequant(source), out)
    found = load_file(out)
    assert sorted(found) == [f"{NAME}.bias", KEY]
    torch.testing.assert_close(found[KEY], TOOLS[name].numbers, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", TOOLS)
def test_repair_keeps_the_numbers_where_a_scheme_holds_them(name, source, tmp_path):
    out, home = tmp_path / "out.safetensors", TOOLS[name].home
    layer = next(x for x in read(source).layers if x.key == KEY)
    mended = mend_layer(layer)
    assert mended.scheme == home
    assert mended.action == ("dequantize" if home == "none" else "respell" if home == layer.scheme
                             else "restate")  # fmt: skip
    before = rows_of(layer, source)(0, 192)
    convert(prepare_repair(source), out)
    again = open_source(out)
    found = next(x for x in read(again).layers if x.key == KEY)
    assert found.scheme == home or (home, found.scheme) == ("int8_weight_only", "int8")
    numbers = rows_of(found, again)(0, 192)
    if home == "none":
        wanted = TOOLS[name].numbers.to(numbers.dtype)
        torch.testing.assert_close(numbers, wanted, rtol=2**-8, atol=0)
    else:
        assert torch.equal(numbers, before)
    again.close()


@pytest.mark.parametrize("name", TOOLS)
def test_inspect_tells_the_dialect_and_our_loader(name, path):
    report = inspect(path)
    assert report.dialect == TOOLS[name].dialect
    assert report.layers == {TOOLS[name].scheme: 1, "none": 1}
    assert report.parameters == 192 * 256 + 192
    assert "other-tool" in {problem.kind for problem in report.problems}


def test_every_dialect_holds_every_home():
    homes = {tool.home for tool in TOOLS.values()}
    only_comfyui = {"int8_convrot", "fp8_e5m2", "nvfp4", "mxfp8", "w4a8", "w4a4_convrot"}
    assert homes == {*all_schemes()} - only_comfyui


def test_reading_needs_no_torch(tmp_path):
    paths = []
    for name, tool in TOOLS.items():
        paths.append(str(tmp_path / f"{name}.safetensors"))
        own = {key: x.clone().contiguous() for key, x in tool.tensors.items()}
        save_file(own, paths[-1], tool.metadata or None)
    code = (
        "import sys\n"
        "from fusequant.engine.files.open import open_source\n"
        "from fusequant.engine.read import read\n"
        "print([read(open_source(path)).format for path in sys.argv[1:]])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
