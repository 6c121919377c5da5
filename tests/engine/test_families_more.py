"""Parameters that change shape or name on the way to core, and LoRA names of the newer families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine import demo
from fusequant.engine.advise.subject import subject_of
from fusequant.engine.family import Target
from fusequant.engine.files.open import open_source
from fusequant.engine.fuse.place import places
from fusequant.engine.model import recognise
from fusequant.engine.pipeline import Request, convert, prepare
from fusequant.engine.read import read
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import row_count, rows_of
from fusequant.engine.specs import names, spec

Tensors = dict[str, torch.Tensor]


def core_values(tensors: Tensors, folder: Path) -> tuple[str, Tensors]:
    """(family, what the model of a file holds under core's names)."""
    path = folder / "model.safetensors"
    save_file(tensors, path)
    source = open_source(path)
    found = recognise(read(source))
    values = {x.key: rows_of(x, source)(0, row_count(x)).reshape(x.shape) for x in found.layers}
    source.close()
    return found.family.name, values


def test_krea_2_calls_its_norms_scale_and_its_table_is_one_row(tmp_path: Path) -> None:
    block = "transformer_blocks.0."
    was = {
        f"{block}attn.to_gate.weight": torch.randn(8, 8),
        f"{block}attn.norm_q.weight": torch.randn(4),
        f"{block}norm2.weight": torch.randn(8),
        f"{block}scale_shift_table": torch.randn(6, 8),
        "text_fusion.projector.weight": torch.randn(1, 3),
        "text_fusion.refiner_blocks.1.norm1.weight": torch.randn(8),
        "txt_in.norm.weight": torch.randn(8),
        "final_layer.norm.weight": torch.randn(8),
        "final_layer.scale_shift_table": torch.randn(2, 8),
    }
    family, now = core_values(was, tmp_path)
    assert family == "krea2"
    assert now["blocks.0.mod.lin"].equal(was[f"{block}scale_shift_table"].flatten())
    for core, spelled in {
        "blocks.0.attn.qknorm.qnorm.scale": f"{block}attn.norm_q.weight",
        "blocks.0.postnorm.scale": f"{block}norm2.weight",
        "txtfusion.refiner_blocks.1.prenorm.scale": "text_fusion.refiner_blocks.1.norm1.weight",
        "txtmlp.0.scale": "txt_in.norm.weight",
        "last.norm.scale": "final_layer.norm.weight",
        "last.modulation.lin": "final_layer.scale_shift_table",
    }.items():
        assert now[core].equal(was[spelled]), core


def test_wan_animates_face_branch_is_renamed_joined_and_reshaped(tmp_path: Path) -> None:
    convs = "motion_encoder.enc.net_app.convs."
    face = "face_adapter.fuser_blocks.3."
    renamed = {
        "motion_encoder.conv_in.weight": f"{convs}0.0.weight",
        "motion_encoder.conv_out.weight": f"{convs}8.weight",
        "motion_encoder.res_blocks.6.conv2.weight": f"{convs}7.conv2.1.weight",
        "motion_encoder.res_blocks.0.conv_skip.weight": f"{convs}1.skip.1.weight",
        "motion_encoder.motion_network.4.bias": "motion_encoder.enc.fc.4.bias",
        "motion_encoder.motion_synthesis_weight": "motion_encoder.dec.direction.weight",
        "face_encoder.conv1_local.weight": "face_encoder.conv1_local.conv.weight",
        "face_encoder.out_proj.weight": "face_encoder.out_proj.weight",
        "face_adapter.3.to_q.weight": f"{face}linear1_q.weight",
        "face_adapter.3.to_out.bias": f"{face}linear2.bias",
        "face_adapter.3.norm_k.weight": f"{face}k_norm.weight",
    }
    biases = {
        "motion_encoder.conv_in.act_fn.bias": f"{convs}0.1.bias",
        "motion_encoder.res_blocks.2.conv1.act_fn.bias": f"{convs}3.conv1.1.bias",
        "motion_encoder.res_blocks.2.conv2.act_fn.bias": f"{convs}3.conv2.2.bias",
    }
    signs = ("condition_embedder.time_proj.weight", "blocks.0.attn1.to_q.weight")
    was = {name: torch.randn(4, 4) for name in (*renamed, *signs)}
    was |= {name: torch.randn(4) for name in biases} | {"scale_shift_table": torch.randn(1, 2, 4)}
    was |= {f"face_adapter.3.to_{x}.weight": torch.randn(4, 4) for x in "kv"}
    family, now = core_values(was, tmp_path)
    assert family == "wan"
    both = torch.cat([was[f"face_adapter.3.to_{x}.weight"] for x in "kv"])
    assert now[f"{face}linear1_kv.weight"].equal(both)
    for spelled, core in renamed.items():
        assert now[core].equal(was[spelled]), core
    for spelled, core in biases.items():
        assert now[core].equal(was[spelled].reshape(1, 4, 1, 1)), core


# spec, how a LoRA file spells the layer, the layer, the rows that are meant
MLP = 3 * 4096
LORA_NAMES = [
    ("flux2-klein-9b", "transformer.transformer_blocks.7.attn.to_k", "double_blocks.7.img_attn.qkv",
     (4096, 8192)),
    ("flux2-klein-9b", "lora_unet_single_blocks_23_linear1", "single_blocks.23.linear1", None),
    ("flux2-klein-9b", "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj",
     "single_blocks.0.linear1", None),
    ("flux2-klein-9b", "base_model.model.single_transformer_blocks.3.attn.to_out",
     "single_blocks.3.linear2", None),
    ("flux2-klein-9b", "transformer.transformer_blocks.0.ff_context.linear_in",
     "double_blocks.0.txt_mlp.0", None),
    ("flux2-dev", "transformer.single_stream_modulation.linear", "single_stream_modulation.lin",
     None),
    ("chroma1-hd", "lora_transformer_single_transformer_blocks_37_proj_mlp",
     "single_blocks.37.linear1", (9216, 21504)),
    ("z-image-turbo", "diffusion_model.layers.29.attention.to_v", "layers.29.attention.qkv",
     (7680, 11520)),
    ("z-image-turbo", "lora_unet_layers_0_attention_to_out_0", "layers.0.attention.out", None),
    ("lumina-2", "transformer.layers.3.attn.to_k", "layers.3.attention.qkv", (2304, 3072)),
    ("lumina-2", "transformer.layers.3.feed_forward.linear_2", "layers.3.feed_forward.w2", None),
    ("sd3.5-large", "transformer.transformer_blocks.37.attn.add_v_proj",
     "joint_blocks.37.context_block.attn.qkv", (4864, 7296)),
    ("sd3.5-medium", "lycoris_transformer_blocks_0_attn2_to_q", "joint_blocks.0.x_block.attn2.qkv",
     (0, 1536)),
    ("sd3.5-medium", "lora_unet_joint_blocks_23_x_block_mlp_fc1", "joint_blocks.23.x_block.mlp.fc1",
     None),
    ("hidream-i1", "transformer.single_stream_blocks.31.block.ff_i.experts.3.w2",
     "single_stream_blocks.31.block.ff_i.experts.3.w2", None),
    ("hunyuan-video-1.5", "lora_unet_double_blocks_53_img_attn_k", "double_blocks.53.img_attn.qkv",
     (2048, 4096)),
    ("hunyuan-video-1.5", "transformer.transformer_blocks.0.attn.add_q_proj",
     "double_blocks.0.txt_attn.qkv", (0, 2048)),
    ("hunyuan-video", "diffusion_model.single_blocks.39.modulation.linear",
     "single_blocks.39.modulation.lin", None),
    ("ltx-video-0.9-13b", "transformer.proj_in", "patchify_proj", None),
    ("ltx-2", "diffusion_model.transformer_blocks.47.audio_to_video_attn.to_out.0",
     "transformer_blocks.47.audio_to_video_attn.to_out.0", None),
    ("krea-2", "diffusion_model.transformer_blocks.27.attn.to_out", "blocks.27.attn.wo", None),
    ("krea-2", "transformer.text_fusion.projector", "txtfusion.projector", None),
    ("qwen-image-2.1", "transformer.transformer_blocks.31.img_mlp.gate_layer",
     "transformer_blocks.31.img_mlp.gate_up", (0, MLP)),
    ("qwen-image-2.1", "lycoris_transformer_blocks_0_img_mlp_proj",
     "transformer_blocks.0.img_mlp.gate_up", (MLP, 2 * MLP)),
    ("wan2.2-animate-14b", "face_adapter.0.to_v", "face_adapter.fuser_blocks.0.linear1_kv",
     (5120, 10240)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spelled", "module", "rows"), LORA_NAMES)
def test_lora_names_find_their_rows(
    name: str, spelled: str, module: str, rows: tuple[int, int] | None
) -> None:
    found = recognise(read(spec(name)))
    assert places(found.family, found.shapes).find(spelled, "weight") == Target(
        f"{module}.weight", rows
    )


@pytest.mark.parametrize(
    ("name", "spelled", "key"),
    [
        ("flux2-dev", "norm_out.linear", "final_layer.adaLN_modulation.1.weight"),
        ("hunyuan-video", "norm_out.linear", "final_layer.adaLN_modulation.1.weight"),
        ("sd3.5-large", "norm_out.linear", "final_layer.adaLN_modulation.1.weight"),
        ("sd3.5-large", "transformer_blocks.37.norm1_context.linear",
         "joint_blocks.37.context_block.adaLN_modulation.1.weight"),
    ],
)  # fmt: skip
def test_some_modulations_have_their_halves_swapped(name: str, spelled: str, key: str) -> None:
    found = recognise(read(spec(name)))
    assert found.family.aliases(found.shapes)[spelled] == Target(key, halves_swapped=True)


def test_the_other_blocks_of_sd3_are_not_swapped() -> None:
    found = recognise(read(spec("sd3.5-large")))
    target = found.family.aliases(found.shapes)["transformer_blocks.36.norm1_context.linear"]
    assert target == Target("joint_blocks.36.context_block.adaLN_modulation.1.weight")


@pytest.mark.parametrize("name", names())
def test_a_name_never_points_outside_its_layer(name: str) -> None:
    found = recognise(read(spec(name)))
    for target in found.family.aliases(found.shapes).values():
        shape = found.shapes[target.key]
        assert target.rows is None or 0 <= target.rows[0] < target.rows[1] <= shape[0]


def test_what_a_model_is_built_by_stays_in_the_header(tmp_path: Path) -> None:
    block = "transformer_blocks.0.attn1.to_q.weight"
    tensors = {
        "patchify_proj.weight": torch.randn(256, 128),
        "adaln_single.linear.weight": torch.randn(512, 256),
        block: torch.randn(256, 256),
    }
    config = json.dumps({"transformer": {"num_attention_heads": 4}})
    path = tmp_path / "ltx.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "config": config, "other": "x"})
    for number, made in enumerate(
        (
            prepare(open_source(path), request=Request(scheme="int8")),
            prepare_dequant(open_source(path)),
            prepare_repair(open_source(path)),
        )
    ):
        written = open_source(convert(made, tmp_path / f"{number}.safetensors").out)
        assert written.metadata["config"] == config
        assert "other" not in written.metadata and "fusequant" in written.metadata
        written.close()
    foretold = subject_of(open_source(path)).file_bytes("int8")
    assert foretold == (tmp_path / "0.safetensors").stat().st_size


def test_the_demo_shows_models_that_have_a_spec() -> None:
    assert set(demo.SHOWN) <= set(names()) and len(set(demo.SHOWN)) == len(demo.SHOWN)
    (row,) = demo.card_rows(("sd3.5-medium",), (8,))
    assert row == {"model": "sd3.5-medium", "16-bit": "4.9 GB", "8 GB": "16-bit"}
