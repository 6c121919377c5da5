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
from fusequant.engine.specs import names, spec

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
    "wan2.1-t2v-1.3b": 30 * (4 + 4 + 2),
    "wan2.1-t2v-14b": 40 * (4 + 4 + 2),
    "wan2.1-i2v-14b-480p": 40 * (4 + 6 + 2),  # and k_img, v_img
    "wan2.1-vace-14b": (40 + 8) * (4 + 4 + 2),  # and the control branch's blocks
    "wan2.2-t2v-14b": 40 * (4 + 4 + 2),
    "wan2.2-i2v-14b": 40 * (4 + 4 + 2),
    "wan2.2-fun-control-14b": 40 * (4 + 4 + 2),
    "wan2.2-animate-14b": 40 * (4 + 6 + 2),
    "wan2.2-s2v-14b": 40 * (4 + 4 + 2),
    "wan2.2-ti2v-5b": 30 * (4 + 4 + 2),
    # attention, MLP, modulation; linear1, 2, modulation
    "flux1-dev": 19 * 2 * (2 + 2 + 1) + 38 * 3,
    "flux1-schnell": 19 * 2 * (2 + 2 + 1) + 38 * 3,
    "flux2-dev": 8 * 2 * (2 + 2) + 48 * 2,  # one modulation for all, which stays
    "flux2-klein-4b": 5 * 2 * (2 + 2) + 20 * 2,
    "flux2-klein-9b": 8 * 2 * (2 + 2) + 24 * 2,
    "chroma1-hd": 19 * 2 * (2 + 2) + 38 * 2,
    "chroma1-radiance": 19 * 2 * (2 + 2) + 38 * 2,
    "hunyuan-video": 20 * 2 * (2 + 2 + 1) + 40 * 3,
    "hunyuan-video-1.5": 54 * 2 * (2 + 2 + 1),
    "krea-2": 28 * (5 + 3),  # q, k, v, o and their gate
    "qwen-image-2512": 60 * (8 + 2 * 2 + 2),  # attention, two MLPs, two modulations
    "qwen-image-edit-2511": 60 * (8 + 2 * 2 + 2),
    "qwen-image-2.1": 32 * (4 + 2),
    "z-image-turbo": (30 + 2 + 2) * (2 + 3),  # and the two refiners
    "lumina-2": (26 + 2 + 2) * (2 + 3) + 26 + 2,  # and the modulations
    # attention, MLP, modulation of both halves; the last text half has q, k, v, modulation alone
    "sd3.5-large": 38 * 2 * (2 + 2 + 1) - 3,
    "sd3.5-medium": 24 * 2 * (2 + 2 + 1) - 3 + 13 * 2,  # 13 with a second attention
    # attention of both halves, 5 experts and the text's MLP, modulation; the same for one half
    "hidream-i1": 16 * (8 + 6 * 3 + 1) + 32 * (4 + 5 * 3 + 1),
    "ltx-video-0.9-2b": 28 * (4 + 4 + 2),
    "ltx-video-0.9-13b": 48 * (4 + 4 + 2),
    "ltx-2": 48 * 2 * (4 + 4 + 2) + 48 * 2 * 4,  # video, sound, and each reading the other
    "t5-xxl": 24 * 7,
    "umt5-xxl": 24 * 7,
    "clip-l": 12 * 6,
    "clip-g": 32 * 6,
    "clip-vision-h": 32 * 6,
    "qwen2.5-vl-7b": 28 * 7,
    "qwen3-4b": 36 * 7,
    "qwen3-8b": 36 * 7,
    "mistral-small-flux2": 30 * 7,
    "llama-3.1-8b": 32 * 7,
    "gemma-2-2b": 26 * 7,
    "gemma-3-12b": 48 * 7,
}


def test_every_spec_has_its_count() -> None:
    assert set(COUNTS) == set(names())


@pytest.mark.parametrize("scheme", ["fp8", "int8", "int8_convrot", "int4_g128"])
@pytest.mark.parametrize("name", COUNTS)
def test_the_real_models_have_their_block_linears_quantized(name: str, scheme: str) -> None:
    choices = choose(recognise(read(spec(name))), scheme)
    assert len(choices) == len(spec(name).tensors)
    asked_for_width = (
        name.startswith("ltx-") and scheme == "int4_g128"
    )  # ComfyUI counts its columns
    assert Counter(x.scheme for x in choices)[scheme] == COUNTS[name] - asked_for_width


# share of the parameters that stays, in percent, rounded up
STAYING = {
    "flux1-dev": 1, "wan2.1-t2v-14b": 2, "qwen-image-edit-2511": 1, "qwen-image-2.1": 2,
    "flux2-dev": 3, "flux2-klein-9b": 4, "flux2-klein-4b": 6, "chroma1-hd": 4, "krea-2": 6,
    "hunyuan-video": 3, "hunyuan-video-1.5": 3, "z-image-turbo": 3, "lumina-2": 1,
    "sd3.5-large": 2, "hidream-i1": 4, "ltx-video-0.9-13b": 2, "ltx-2": 6,
    "sd3.5-medium": 11,  # 9 % of it is the table of positions
    "chroma1-radiance": 10,  # and its pixel decoder
    "wan2.2-animate-14b": 7,  # and its face branch
    "wan2.2-s2v-14b": 14,  # and its sound branch
}  # fmt: skip


@pytest.mark.parametrize("name", STAYING)
def test_nearly_all_of_a_diffusion_model_is_quantized(name: str) -> None:
    choices = choose(recognise(read(spec(name))), "fp8")
    quantized = sum(c.layer.elements for c in choices if c.scheme == "fp8")
    stays = 100 * (1 - quantized / spec(name).parameters)
    assert STAYING[name] - 1 < stays <= STAYING[name]


STAYS = {
    "wan2.1-i2v-14b-480p": ("text_embedding.2", "time_projection.1", "img_emb.proj.3", "head.head"),
    "flux1-dev": ("img_in", "time_in.in_layer", "guidance_in.out_layer", "final_layer.linear"),
    "wan2.2-animate-14b": ("face_adapter.fuser_blocks.7.linear1_kv", "motion_encoder.enc.fc.0"),
    "wan2.2-s2v-14b": (
        "audio_injector.injector.11.q",
        "audio_injector.injector_adain_layers.0.linear",
    ),
    "flux2-klein-4b": ("img_in", "txt_in", "time_in.out_layer", "single_stream_modulation.lin"),
    "chroma1-hd": ("txt_in", "distilled_guidance_layer.layers.4.in_layer", "final_layer.linear"),
    "chroma1-radiance": ("nerf_blocks.0.param_generator", "nerf_image_embedder.embedder.0"),
    "hunyuan-video-1.5": ("byt5_in.fc2", "vision_in.proj.3", "txt_in.c_embedder.in_layer"),
    "krea-2": ("first", "txtfusion.refiner_blocks.0.mlp.up", "tproj.1", "last.linear"),
    "lumina-2": ("x_embedder", "cap_embedder.1", "t_embedder.mlp.2", "final_layer.linear"),
    "z-image-turbo": ("layers.29.adaLN_modulation.0", "final_layer.linear", "x_embedder"),
    "sd3.5-medium": ("context_embedder", "y_embedder.mlp.0", "final_layer.adaLN_modulation.1"),
    "hidream-i1": ("caption_projection.48.linear", "double_stream_blocks.0.block.ff_i.gate"),
    "ltx-video-0.9-13b": ("patchify_proj", "adaln_single.linear", "caption_projection.linear_1"),
    "ltx-2": (
        "audio_patchify_proj",
        "av_ca_a2v_gate_adaln_single.linear",
        "video_embeddings_connector.transformer_1d_blocks.1.ff.net.2",
        "audio_proj_out",
    ),
    "qwen-image-2.1": ("modulation.1", "txt_in.in_layer", "norm_out.linear", "proj_out"),
    "gemma-3-12b": ("model.embed_tokens", "vision_model.encoder.layers.0.mlp.fc1"),
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
        "face_adapter.fuser_blocks.0.linear2": "face branch",
        "motion_encoder.enc.fc.0": "face branch",
        "audio_injector.injector.0.q": "sound branch",
        "casual_audio_encoder.encoder.final_linear": "sound branch",
        "music_encoder.0.linear1": "sound branch",
        "head_global.head": "final layer",
        "control_adapter.residual": "outside the blocks",
    }
    shapes = {name.replace(".", "__"): (512, 512) for name in names}
    choices = by_name(choose(wan(vace_blocks__0__self_attn__q=(512, 512), **shapes), "fp8"))
    for name, why in names.items():
        assert choices[name].scheme == "none" and why in choices[name].why
    assert choices["vace_blocks.0.self_attn.q"].scheme == "fp8"
