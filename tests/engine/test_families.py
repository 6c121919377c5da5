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

# tiny models with real names: (family, spelling, shapes)
D = 256
FLUX = {
    "img_in.weight": (D, 64),
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "double_blocks.0.img_attn.qkv.weight": (3 * D, D),
    "single_blocks.0.linear1.weight": (7 * D, D),
}
FLUX_DIFFUSERS = {
    "x_embedder.weight": (D, 64),
    "context_embedder.weight": (D, 64),
    "norm_out.linear.weight": (2 * D, D),
    "transformer_blocks.0.norm1_context.linear.weight": (6 * D, D),
    **{f"transformer_blocks.0.attn.to_{x}.weight": (D, D) for x in "qkv"},
}
QWEN = {
    "txt_norm.weight": (64,),
    "img_in.weight": (D, 64),
    "transformer_blocks.0.attn.add_k_proj.weight": (D, D),
    "transformer_blocks.0.img_mod.1.weight": (6 * D, D),
    "__index_timestep_zero__": (0,),
}
WAN = {"head.modulation": (1, 2, D), "blocks.0.self_attn.q.weight": (D, D)}
WAN_DIFFUSERS = {
    "condition_embedder.time_proj.weight": (6 * D, D),
    "blocks.0.attn1.to_q.weight": (D, D),
    "scale_shift_table": (1, 2, D),
}
REFINER = {"txt_in.individual_token_refiner.blocks.0.norm1.weight": (D,)}
HUNYUAN = {
    "img_in.proj.weight": (D, 16, 1, 2, 2),
    "double_blocks.0.img_attn.norm.key_norm.weight": (128,),
    **REFINER,
}
LUMINA = {"cap_embedder.1.weight": (D, 64)}
TINY = [
    ("flux", "core", FLUX),
    ("flux", "diffusers", FLUX_DIFFUSERS),
    ("qwen_image", "core", QWEN),
    ("wan", "core", WAN),
    ("wan", "diffusers", WAN_DIFFUSERS),
    ("hunyuan_video", "core", HUNYUAN | {"double_blocks.0.img_attn.qkv.weight": (3 * D, D)}),
    ("hunyuan_video", "tencent", REFINER | {"double_blocks.0.img_attn_qkv.weight": (3 * D, D)}),
    (
        "hunyuan_video",
        "split",
        REFINER | {f"double_blocks.0.img_attn_{x}.weight": (D, D) for x in "qkv"},
    ),
    ("z_image", "core", LUMINA | {"noise_refiner.0.attention.qkv.weight": (3 * D, D)}),
    (
        "z_image",
        "diffusers",
        LUMINA | {f"noise_refiner.0.attention.to_{x}.weight": (D, D) for x in "qkv"},
    ),
    ("t5", "core", {"encoder.block.0.layer.0.SelfAttention.q.weight": (D, D)}),
    (
        "t5",
        "wan",
        {
            "token_embedding.weight": (512, D),
            "blocks.0.attn.q.weight": (D, D),
            "blocks.0.ffn.gate.0.weight": (D, D),
        },
    ),
    (
        "clip",
        "core",
        {
            "text_model.embeddings.token_embedding.weight": (512, D),
            "text_model.encoder.layers.0.self_attn.q_proj.weight": (D, D),
        },
    ),
    ("clip_vision", "core", {"vision_model.encoder.layers.0.self_attn.q_proj.weight": (D, D)}),
    (
        "clip_vision",
        "wan",
        {
            "visual.transformer.0.attn.to_qkv.weight": (3 * D, D),
            "visual.patch_embedding.weight": (D, 3, 14, 14),
        },
    ),
    ("qwen_vl", "core", {"model.layers.0.self_attn.o_proj.weight": (D, D)}),
    (
        "qwen_vl",
        "nested",
        {
            "model.language_model.layers.0.self_attn.o_proj.weight": (D, D),
            "model.language_model.layers.0.self_attn.k_proj.bias": (512,),
        },
    ),
]
IDS = [f"{name}-{spelling}" for name, spelling, _ in TINY]
SPEC_FAMILIES = {
    "clip-l": "clip",
    "clip-vision-h": "clip_vision",
    "flux1-dev": "flux",
    "flux1-schnell": "flux",
    "qwen-image-edit-2511": "qwen_image",
    "qwen2.5-vl-7b": "qwen_vl",
    "t5-xxl": "t5",
    "umt5-xxl": "t5",
    "wan2.1-i2v-14b-480p": "wan",
    "wan2.1-t2v-14b": "wan",
    "wan2.2-i2v-14b": "wan",
    "wan2.2-t2v-14b": "wan",
    "wan2.2-ti2v-5b": "wan",
}


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
