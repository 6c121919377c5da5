"""Every dialect: inspect names it, its numbers are read, repair keeps them; the table says so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import inspect
from fusequant.engine.layer import Layer
from fusequant.engine.pipeline import convert
from fusequant.engine.read import formats, read
from fusequant.engine.rewrite import prepare_repair
from fusequant.engine.rows import rows_of

from .cases import Case, cases
from .dialects import NAME

ROOT = Path(__file__).resolve().parents[2]
READ = {name: case for name, case in cases().items() if case.refusal is None}
REFUSED = {name: case for name, case in cases().items() if case.refusal is not None}


def the_layer(layers: tuple[Layer, ...]) -> Layer:
    return next(layer for layer in layers if layer.key.endswith(f"{NAME}.weight"))


def numbers(path: Path) -> torch.Tensor:
    source = open_source(path)
    layer = the_layer(read(source).layers)
    found = rows_of(layer, source)(0, layer.shape[0]).clone()
    source.close()
    return found


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_inspect_names_the_dialect_and_the_scheme(case: Case, tmp_path: Path) -> None:
    report = inspect(case.write(tmp_path))
    assert report.dialect == case.dialect
    assert report.layers[str(case.scheme)] >= 1


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_the_numbers_are_read(case: Case, tmp_path: Path) -> None:
    found = numbers(case.write(tmp_path))
    if case.numbers is not None:
        largest = float(case.numbers.float().abs().max())  # a rotation adds up in float32
        torch.testing.assert_close(found, case.numbers.float(), rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_repair_keeps_the_numbers(case: Case, tmp_path: Path) -> None:
    """Code for code where a format of ours holds them, else rounded once to 16 bits."""
    path, mended = case.write(tmp_path), tmp_path / "mended.safetensors"
    before = numbers(path)
    written = convert(prepare_repair(open_source(path)), mended)
    output = next(o for o in written.prepared.outputs if o.choice.layer.key.endswith(".weight"))
    after = numbers(mended)
    if output.choice.scheme == "none":
        dtype = torch.float16 if output.choice.dtype == "F16" else torch.bfloat16
        kept = output.choice.dtype == "F32"
        assert after.equal(before if kept else before.to(dtype).float())
    else:
        torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_refused_by_its_name(case: Case, tmp_path: Path) -> None:
    source = open_source(case.write(tmp_path))
    with pytest.raises(Refused) as refusal:
        read(source)
    assert refusal.value.kind == case.refusal
    source.close()


def test_every_dialect_has_a_file_that_proves_it() -> None:
    proven = {case.dialect for case in cases().values()}
    assert set(formats()) - proven == set(), "formats without a fixture"
    assert proven - set(formats()) == set(), "fixtures of no format"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that writes the table."""
    place = ROOT / "benchmarks" / "make_dialects.py"
    spec = importlib.util.spec_from_file_location("make_dialects", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_dialects"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_is_the_one_that_the_fixtures_make(script: ModuleType) -> None:
    written = script.PAGE.read_text(encoding="utf-8")
    assert written == script.page(cases()), "run `python benchmarks/make_dialects.py`"


def test_every_cell_names_a_test_that_is_there(script: ModuleType) -> None:
    for column, (file, test) in script.PROOFS.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text, column
