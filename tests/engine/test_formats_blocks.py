"""ComfyUI's packed and block-scaled formats: logical shapes, numbers, faults, mended copies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.layer import Layer
from fusequant.engine.pipeline import convert
from fusequant.engine.problem_kinds import KINDS
from fusequant.engine.read import examine, formats, read
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import rows_of
from fusequant.engine.source import Source

from .dialects import NAME, Tensors, marker
from .dialects_blocks import BLOCKS, SMOOTHED, K, N
from .faults_blocks import FAULTS, NV, damaged, with_

ALL = BLOCKS | SMOOTHED
every = pytest.mark.parametrize("name", ALL)


def saved(tmp_path: Path, tensors: Tensors, name: str = "model") -> Path:
    path = tmp_path / f"{name}.safetensors"
    save_file({key: t.clone().contiguous() for key, t in tensors.items()}, path)
    return path


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to float32's rounding of a rotation's sum."""
    assert got.shape == expected.shape
    difference = (got.double() - expected.double()).abs().max()
    assert difference <= 1e-6 * expected.abs().max()


def opened(tmp_path: Path, tensors: Tensors) -> Source:
    return open_source(saved(tmp_path, tensors))


def the_layer(source: Source) -> Layer:
    return next(x for x in read(source).layers if x.key == f"{NAME}.weight")


@every
def test_one_format_claims_the_file_and_the_layer_has_its_logical_shape(
    name: str, tmp_path: Path
) -> None:
    tensors, scheme, shape, expected = ALL[name]
    source = opened(tmp_path, tensors)
    assert [form.name for form in formats().values() if form.detect(source)] == ["core"]
    contents, found = read(source), the_layer(source)
    assert (found.scheme, found.shape, contents.problems) == (scheme, shape, ())
    used = [x for y in contents.layers for part in y.parts for x in part.tensors.values()]
    assert sorted([*used, *contents.ignored]) == sorted(tensors)
    got = rows_of(found, source)(0, shape[0])
    close(got, expected)


@every
def test_any_run_of_rows_is_a_cut_of_the_whole(name: str, tmp_path: Path) -> None:
    tensors, _, shape, _ = ALL[name]
    source = opened(tmp_path, tensors)
    reader = rows_of(the_layer(source), source)
    whole = reader(0, shape[0])
    for start, stop in ((0, 128), (64, 130), (127, 129), (128, shape[0]), (3, 67), (184, 185)):
        close(reader(start, stop), whole[start:stop])


@every
def test_a_mended_copy_has_the_same_bytes_and_the_shape_in_its_json(
    name: str, tmp_path: Path
) -> None:
    tensors, _, shape, _ = ALL[name]
    source, out = opened(tmp_path, tensors), tmp_path / "mended.safetensors"
    convert(prepare_repair(source), out)
    made = load_file(out)
    assert set(made) == set(tensors)
    for key, tensor in tensors.items():
        if key.endswith(("comfy_quant", "pre_quant_scale")):
            continue
        assert torch.equal(made[key].reshape(-1).view(torch.uint8), raw(tensor)), key
    facts = json.loads(made[f"{NAME}.comfy_quant"].numpy().tobytes())
    said = json.loads(tensors[f"{NAME}.comfy_quant"].numpy().tobytes())
    full = (made[f"{NAME}.weight"].shape[0], K) == shape
    assert said.items() <= facts.items()
    assert facts.get("orig_shape") == (None if full else list(shape))
    assert the_layer(open_source(out)).shape == shape
    if f"{NAME}.pre_quant_scale" in tensors:
        assert torch.equal(
            made[f"{NAME}.pre_quant_scale"], tensors[f"{NAME}.pre_quant_scale"].float()
        )


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@every
def test_dequant_writes_the_numbers_in_the_logical_shape(name: str, tmp_path: Path) -> None:
    tensors, _, _, expected = ALL[name]
    source, out = opened(tmp_path, tensors), tmp_path / "plain.safetensors"
    convert(prepare_dequant(source), out)
    found = load_file(out)
    assert set(found) == {f"{NAME}.weight", f"{NAME}.bias"}
    close(found[f"{NAME}.weight"], expected)


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    paths = [str(saved(tmp_path, ALL[name][0], name)) for name in ALL]
    code = (
        "import sys\n"
        "from fusequant.engine.inspect import inspect\n"
        "print([inspect(path).dialect for path in sys.argv[1:]])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_refusal_names_the_layer(tmp_path: Path) -> None:
    for pairs in FAULTS.values():
        for sick, _ in pairs:
            source = opened(tmp_path, sick)
            problems = examine(source).problems
            refused = {p.layer for p in problems if KINDS[p.kind].refuses}
            assert refused <= {NAME} and NAME in {problem.layer for problem in problems}
            if refused:
                with pytest.raises(Refused) as refusal:
                    read(source)
                assert refusal.value.layer == NAME


def test_what_fills_up_a_tile_is_no_fault(tmp_path: Path) -> None:
    """Row 192 of 256 stands at tile row 1, quarter 2, row 0."""
    at = (1 * 4) * 512 + 2 * 4
    source = opened(tmp_path, with_(NV, weight_scale=damaged(at, 0x7F)))
    assert read(source).problems == ()


def test_a_shape_that_does_not_fit_the_codes_is_not_believed(tmp_path: Path) -> None:
    told = marker(format="nvfp4", orig_shape=[100, 256])
    assert the_layer(opened(tmp_path, with_(NV, comfy_quant=told))).shape == (N, K)
