"""What each layer becomes and why: counts for real models, rules, patterns, odd layers."""

from __future__ import annotations

from collections import Counter

import pytest

from fusequant.engine.choose import choose, dtype_of
from fusequant.engine.errors import Refused
from fusequant.engine.family import Shapes
from fusequant.engine.format import Contents
from fusequant.engine.layer import Layer, Part
from fusequant.engine.model import Model, recognise
from fusequant.engine.plan import Choice
from fusequant.engine.read import read
from fusequant.engine.specs import spec

WAN_LAYER = "blocks.0.self_attn.q"


def model_of(shapes: Shapes, dtype: str = "BF16") -> Model:
    layers = (Layer(k, s, dtype, (Part("none", {"weight": k}),)) for k, s in shapes.items())
    return recognise(Contents("plain", tuple(layers)))


def wan(**shapes: tuple[int, ...]) -> Model:
    """A tiny Wan; keywords replace the shape of a weight, with `__` for a dot."""
    given = {f"{name.replace('__', '.')}.weight": shape for name, shape in shapes.items()}
    base = {
        "head.modulation": (1, 2, 512),
        "patch_embedding.weight": (512, 16, 1, 2, 2),
        "text_embedding.0.weight": (512, 512),
        f"{WAN_LAYER}.weight": (512, 512),
        f"{WAN_LAYER}.bias": (512,),
        "blocks.0.ffn.0.weight": (1024, 512),
        "blocks.0.norm3.weight": (512,),
    }
    return model_of(base | given)


def by_name(choices: tuple[Choice, ...]) -> dict[str, Choice]:
    return {choice.layer.name: choice for choice in choices}


# blocks x matrices of a block
COUNTS = {
    "wan2.1-t2v-14b": 40 * (4 + 4 + 2),
    "wan2.1-i2v-14b-480p": 40 * (4 + 6 + 2),  # and k_img, v_img
    "wan2.2-t2v-14b": 40 * (4 + 4 + 2),
    "wan2.2-i2v-14b": 40 * (4 + 4 + 2),
    "wan2.2-ti2v-5b": 30 * (4 + 4 + 2),
    "flux1-dev": 19 * 2 * (2 + 2 + 1)
    + 38 * 3,  # attention, MLP, modulation; linear1, 2, modulation
    "flux1-schnell": 19 * 2 * (2 + 2 + 1) + 38 * 3,
    "qwen-image-edit-2511": 60 * (8 + 2 * 2 + 2),  # attention, two MLPs, two modulations
    "t5-xxl": 24 * 7,
    "umt5-xxl": 24 * 7,
    "clip-l": 12 * 6,
    "clip-vision-h": 32 * 6,
    "qwen2.5-vl-7b": 28 * 7,
}


@pytest.mark.parametrize("scheme", ["fp8", "int8", "int8_convrot", "int4_g128"])
@pytest.mark.parametrize("name", COUNTS)
def test_the_real_models_have_their_block_linears_quantized(name: str, scheme: str) -> None:
    choices = choose(recognise(read(spec(name))), scheme)
    assert len(choices) == len(spec(name).tensors)
    assert Counter(choice.scheme for choice in choices)[scheme] == COUNTS[name]


def test_nearly_all_of_a_diffusion_model_is_quantized() -> None:
    for name in ("flux1-dev", "wan2.1-t2v-14b", "qwen-image-edit-2511"):
        choices = choose(recognise(read(spec(name))), "fp8")
        quantized = sum(c.layer.elements for c in choices if c.scheme == "fp8")
        assert quantized / spec(name).parameters > 0.98


STAYS = {
    "wan2.1-i2v-14b-480p": ("text_embedding.2", "time_projection.1", "img_emb.proj.3", "head.head"),
    "flux1-dev": ("img_in", "time_in.in_layer", "guidance_in.out_layer", "final_layer.linear"),
    "qwen-image-edit-2511": ("img_in", "txt_in", "norm_out.linear", "proj_out"),
    "umt5-xxl": ("shared", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    "qwen2.5-vl-7b": ("model.embed_tokens", "lm_head", "visual.blocks.0.mlp.gate_proj"),
    "clip-l": ("text_model.embeddings.position_embedding", "text_projection"),
    "clip-vision-h": ("visual_projection",),
}


@pytest.mark.parametrize("name", STAYS)
def test_embedders_and_final_layers_stay_for_their_own_reason(name: str) -> None:
    choices = by_name(choose(recognise(read(spec(name))), "fp8"))
    for layer in STAYS[name]:
        assert choices[layer].scheme == "none"
        assert "outside the blocks" not in choices[layer].why


def test_none_keeps_everything() -> None:
    choices = choose(wan(), "none")
    assert {choice.scheme for choice in choices} == {"none"}
    assert {choice.why for choice in choices} == {"no quantization asked for"}


def test_what_is_no_matrix_stays() -> None:
    choices = by_name(choose(wan(), "int8"))
    for name in ("head.modulation", "patch_embedding", f"{WAN_LAYER}.bias", "blocks.0.norm3"):
        assert choices[name].scheme == "none" and "not a matrix" in choices[name].why
    assert choices[WAN_LAYER].scheme == "int8"


def test_integer_tables_stay_as_they_are() -> None:
    choices = choose(model_of({"blocks.0.index.weight": (512, 512)}, "I64"), "fp8", dtype="fp16")
    assert [(c.scheme, c.dtype) for c in choices] == [("none", "I64")]


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("blocks.0.*", {WAN_LAYER, "blocks.0.ffn.0"}),
        ("*.ffn.?", {"blocks.0.ffn.0"}),
        ("*self_attn.q.weight", {WAN_LAYER}),
    ],
)
def test_patterns_keep_what_they_match(pattern: str, kept: set[str]) -> None:
    choices = choose(wan(), "fp8", keep=[pattern])
    assert {c.layer.name for c in choices if "kept as asked" in c.why} == kept
    assert all(pattern in c.why for c in choices if c.layer.name in kept)


def test_a_pattern_that_matches_nothing_is_refused_with_near_names() -> None:
    with pytest.raises(Refused) as refused:
        choose(wan(), "fp8", keep=["blocks.0.self_atn.q"])
    assert refused.value.kind == "keep-matches-nothing"
    assert WAN_LAYER in str(refused.value) and "blocks.0.self_atn.q" in str(refused.value)


@pytest.mark.parametrize(("side", "scheme"), [(128, "none"), (256, "fp8")])
def test_a_layer_of_16_kib_stays(side: int, scheme: str) -> None:
    choice = by_name(choose(wan(blocks__0__ffn__0=(side, side)), "fp8"))["blocks.0.ffn.0"]
    assert choice.scheme == scheme
    assert scheme == "fp8" or choice.why.startswith("16384 bytes once quantized")


def test_four_bits_halve_what_is_small() -> None:
    choices = by_name(choose(wan(blocks__0__ffn__0=(256, 128)), "int4_g128"))
    assert choices["blocks.0.ffn.0"].scheme == "none"


def test_the_scheme_itself_refuses_a_shape() -> None:
    choices = by_name(choose(wan(blocks__0__ffn__0=(512, 500)), "int4_g128"))
    assert choices["blocks.0.ffn.0"].scheme == "none"
    assert "no multiple of 128" in choices["blocks.0.ffn.0"].why
    assert choices[WAN_LAYER].scheme == "int4_g128"


def test_a_name_of_another_tool_is_understood() -> None:
    assert by_name(choose(wan(), "fp8-sgl"))[WAN_LAYER].scheme == "fp8_row"
    with pytest.raises(Refused) as refused:
        choose(wan(), "fp9")
    assert refused.value.kind == "unknown-scheme"


def test_dtype_is_for_what_stays() -> None:
    stored = {c.layer.name: c.dtype for c in choose(wan(), "fp8")}
    wanted = {c.layer.name: c.dtype for c in choose(wan(), "fp8", dtype="fp32")}
    assert set(stored.values()) == {"BF16"} and set(wanted.values()) == {"F32"}


def test_dtypes_are_spelled_in_many_ways() -> None:
    assert [dtype_of(name) for name in ("bf16", "bfloat16", "FP16", "half", "F32")] == [
        "BF16",
        "BF16",
        "F16",
        "F16",
        "F32",
    ]
    with pytest.raises(Refused) as refused:
        choose(wan(), "fp8", dtype="int3")
    assert refused.value.kind == "unknown-dtype"


def test_an_unknown_model_has_only_large_matrices_of_blocks_quantized() -> None:
    choices = by_name(
        choose(
            model_of(
                {
                    "layers.0.attn.to_q.weight": (512, 512),
                    "layers.0.mlp.gate_proj.weight": (1024, 512),
                    "layers.0.multihead_attn.out.weight": (512, 512),
                    "layers.0.attn.small.weight": (512, 64),
                    "layers.0.adaln_modulation.1.weight": (1024, 512),
                    "layers.0.norm_q.weight": (512, 512),
                    "time_embed.0.weight": (512, 512),
                    "proj_in.weight": (512, 512),
                    "lm_head.weight": (512, 512),
                }
            ),
            "int8",
        )
    )
    assert {name for name, choice in choices.items() if choice.scheme == "int8"} == {
        "layers.0.attn.to_q",
        "layers.0.mlp.gate_proj",
        "layers.0.multihead_attn.out",
    }
    assert "a side is below 256" in choices["layers.0.attn.small"].why
    assert "not part of a repeated block" in choices["proj_in"].why
    assert all("unknown model" in choices[x].why for x in ("time_embed.0", "lm_head"))


def test_wan_keeps_its_branches_beside_the_blocks() -> None:
    names = {
        "vace_blocks.0.before_proj": "joins the control branch",
        "face_adapter.fuser_blocks.0.linear2": "outside the blocks",
        "audio_injector.injector.0.q": "outside the blocks",
    }
    shapes = {name.replace(".", "__"): (512, 512) for name in names}
    choices = by_name(choose(wan(vace_blocks__0__self_attn__q=(512, 512), **shapes), "fp8"))
    for name, why in names.items():
        assert choices[name].scheme == "none" and why in choices[name].why
    assert choices["vace_blocks.0.self_attn.q"].scheme == "fp8"
