"""Each family's Diffusers names become core's: every name on one side, its core name on the other.

The tables here are written by hand from the two models, apart from those of the families.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.files.open import open_source
from fusequant.engine.model import Model, recognise
from fusequant.engine.read import read
from fusequant.engine.rows import row_count, rows_of

Tensors = dict[str, torch.Tensor]
QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def under(spelled: str, core: str, names: Mapping[str, str]) -> dict[str, str]:
    """Names of one block: Diffusers' on the left, core's on the right."""
    return {f"{spelled}{left}": f"{core}{right}" for left, right in names.items()}


def joined(spelled: str, parts: tuple[str, ...], core: str) -> dict[str, tuple[str, int]]:
    return {f"{spelled}{part}": (core, number) for number, part in enumerate(parts)}


FLUX_ATTENTION = under(
    "transformer_blocks.1.",
    "double_blocks.1.",
    {
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
)
FLUX_JOINED = {
    **joined("transformer_blocks.1.attn.", QKV, "double_blocks.1.img_attn.qkv"),
    **joined("transformer_blocks.1.attn.", ADDED, "double_blocks.1.txt_attn.qkv"),
}
GELU = under(
    "transformer_blocks.1.",
    "double_blocks.1.",
    {
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
    },
)
SINGLE = "single_transformer_blocks.1."
# family: renamed modules, joined ones, modules whose halves change places, what tells the family
CASES: dict[str, tuple[dict[str, str], dict[str, tuple[str, int]], dict[str, str], list[str]]] = {
    "flux2": (
        {
            **FLUX_ATTENTION,
            "transformer_blocks.1.ff.linear_in": "double_blocks.1.img_mlp.0",
            "transformer_blocks.1.ff_context.linear_out": "double_blocks.1.txt_mlp.2",
            f"{SINGLE}attn.to_qkv_mlp_proj": "single_blocks.1.linear1",
            f"{SINGLE}attn.to_out": "single_blocks.1.linear2",
            f"{SINGLE}attn.norm_k": "single_blocks.1.norm.key_norm",
            "x_embedder": "img_in",
            "context_embedder": "txt_in",
            "proj_out": "final_layer.linear",
            "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
            "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
            "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
            "single_stream_modulation.linear": "single_stream_modulation.lin",
        },
        FLUX_JOINED,
        {"norm_out.linear": "final_layer.adaLN_modulation.1"},
        ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
    ),
    "chroma": (
        {
            **FLUX_ATTENTION,
            **GELU,
            f"{SINGLE}proj_out": "single_blocks.1.linear2",
            f"{SINGLE}attn.norm_q": "single_blocks.1.norm.query_norm",
            "x_embedder": "img_in",
            "context_embedder": "txt_in",
            "proj_out": "final_layer.linear",
            "distilled_guidance_layer.in_proj": "distilled_guidance_layer.in_proj",
            "distilled_guidance_layer.norms.3": "distilled_guidance_layer.norms.3",
            "distilled_guidance_layer.layers.3.linear_1": (
                "distilled_guidance_layer.layers.3.in_layer"
            ),
            "distilled_guidance_layer.layers.3.linear_2": (
                "distilled_guidance_layer.layers.3.out_layer"
            ),
        },
        FLUX_JOINED
        | joined(SINGLE, (*(f"attn.{x}" for x in QKV), "proj_mlp"), "single_blocks.1.linear1"),
        {},
        [f"transformer_blocks.0.attn.{x}" for x in QKV],
    ),
    "hunyuan_video": (
        {
            **FLUX_ATTENTION,
            **GELU,
            "transformer_blocks.1.norm1.linear": "double_blocks.1.img_mod.lin",
            "transformer_blocks.1.norm1_context.linear": "double_blocks.1.txt_mod.lin",
            f"{SINGLE}norm.linear": "single_blocks.1.modulation.lin",
            f"{SINGLE}proj_out": "single_blocks.1.linear2",
            "x_embedder.proj": "img_in.proj",
            "proj_out": "final_layer.linear",
            "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
            "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
            "time_embed.timestep_embedder.linear_1": "time_in.in_layer",
            "time_embed.timestep_embedder_r.linear_2": "time_r_in.out_layer",
            "cond_type_embed": "cond_type_embedding",
            "context_embedder_2.norm": "byt5_in.layernorm",
            "context_embedder_2.linear_3": "byt5_in.fc3",
            "image_embedder.norm_in": "vision_in.proj.0",
            "image_embedder.linear_2": "vision_in.proj.3",
            "context_embedder.proj_in": "txt_in.input_embedder",
            "context_embedder.time_text_embed.timestep_embedder.linear_1": (
                "txt_in.t_embedder.in_layer"
            ),
            "context_embedder.time_text_embed.text_embedder.linear_2": (
                "txt_in.c_embedder.out_layer"
            ),
            **under(
                "context_embedder.token_refiner.refiner_blocks.0.",
                "txt_in.individual_token_refiner.blocks.0.",
                {
                    "norm1": "norm1",
                    "norm2": "norm2",
                    "attn.to_out.0": "self_attn.proj",
                    "ff.net.0.proj": "mlp.0",
                    "ff.net.2": "mlp.2",
                    "norm_out.linear": "adaLN_modulation.1",
                },
            ),
        },
        {
            **FLUX_JOINED,
            **joined(SINGLE, (*(f"attn.{x}" for x in QKV), "proj_mlp"), "single_blocks.1.linear1"),
            **joined(
                "context_embedder.token_refiner.refiner_blocks.0.attn.",
                QKV,
                "txt_in.individual_token_refiner.blocks.0.self_attn.qkv",
            ),
        },
        {"norm_out.linear": "final_layer.adaLN_modulation.1"},
        [f"transformer_blocks.0.attn.{x}" for x in ADDED],
    ),
    "lumina2": (
        {
            **under(
                "layers.7.",
                "layers.7.",
                {
                    "attn.to_out.0": "attention.out",
                    "attn.norm_q": "attention.q_norm",
                    "feed_forward.linear_1": "feed_forward.w1",
                    "feed_forward.linear_3": "feed_forward.w3",
                    "norm1.linear": "adaLN_modulation.1",
                    "norm1.norm": "attention_norm1",
                    "norm2": "attention_norm2",
                    "ffn_norm1": "ffn_norm1",
                },
            ),
            "context_refiner.1.norm1": "context_refiner.1.attention_norm1",
            "noise_refiner.0.norm1.linear": "noise_refiner.0.adaLN_modulation.1",
            "time_caption_embed.caption_embedder.0": "cap_embedder.0",
            "time_caption_embed.caption_embedder.1": "cap_embedder.1",
            "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "x_embedder": "x_embedder",
            "norm_out.linear_1": "final_layer.adaLN_modulation.1",
            "norm_out.linear_2": "final_layer.linear",
        },
        {
            **joined("noise_refiner.0.attn.", QKV, "noise_refiner.0.attention.qkv"),
            **joined("context_refiner.1.attn.", QKV, "context_refiner.1.attention.qkv"),
        },
        {},
        [],
    ),
    "sd3": (
        {
            **under(
                "transformer_blocks.0.",
                "joint_blocks.0.",
                {
                    "norm1.linear": "x_block.adaLN_modulation.1",
                    "norm1_context.linear": "context_block.adaLN_modulation.1",
                    "attn.to_out.0": "x_block.attn.proj",
                    "attn.to_add_out": "context_block.attn.proj",
                    "attn2.to_out.0": "x_block.attn2.proj",
                    "attn.norm_q": "x_block.attn.ln_q",
                    "attn.norm_added_k": "context_block.attn.ln_k",
                    "attn2.norm_k": "x_block.attn2.ln_k",
                    "ff.net.0.proj": "x_block.mlp.fc1",
                    "ff.net.2": "x_block.mlp.fc2",
                    "ff_context.net.0.proj": "context_block.mlp.fc1",
                    "ff_context.net.2": "context_block.mlp.fc2",
                },
            ),
            "pos_embed.proj": "x_embedder.proj",
            "context_embedder": "context_embedder",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
            "proj_out": "final_layer.linear",
        },
        {
            **joined("transformer_blocks.0.attn.", QKV, "joint_blocks.0.x_block.attn.qkv"),
            **joined("transformer_blocks.0.attn2.", QKV, "joint_blocks.0.x_block.attn2.qkv"),
            **joined("transformer_blocks.0.attn.", ADDED, "joint_blocks.0.context_block.attn.qkv"),
        },
        {
            "norm_out.linear": "final_layer.adaLN_modulation.1",
            # the last block's text half has two rows of modulation, as the final layer has
            "transformer_blocks.1.norm1_context.linear": (
                "joint_blocks.1.context_block.adaLN_modulation.1"
            ),
        },
        [],
    ),
    "ltx_video": (
        {
            "proj_in": "patchify_proj",
            "time_embed.linear": "adaln_single.linear",
            "time_embed.emb.timestep_embedder.linear_1": (
                "adaln_single.emb.timestep_embedder.linear_1"
            ),
            "caption_projection.linear_1": "caption_projection.linear_1",
            "transformer_blocks.0.attn1.to_q": "transformer_blocks.0.attn1.to_q",
            "transformer_blocks.0.attn1.norm_q": "transformer_blocks.0.attn1.q_norm",
            "transformer_blocks.0.attn2.norm_k": "transformer_blocks.0.attn2.k_norm",
            "proj_out": "proj_out",
        },
        {},
        {},
        [],
    ),
    "ltx2": (
        {
            "proj_in": "patchify_proj",
            "audio_proj_in": "audio_patchify_proj",
            "time_embed.linear": "adaln_single.linear",
            "audio_time_embed.linear": "audio_adaln_single.linear",
            "prompt_adaln.linear": "prompt_adaln_single.linear",
            "av_cross_attn_video_scale_shift.linear": "av_ca_video_scale_shift_adaln_single.linear",
            "av_cross_attn_video_a2v_gate.linear": "av_ca_a2v_gate_adaln_single.linear",
            "av_cross_attn_audio_v2a_gate.linear": "av_ca_v2a_gate_adaln_single.linear",
            "transformer_blocks.0.audio_attn1.to_q": "transformer_blocks.0.audio_attn1.to_q",
            "transformer_blocks.0.audio_attn1.norm_q": "transformer_blocks.0.audio_attn1.q_norm",
            "transformer_blocks.0.video_to_audio_attn.norm_k": (
                "transformer_blocks.0.video_to_audio_attn.k_norm"
            ),
        },
        {},
        {},
        [],
    ),
    "qwen_image_21": (
        {
            "txt_in.text_norm": "txt_in.text_norm",
            "transformer_blocks.0.img_mlp.out": "transformer_blocks.0.img_mlp.out",
        },
        joined(
            "transformer_blocks.0.img_mlp.",
            ("gate_layer", "proj"),
            "transformer_blocks.0.img_mlp.gate_up",
        ),
        {},
        [],
    ),
    "krea2": (
        {
            **under(
                "transformer_blocks.2.",
                "blocks.2.",
                {
                    "attn.to_q": "attn.wq",
                    "attn.to_gate": "attn.gate",
                    "attn.to_out.0": "attn.wo",
                    "ff.gate": "mlp.gate",
                    "ff.down": "mlp.down",
                },
            ),
            "text_fusion.refiner_blocks.1.attn.to_k": "txtfusion.refiner_blocks.1.attn.wk",
            "text_fusion.projector": "txtfusion.projector",
            "img_in": "first",
            "time_embed.linear_2": "tmlp.2",
            "time_mod_proj": "tproj.1",
            "txt_in.linear_1": "txtmlp.1",
            "final_layer.linear": "last.linear",
        },
        {},
        {},
        ["transformer_blocks.0.attn.to_gate"],
    ),
}


def numbered(names: list[str]) -> Tensors:
    """A weight of its own numbers for each module, of a height that differs with the name."""
    found, at = {}, 0
    for number, name in enumerate(names):
        shape = (4 + 2 * (number % 3), 3)
        found[f"{name}.weight"] = torch.arange(at, at + shape[0] * 3).float().reshape(shape)
        at += shape[0] * 3
    return found


def core_values(tensors: Tensors, folder: Path) -> tuple[Model, Tensors]:
    """What the model of a file holds under core's names."""
    path = folder / "model.safetensors"
    save_file(tensors, path)
    source = open_source(path)
    found = recognise(read(source))
    values = {x.key: rows_of(x, source)(0, row_count(x)).reshape(x.shape) for x in found.layers}
    source.close()
    return found, values


@pytest.mark.parametrize("family", CASES)
def test_diffusers_names_become_cores(tmp_path: Path, family: str) -> None:
    renamed, stacked, swapped, signs = CASES[family]
    was = numbered([*renamed, *stacked, *swapped, *(x for x in signs if x not in stacked)])
    found, now = core_values(was, tmp_path)
    assert (found.family.name, found.spelling, found.unused) == (family, "diffusers", ())
    wanted: dict[str, list[torch.Tensor]] = {
        core: [was[f"{x}.weight"]] for x, core in renamed.items()
    }
    for spelled, (core, _) in sorted(stacked.items(), key=lambda item: item[1][1]):
        wanted.setdefault(core, []).append(was[f"{spelled}.weight"])
    for spelled, core in swapped.items():
        wanted[core] = list(was[f"{spelled}.weight"].chunk(2)[::-1])
    for core, parts in wanted.items():
        assert now[f"{core}.weight"].equal(torch.cat(parts)), core
