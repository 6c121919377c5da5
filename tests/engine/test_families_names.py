"""Other spellings become core's names with the right numbers; LoRA names find their rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.family import Target
from fusequant.engine.files.open import open_source
from fusequant.engine.model import Model, families, recognise
from fusequant.engine.read import read
from fusequant.engine.rows import row_count, rows_of
from fusequant.engine.source import Source
from fusequant.engine.specs import spec

D = 32
Tensors = dict[str, torch.Tensor]


def numbered(*shapes: tuple[str, tuple[int, ...]]) -> Tensors:
    """Float32 tensors in which no two numbers are alike, so that a wrong row shows."""
    found, at = {}, 0
    for name, shape in shapes:
        count = torch.Size(shape).numel()
        found[name] = torch.arange(at, at + count, dtype=torch.float32).reshape(shape)
        at += count
    return found


def linear(name: str, n: int, k: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (n, k)), (f"{name}.bias", (n,))]


def core_values(tensors: Tensors, folder: Path) -> tuple[Model, Tensors]:
    """What the model of a file holds under core's names."""
    path = folder / "model.safetensors"
    save_file(tensors, path)
    source: Source = open_source(path)
    found = recognise(read(source))
    values = {
        layer.key: rows_of(layer, source)(0, row_count(layer)).reshape(layer.shape)
        for layer in found.layers
    }
    source.close()
    return found, values


def flux_diffusers() -> Tensors:
    double, single = "transformer_blocks.0.", "single_transformer_blocks.0."
    listed = [
        *linear("x_embedder", D, 64),
        *linear("context_embedder", D, 64),
        *linear("proj_out", 64, D),
        *linear("norm_out.linear", 2 * D, D),
        *linear("time_text_embed.timestep_embedder.linear_1", D, 16),
        *linear("time_text_embed.guidance_embedder.linear_2", D, D),
        *linear(f"{double}norm1_context.linear", 6 * D, D),
        *linear(f"{double}ff_context.net.0.proj", 4 * D, D),
        *(row for x in "qkv" for row in linear(f"{double}attn.to_{x}", D, D)),
        *(row for x in "qkv" for row in linear(f"{double}attn.add_{x}_proj", D, D)),
        *(row for x in "qkv" for row in linear(f"{single}attn.to_{x}", D, D)),
        *linear(f"{single}proj_mlp", 4 * D, D),
        *linear(f"{single}proj_out", D, 5 * D),
        (f"{double}attn.norm_added_k.weight", (128,)),
    ]
    return numbered(*listed)


def test_flux_from_diffusers_joins_q_k_v_and_swaps_the_last_modulation(tmp_path: Path) -> None:
    was = flux_diffusers()
    found, now = core_values(was, tmp_path)
    assert (found.family.name, found.spelling, found.unused) == ("flux", "diffusers", ())
    double, single = "transformer_blocks.0.attn.", "single_transformer_blocks.0."
    for end in ("weight", "bias"):
        image = torch.cat([was[f"{double}to_{x}.{end}"] for x in "qkv"])
        text = torch.cat([was[f"{double}add_{x}_proj.{end}"] for x in "qkv"])
        one = [was[f"{single}attn.to_{x}.{end}"] for x in "qkv"] + [was[f"{single}proj_mlp.{end}"]]
        assert now[f"double_blocks.0.img_attn.qkv.{end}"].equal(image)
        assert now[f"double_blocks.0.txt_attn.qkv.{end}"].equal(text)
        assert now[f"single_blocks.0.linear1.{end}"].equal(torch.cat(one))
        scale, shift = was[f"norm_out.linear.{end}"].chunk(2)
        assert now[f"final_layer.adaLN_modulation.1.{end}"].equal(torch.cat([shift, scale]))
    for core, spelled in {
        "img_in.weight": "x_embedder.weight",
        "final_layer.linear.bias": "proj_out.bias",
        "single_blocks.0.linear2.weight": "single_transformer_blocks.0.proj_out.weight",
        "time_in.in_layer.weight": "time_text_embed.timestep_embedder.linear_1.weight",
        "guidance_in.out_layer.bias": "time_text_embed.guidance_embedder.linear_2.bias",
        "double_blocks.0.txt_mod.lin.weight": "transformer_blocks.0.norm1_context.linear.weight",
        "double_blocks.0.txt_mlp.0.weight": "transformer_blocks.0.ff_context.net.0.proj.weight",
        "double_blocks.0.txt_attn.norm.key_norm.weight": f"{double}norm_added_k.weight",
    }.items():
        assert now[core].equal(was[spelled]), core


WAN_NAMES = {
    "condition_embedder.time_embedder.linear_2.weight": "time_embedding.2.weight",
    "condition_embedder.time_proj.weight": "time_projection.1.weight",
    "condition_embedder.text_embedder.linear_1.bias": "text_embedding.0.bias",
    "condition_embedder.image_embedder.ff.net.2.weight": "img_emb.proj.3.weight",
    "condition_embedder.image_embedder.norm2.weight": "img_emb.proj.4.weight",
    "scale_shift_table": "head.modulation",
    "proj_out.weight": "head.head.weight",
    "patch_embedding.weight": "patch_embedding.weight",
    "blocks.0.scale_shift_table": "blocks.0.modulation",
    "blocks.0.norm2.weight": "blocks.0.norm3.weight",
    "blocks.0.attn1.to_q.weight": "blocks.0.self_attn.q.weight",
    "blocks.0.attn1.to_out.0.bias": "blocks.0.self_attn.o.bias",
    "blocks.0.attn2.to_v.weight": "blocks.0.cross_attn.v.weight",
    "blocks.0.attn2.add_k_proj.weight": "blocks.0.cross_attn.k_img.weight",
    "blocks.0.attn2.norm_added_k.weight": "blocks.0.cross_attn.norm_k_img.weight",
    "blocks.0.ffn.net.0.proj.weight": "blocks.0.ffn.0.weight",
    "blocks.0.ffn.net.2.weight": "blocks.0.ffn.2.weight",
}


def test_wan_from_diffusers_is_renamed(tmp_path: Path) -> None:
    was = numbered(*((name, (4, 4) if name.endswith("weight") else (4,)) for name in WAN_NAMES))
    found, now = core_values(was, tmp_path)
    assert (found.family.name, found.spelling) == ("wan", "diffusers")
    assert set(now) == set(WAN_NAMES.values())
    assert all(now[core].equal(was[spelled]) for spelled, core in WAN_NAMES.items())


def test_hunyuan_with_q_k_v_apart_is_joined(tmp_path: Path) -> None:
    block = "double_blocks.0."
    was = numbered(
        ("txt_in.individual_token_refiner.blocks.0.norm1.weight", (D,)),
        ("txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight", (3 * D, D)),
        ("txt_in.t_embedder.mlp.2.weight", (D, D)),
        *(row for x in "qkv" for row in linear(f"{block}img_attn_{x}", D, D)),
        *linear(f"{block}img_mod.linear", 6 * D, D),
        *linear(f"{block}txt_mlp.fc2", D, 4 * D),
        (f"{block}img_attn_q_norm.weight", (16,)),
    )
    found, now = core_values(was, tmp_path)
    assert found.spelling == "split"
    joined = torch.cat([was[f"{block}img_attn_{x}.weight"] for x in "qkv"])
    assert now[f"{block}img_attn.qkv.weight"].equal(joined)
    assert set(now) == {
        "txt_in.individual_token_refiner.blocks.0.norm1.weight",
        "txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight",
        "txt_in.t_embedder.out_layer.weight",
        *(f"{block}{x}.{e}" for x in ("img_attn.qkv", "img_mod.lin") for e in ("weight", "bias")),
        *(f"{block}txt_mlp.2.{e}" for e in ("weight", "bias")),
        f"{block}img_attn.norm.query_norm.weight",
    }


def test_z_image_from_diffusers_is_joined(tmp_path: Path) -> None:
    refiner = "noise_refiner.0.attention."
    was = numbered(
        ("cap_embedder.1.weight", (D, 16)),
        ("all_x_embedder.2-1.weight", (D, 64)),
        ("all_final_layer.2-1.adaLN_modulation.1.weight", (D, 16)),
        (f"{refiner}to_out.0.weight", (D, D)),
        *((f"{refiner}to_{x}.weight", (D, D)) for x in "qkv"),
    )
    found, now = core_values(was, tmp_path)
    assert (found.family.name, found.spelling) == ("z_image", "diffusers")
    joined = torch.cat([was[f"{refiner}to_{x}.weight"] for x in "qkv"])
    assert now[f"{refiner}qkv.weight"].equal(joined)
    assert {"x_embedder.weight", "final_layer.adaLN_modulation.1.weight"} < set(now)
    assert now[f"{refiner}out.weight"].equal(was[f"{refiner}to_out.0.weight"])


def test_wans_t5_gets_hugging_faces_names(tmp_path: Path) -> None:
    was = numbered(
        ("token_embedding.weight", (64, D)),
        ("norm.weight", (D,)),
        ("blocks.0.norm2.weight", (D,)),
        ("blocks.0.attn.q.weight", (D, D)),
        ("blocks.0.pos_embedding.embedding.weight", (32, 4)),
        ("blocks.0.ffn.gate.0.weight", (D, D)),
        ("blocks.0.ffn.fc1.weight", (D, D)),
        ("blocks.0.ffn.fc2.weight", (D, D)),
    )
    found, now = core_values(was, tmp_path)
    assert (found.family.name, found.spelling) == ("t5", "wan")
    block = "encoder.block.0.layer."
    for core, spelled in {
        "shared": "token_embedding",
        "encoder.final_layer_norm": "norm",
        f"{block}1.layer_norm": "blocks.0.norm2",
        f"{block}0.SelfAttention.q": "blocks.0.attn.q",
        f"{block}0.SelfAttention.relative_attention_bias": "blocks.0.pos_embedding.embedding",
        f"{block}1.DenseReluDense.wi_0": "blocks.0.ffn.gate.0",
        f"{block}1.DenseReluDense.wi_1": "blocks.0.ffn.fc1",
        f"{block}1.DenseReluDense.wo": "blocks.0.ffn.fc2",
    }.items():
        assert now[f"{core}.weight"].equal(was[f"{spelled}.weight"]), core


def test_wans_vision_tower_is_split_reshaped_and_transposed(tmp_path: Path) -> None:
    was = numbered(
        ("visual.patch_embedding.weight", (D, 3, 2, 2)),
        ("visual.cls_embedding", (1, 1, D)),
        ("visual.pos_embedding", (1, 5, D)),
        ("visual.pre_norm.bias", (D,)),
        ("visual.head", (D, 8)),
        *linear("visual.transformer.0.attn.to_qkv", 3 * D, D),
        *linear("visual.transformer.0.mlp.2", D, 4 * D),
        ("textual.blocks.0.attn.q.weight", (8, 8)),
    )
    found, now = core_values(was, tmp_path)
    assert (found.family.name, found.spelling) == ("clip_vision", "wan")
    assert [layer.key for layer in found.unused] == ["textual.blocks.0.attn.q.weight"]
    tower = "vision_model."
    assert now["visual_projection.weight"].equal(was["visual.head"].t())
    assert now[f"{tower}embeddings.class_embedding"].equal(was["visual.cls_embedding"].flatten())
    assert now[f"{tower}embeddings.position_embedding.weight"].equal(was["visual.pos_embedding"][0])
    assert now[f"{tower}pre_layrnorm.bias"].equal(was["visual.pre_norm.bias"])
    block, joined = f"{tower}encoder.layers.0.", "visual.transformer.0.attn.to_qkv."
    for end in ("weight", "bias"):
        for x, part in zip("qkv", was[joined + end].chunk(3), strict=True):
            assert now[f"{block}self_attn.{x}_proj.{end}"].equal(part)
    assert now[f"{block}mlp.fc2.weight"].equal(was["visual.transformer.0.mlp.2.weight"])


def test_reshaped_layers_read_the_same_in_any_chunks(tmp_path: Path) -> None:
    was = numbered(
        ("visual.patch_embedding.weight", (D, 3, 2, 2)),
        ("visual.pos_embedding", (1, 5, D)),
        ("visual.head", (D, 8)),
        *linear("visual.transformer.0.attn.to_qkv", 3 * D, D),
    )
    path = tmp_path / "tower.safetensors"
    save_file(was, path)
    source = open_source(path)
    for layer in recognise(read(source)).layers:
        read_rows = rows_of(layer, source)
        rows = row_count(layer)
        pieces = [read_rows(i, min(rows, i + 3)) for i in range(0, rows, 3)]
        assert torch.cat(pieces).equal(read_rows(0, rows)), layer.key
    source.close()


def test_nested_qwen_vl_loses_its_nest(tmp_path: Path) -> None:
    was = numbered(
        ("model.language_model.layers.0.self_attn.o_proj.weight", (D, D)),
        ("model.language_model.layers.0.self_attn.k_proj.bias", (8,)),
        ("model.visual.blocks.0.attn.qkv.weight", (D, D)),
        ("lm_head.weight", (64, D)),
    )
    _, now = core_values(was, tmp_path)
    assert set(now) == {
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.self_attn.k_proj.bias",
        "visual.blocks.0.attn.qkv.weight",
        "lm_head.weight",
    }


H = 3072
ALIASES = [
    ("flux1-dev", "transformer_blocks.3.attn.to_k", "double_blocks.3.img_attn.qkv", (H, 2 * H)),
    (
        "flux1-dev",
        "transformer_blocks.18.attn.add_v_proj",
        "double_blocks.18.txt_attn.qkv",
        (2 * H, 3 * H),
    ),
    (
        "flux1-dev",
        "single_transformer_blocks.37.proj_mlp",
        "single_blocks.37.linear1",
        (3 * H, 7 * H),
    ),
    ("flux1-dev", "single_transformer_blocks.0.attn.to_q", "single_blocks.0.linear1", (0, H)),
    ("flux1-dev", "single_blocks.5.linear1_qkv", "single_blocks.5.linear1", (0, 3 * H)),
    ("flux1-dev", "transformer_blocks.0.ff.net.2", "double_blocks.0.img_mlp.2", None),
    ("wan2.1-i2v-14b-480p", "blocks.39.attn1.to_q", "blocks.39.self_attn.q", None),
    ("wan2.1-i2v-14b-480p", "blocks.0.attn2.add_v_proj", "blocks.0.cross_attn.v_img", None),
    ("wan2.1-t2v-14b", "blocks.7.ffn.net.0.proj", "blocks.7.ffn.0", None),
    (
        "umt5-xxl",
        "blocks.3.ffn.gate.0",
        "encoder.block.3.layer.1.DenseReluDense.wi_0",
        None,
    ),
]


@pytest.mark.parametrize(("name", "spelled", "module", "rows"), ALIASES)
def test_lora_names_find_their_rows(
    name: str, spelled: str, module: str, rows: tuple[int, int] | None
) -> None:
    found = recognise(read(spec(name)))
    assert found.family.aliases(found.shapes)[spelled] == Target(f"{module}.weight", rows)


def test_the_last_modulation_of_diffusers_flux_has_its_halves_swapped() -> None:
    found = recognise(read(spec("flux1-dev")))
    target = found.family.aliases(found.shapes)["norm_out.linear"]
    assert target == Target("final_layer.adaLN_modulation.1.weight", halves_swapped=True)


def test_a_name_never_points_outside_its_layer() -> None:
    for name in ("flux1-dev", "wan2.1-i2v-14b-480p", "umt5-xxl", "qwen-image-edit-2511"):
        found = recognise(read(spec(name)))
        for target in found.family.aliases(found.shapes).values():
            shape = found.shapes[target.key]
            assert target.rows is None or 0 <= target.rows[0] < target.rows[1] <= shape[0]


def test_lumina_has_fewer_rows_for_keys_than_for_queries() -> None:
    shapes = {
        "layers.0.attention.qkv.weight": (D + 2 * 8, D),
        "layers.0.attention.out.weight": (D, D),
    }
    found = families()["z_image"].aliases(shapes)
    assert found["layers.0.attention.to_k"].rows == (D, D + 8)
    assert found["layers.0.attention.to_v"].rows == (D + 8, D + 16)


def test_hunyuan_knows_tencents_and_diffusers_names() -> None:
    shapes = {
        "double_blocks.0.img_attn.qkv.weight": (3 * D, D),
        "single_blocks.1.modulation.lin.weight": (3 * D, D),
    }
    found = families()["hunyuan_video"].aliases(shapes)
    key = "double_blocks.0.img_attn.qkv.weight"
    assert found["double_blocks.0.img_attn_qkv"] == Target(key)
    assert found["double_blocks.0.img_attn_v"] == Target(key, (2 * D, 3 * D))
    assert found["transformer_blocks.0.attn.to_q"] == Target(key, (0, D))
    assert found["single_blocks.1.modulation.linear"].key == "single_blocks.1.modulation.lin.weight"
