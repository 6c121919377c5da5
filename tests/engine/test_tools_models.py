"""A FLUX of Diffusers as each tool saves it: dequantized, mended, converted, opened as a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import inspect
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import make_weights
from fusequant.engine.model import recognise
from fusequant.engine.pipeline import Request, convert, prepare
from fusequant.engine.read import read
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import rows_of

from .tool_files import HOMES, SPELL, Tensors, as_diffusers, save, save_folder, spelled

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
QKV = "double_blocks.0.img_attn.qkv"
PARTS = [f"transformer_blocks.0.attn.to_{x}.weight" for x in "qkv"]


@pytest.fixture(scope="module")
def state() -> Tensors:
    """The weights under the names of Diffusers."""
    return as_diffusers(make_weights(CONFIG, seed=3))


@pytest.fixture(scope="module", params=SPELL)
def saved(
    request: pytest.FixtureRequest, state: Tensors, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Tensors]]:
    """(tool, its file, the numbers in it)."""
    path = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    yield request.param, path, save(request.param, state, path)


def test_inspect_knows_the_family_and_our_loader(saved):
    _, path, _ = saved
    report = inspect(path)
    assert report.family == "flux"
    assert report.loads_in == ("FuseQuant: Load FP8 DiT",)
    told = {problem.kind for problem in report.problems}
    assert {"other-tool", "names-not-core"} <= told
    assert told <= {"other-tool", "names-not-core", "no-core-format"}


def test_dequant_has_the_tool_s_numbers(saved, tmp_path):
    _, path, means = saved
    out = tmp_path / "out.safetensors"
    convert(prepare_dequant(open_source(path)), out)
    found = load_file(out)
    for key, wanted in means.items():
        torch.testing.assert_close(found[key], wanted, rtol=1e-6, atol=0)


def test_repair_joins_the_parts_code_for_code(saved, tmp_path):
    tool, path, means = saved
    out = tmp_path / "out.safetensors"
    written = convert(prepare_repair(open_source(path)), out)
    source = open_source(out)
    model = recognise(read(source))
    assert (model.family.name, model.spelling) == ("flux", "core")
    layer = next(x for x in model.layers if x.key == f"{QKV}.weight")
    wanted = torch.cat([means[key] for key in PARTS])
    found = rows_of(layer, source)(0, 768)
    if tool in HOMES:
        assert written.layers[HOMES[tool]] == 13
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    else:
        assert set(written.layers) == {"none"}
        assert torch.equal(found, wanted.bfloat16().float())
    assert not any("rounds them twice" in text for text in written.prepared.plan.warnings)
    source.close()


def test_converting_to_the_scheme_that_holds_them_keeps_the_codes(saved, tmp_path):
    tool, path, means = saved
    scheme = HOMES.get(tool, "int8")
    prepared = prepare(open_source(path), (), Request(scheme=scheme))
    twice = any("rounds them twice" in text for text in prepared.plan.warnings)
    assert twice == (tool not in HOMES)
    out = tmp_path / "out.safetensors"
    convert(prepared, out)
    source = open_source(out)
    layer = next(x for x in read(source).layers if x.key == f"{QKV}.weight")
    found, wanted = rows_of(layer, source)(0, 768), torch.cat([means[key] for key in PARTS])
    error = float((found - wanted).norm() / wanted.norm())
    assert error < (1e-6 if tool in HOMES else 0.03)
    source.close()


def test_converting_to_int8_is_near(saved, tmp_path):
    _, path, means = saved
    out = tmp_path / "out.safetensors"
    convert(prepare(open_source(path), (), Request(scheme="int8")), out)
    source = open_source(out)
    layer = next(x for x in read(source).layers if x.key == f"{QKV}.weight")
    assert layer.scheme == "int8"
    found, wanted = rows_of(layer, source)(0, 768), torch.cat([means[key] for key in PARTS])
    assert float((found - wanted).norm() / wanted.norm()) < 0.03
    source.close()


@pytest.mark.parametrize("tool", SPELL)
def test_a_folder_of_diffusers_opens(tool, state, tmp_path):
    means = save_folder(tool, state, tmp_path / "model" / "transformer")
    source = open_source(tmp_path / "model")
    model = recognise(read(source))
    assert (model.family.name, model.spelling) == ("flux", "diffusers")
    layer = next(x for x in model.layers if x.key == f"{QKV}.weight")
    wanted = torch.cat([means[key] for key in PARTS])
    torch.testing.assert_close(rows_of(layer, source)(0, 768), wanted, rtol=1e-6, atol=0)
    source.close()


def test_a_full_checkpoint_of_four_bits_keeps_what_is_beside_the_model(tmp_path):
    """As FLUX nf4 files are passed around: a VAE, and a text encoder as bare float8."""
    core, name = make_weights(CONFIG, seed=4), "bitsandbytes_nf4"
    tensors, means, metadata = spelled(name, core)
    prefix = "model.diffusion_model."
    beside = {
        "vae.decoder.conv_in.weight": torch.ones(4, 4, 3, 3),
        "text_encoders.t5xxl.transformer.shared.weight": torch.ones(64, 32).to(torch.float8_e4m3fn),
    }
    path, out = tmp_path / "checkpoint.safetensors", tmp_path / "out.safetensors"
    own = {prefix + key: x.clone().contiguous() for key, x in tensors.items()}
    save_file(own | beside, path, metadata)
    model = recognise(read(open_source(path)))
    assert (model.family.name, model.prefix, len(model.others)) == ("flux", prefix, 2)
    convert(prepare(open_source(path), (), Request(scheme="int8")), out)
    found = load_file(out)
    assert found[f"{prefix}{QKV}.weight"].dtype == torch.int8
    for key, tensor in beside.items():
        assert found[key].dtype == tensor.dtype
    scale = found[f"{prefix}{QKV}.weight_scale"]
    wanted = means[f"{QKV}.weight"]
    error = (found[f"{prefix}{QKV}.weight"] * scale - wanted).norm() / wanted.norm()
    assert float(error) < 0.03
