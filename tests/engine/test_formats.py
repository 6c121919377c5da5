"""Every dialect: a tiny file as its own tool writes it, who claims it, its layers and numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.layer import Layer
from fusequant.engine.read import formats, read
from fusequant.engine.rows import rows_of

from . import dialects, dialects_core
from .dialects import E4M3, NAME, TENSOR, ZEROS2, Tensors, fp8, layer

READ = {**dialects.READ, **dialects_core.READ}


@pytest.fixture
def opened(tmp_path):
    """Save tensors and open the file; closed at the end."""
    found = []

    def make(tensors: Tensors, metadata: dict[str, str] | None = None):
        path = tmp_path / f"model-{len(found)}.safetensors"
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(own, path, metadata)
        found.append(open_source(path))
        return found[-1]

    yield make
    for source in found:
        source.close()


def the_layer(contents) -> Layer:
    return next(x for x in contents.layers if x.key.endswith(f"{NAME}.weight"))


def numbers(source, found: Layer) -> torch.Tensor:
    """What the scheme or the codec makes of the layer's stored tensors."""
    return rows_of(found, source)(0, found.shape[0])


@pytest.mark.parametrize("name", READ)
def test_exactly_one_format_claims_a_file(name, opened):
    tensors, dialect = READ[name][:2]
    source = opened(tensors)
    assert [form.name for form in formats().values() if form.detect(source)] == [dialect]


@pytest.mark.parametrize("name", READ)
def test_layers_and_numbers(name, opened):
    tensors, dialect, scheme, expected = READ[name]
    source = opened(tensors)
    contents = read(source)
    assert contents.format == dialect
    found = the_layer(contents)
    shape = (192, 256) if expected is None else tuple(expected.shape)
    assert (found.scheme, found.shape) == (scheme, shape)
    assert found.key in tensors
    if scheme != "none":
        assert found.dtype in ("BF16", "F32")
    if expected is not None:
        torch.testing.assert_close(numbers(source, found), expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", READ)
def test_every_tensor_is_a_part_or_ignored(name, opened):
    tensors = READ[name][0]
    contents = read(opened(tensors))
    used = [x for y in contents.layers for part in y.parts for x in part.tensors.values()]
    assert sorted([*used, *contents.ignored]) == sorted(tensors)
    assert len({x.key for x in contents.layers}) == len(contents.layers)


def test_header_metadata_marks_layers_too(opened):
    layers = {NAME: {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    source = opened(layer(fp8(), weight_scale=TENSOR), {"_quantization_metadata": text})
    contents = read(source)
    assert (contents.format, contents.problems) == ("core", ())
    part = the_layer(contents).parts[0]
    assert (part.scheme, part.settings) == ("fp8", {"full_precision_matrix_mult": True})


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', "[" * 100000])
def test_damaged_header_metadata_is_refused(text, opened):
    source = opened(layer(fp8(), weight_scale=TENSOR), {"_quantization_metadata": text})
    with pytest.raises(Refused) as refusal:
        read(source)
    assert refusal.value.kind == "marker-not-json"


def test_two_marker_elements_ask_for_full_precision(opened):
    settings = [
        the_layer(read(opened(layer(fp8(), scale_weight=TENSOR) | {"scaled_fp8": mark}))).parts[0]
        for mark in (ZEROS2, torch.zeros(0).to(E4M3), torch.zeros(1))
    ]
    assert [bool(part.settings) for part in settings] == [True, False, False]


def test_input_scale_is_a_role(opened):
    contents = read(opened(READ["scaled_fp8"][0]))
    assert the_layer(contents).parts[0].tensors["input_scale"] == f"{NAME}.scale_input"


def test_one_file_may_mix_schemes(opened):
    other = {name.replace("0", "1"): x for name, x in READ["core-int8"][0].items()}
    contents = read(opened(READ["core-fp8"][0] | other))
    schemes = {x.key: x.scheme for x in contents.layers if x.scheme != "none"}
    assert schemes == {"block.0.proj.weight": "fp8", "block.1.proj.weight": "int8"}


def test_bare_float8_norms_are_plain_numbers(opened):
    source = opened(layer(fp8()) | {"norm.weight": torch.tensor([1.0, 2.0]).to(E4M3)})
    norm = next(x for x in read(source).layers if x.key == "norm.weight")
    assert (norm.scheme, norm.dtype, norm.shape) == ("none", "F8_E4M3", (2,))


def test_reading_needs_no_torch(tmp_path):
    paths = []
    for name, row in READ.items():
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file({key: x.clone().contiguous() for key, x in row[0].items()}, paths[-1])
    code = (
        "import sys\n"
        "from fusequant.engine.files.open import open_source\n"
        "from fusequant.engine.read import read\n"
        "print([read(open_source(path)).format for path in sys.argv[1:]])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
