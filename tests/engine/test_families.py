"""Each family is recognised from its names and shapes alone, whatever stands before them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusequant.engine.errors import Refused
from fusequant.engine.family import Shapes
from fusequant.engine.format import Contents
from fusequant.engine.layer import Layer, Part
from fusequant.engine.model import Model, families, recognise
from fusequant.engine.specs import names, spec

from .known import FLUX, FLUX_DIFFUSERS, OTHERS, QWEN, SPEC_FAMILIES, TINY, WAN, D

IDS = [f"{name}-{spelling}" for name, spelling, _ in TINY]


def layer(key: str, shape: tuple[int, ...], dtype: str = "BF16") -> Layer:
    return Layer(key, shape, dtype, (Part("none", {"weight": key}),))


def model(shapes: Shapes, prefix: str = "") -> Model:
    return recognise(Contents("plain", tuple(layer(prefix + k, s) for k, s in shapes.items())))


@pytest.mark.parametrize(("family", "spelling", "shapes"), TINY, ids=IDS)
def test_names_tell_family_and_spelling(family: str, spelling: str, shapes: Shapes) -> None:
    found = model(shapes)
    assert (found.family.name, found.spelling, found.prefix) == (family, spelling, "")


@pytest.mark.parametrize(("family", "spelling", "shapes"), TINY, ids=IDS)
def test_no_two_families_claim_the_same_names(family: str, spelling: str, shapes: Shapes) -> None:
    claims = [f.name for f in families().values() if f.spelling(shapes)]
    assert claims == [family]


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_resembles_a_family_is_not_taken_for_it(name: str) -> None:
    claims = {f.name: f.spelling(OTHERS[name]) for f in families().values()}
    assert {family for family, spelled in claims.items() if spelled} == set()


def test_every_family_is_known_here() -> None:
    named = {family for family, _, _ in TINY}
    assert named == set(families()) - {"unknown"}
    assert set(SPEC_FAMILIES.values()) == named


@pytest.mark.parametrize("name", names())
def test_a_real_model_has_exactly_its_family(name: str) -> None:
    shapes = {key: tensor.shape for key, tensor in spec(name).tensors.items()}
    claims = {f.name: f.spelling(shapes) for f in families().values() if f.spelling(shapes)}
    assert claims == {SPEC_FAMILIES[name]: "core"}


@pytest.mark.parametrize(
    "prefix",
    ["model.diffusion_model.", "diffusion_model.", "model.", "transformer.", "net.", "module."],
)
@pytest.mark.parametrize("shapes", [FLUX, QWEN, WAN], ids=["flux", "qwen", "wan"])
def test_a_prefix_is_found_and_taken_off(prefix: str, shapes: Shapes) -> None:
    found = model(shapes, prefix)
    assert found.prefix == prefix
    assert set(found.shapes) == set(shapes)
    assert not found.others and found.written_prefix == ""
    assert [x.key for x in found.original] == [prefix + key for key in shapes]


def test_a_full_checkpoint_keeps_its_names_and_only_its_diffusion_model_is_meant() -> None:
    encoder = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"
    layers = [layer(f"model.diffusion_model.{key}", shape) for key, shape in FLUX.items()]
    outside = [layer(encoder, (4096, 4096)), layer("vae.decoder.conv_in.weight", (8, 8, 3, 3))]
    found = recognise(Contents("plain", (*layers, *outside)))
    assert found.family.name == "flux"
    assert found.is_checkpoint and found.written_prefix == "model.diffusion_model."
    assert found.others == tuple(outside)
    assert set(found.shapes) == set(FLUX)


def test_a_text_encoder_of_a_checkpoint_is_found_when_it_is_alone() -> None:
    shapes = {"encoder.block.0.layer.0.SelfAttention.q.weight": (D, D)}
    found = model(shapes, "text_encoders.t5xxl.transformer.")
    assert (found.family.name, set(found.shapes)) == ("t5", set(shapes))


def test_another_model_is_unknown_and_keeps_its_prefix() -> None:
    found = model({"input_blocks.1.0.in_layers.2.weight": (D, D)}, "model.diffusion_model.")
    assert (found.family.name, found.written_prefix) == ("unknown", "model.diffusion_model.")
    assert [x.key for x in found.layers] == ["input_blocks.1.0.in_layers.2.weight"]


def test_a_lora_is_no_model() -> None:
    with pytest.raises(Refused) as refused:
        model({"transformer_blocks.0.attn.to_q.lora_A.weight": (8, D)})
    assert refused.value.kind == "lora-as-model"
    assert "LoRA" in refused.value.to_json()["fix"]


def test_the_commonest_dtype_goes_by_elements() -> None:
    layers = (layer("a.weight", (D, D), "F16"), *(layer(f"{i}.bias", (D,), "F32") for i in "bcd"))
    assert recognise(Contents("plain", layers)).dtype == "F16"


def test_an_incomplete_joined_layer_is_refused_by_name() -> None:
    shapes = dict(FLUX_DIFFUSERS)
    shapes["transformer_blocks.0.attn.add_q_proj.weight"] = (D, D)
    with pytest.raises(Refused) as refused:
        model(shapes)
    assert refused.value.kind == "layer-incomplete"
    assert refused.value.layer == "double_blocks.0.txt_attn.qkv.weight"


def test_every_rule_has_a_reason() -> None:
    for family in families().values():
        assert family.title and family.kind in ("diffusion", "text", "vision")
        assert all(len(rule.why) > 10 for rule in family.keep)
        assert family.keep


def test_recognising_and_choosing_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from fusequant.engine.specs import names, spec\n"
        "from fusequant.engine.read import read\n"
        "from fusequant.engine.model import recognise\n"
        "from fusequant.engine.choose import choose\n"
        "for name in names(): choose(recognise(read(spec(name))), 'int8')\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
