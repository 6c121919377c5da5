"""Every spelling of a LoRA key finds its layer; what finds none is reported once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.family import Family, Target
from fusequant.engine.fuse.grammar import spell
from fusequant.engine.fuse.lora import Fused, match, open_lora
from fusequant.engine.layer import Layer
from fusequant.engine.model import families

N, K, R = 12, 8, 2
LAYERS = {
    "blocks.0.attn.to_q.weight": (N, K),
    "blocks.0.attn.to_q.bias": (N,),
    "blocks.0.norm.query_norm.scale": (K,),
    "blocks.0.modulation": (1, 6, K),
}
FAMILY = Family("tiny", "Tiny", "diffusion", "", lambda shapes: "core")


def model(shapes: dict[str, tuple[int, ...]], family: Family = FAMILY) -> SimpleNamespace:
    layers = tuple(Layer(key, shape, "BF16", ()) for key, shape in shapes.items())
    return SimpleNamespace(family=family, layers=layers)


def matched(tmp_path: Path, shapes: dict[str, tuple[int, ...]], of: SimpleNamespace) -> Fused:
    path = tmp_path / "lora.safetensors"
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    return match([open_lora(path)], of)


FACTORS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_A.my_style.weight", ".lora_B.my_style.weight"),
    (".lora_A", ".lora_B"),
    (".lora_down.weight", ".lora_up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)
MODULES = (
    "blocks.0.attn.to_q",
    "transformer.blocks.0.attn.to_q",
    "diffusion_model.blocks.0.attn.to_q",
    "model.diffusion_model.blocks.0.attn.to_q",
    "base_model.model.blocks.0.attn.to_q",
    "base_model.model.diffusion_model.blocks.0.attn.to_q",
    "unet.base_model.model.blocks.0.attn.to_q",
    "pipe.dit.blocks.0.attn.to_q",
    "unet.blocks.0.attn.to_q",
    "lora_unet_blocks_0_attn_to_q",
    "lora_unet__blocks_0_attn_to_q",
    "lora_transformer_blocks_0_attn_to_q",
    "lycoris_blocks_0_attn_to_q",
)


@pytest.mark.parametrize("ends", FACTORS, ids=lambda ends: ends[0])
@pytest.mark.parametrize("module", MODULES)
def test_a_spelled_module_finds_its_layer(
    tmp_path: Path, module: str, ends: tuple[str, str]
) -> None:
    shapes = {module + ends[0]: (R, K), module + ends[1]: (N, R)}
    fused = matched(tmp_path, shapes, model(LAYERS))
    assert list(fused.changes) == ["blocks.0.attn.to_q.weight"]
    assert (fused.report[0].matched, fused.report[0].unmatched) == (1, ())


@pytest.mark.parametrize(
    ("name", "shape", "key"),
    [
        ("diffusion_model.blocks.0.attn.to_q.diff", (N, K), "blocks.0.attn.to_q.weight"),
        ("diffusion_model.blocks.0.attn.to_q.diff_b", (N,), "blocks.0.attn.to_q.bias"),
        ("lora_unet_blocks_0_attn_to_q.diff_b", (N,), "blocks.0.attn.to_q.bias"),
        ("diffusion_model.blocks.0.diff_m", (1, 6, K), "blocks.0.modulation"),
        ("blocks.0.modulation.diff", (1, 6, K), "blocks.0.modulation"),
        ("blocks.0.norm.query_norm.diff", (K,), "blocks.0.norm.query_norm.scale"),
        ("blocks.0.norm.query_norm.w_norm", (K,), "blocks.0.norm.query_norm.scale"),
        ("blocks.0.attn.to_q.b_norm", (N,), "blocks.0.attn.to_q.bias"),
    ],
)
def test_a_difference_names_the_parameter_it_changes(
    tmp_path: Path, name: str, shape: tuple[int, ...], key: str
) -> None:
    assert list(matched(tmp_path, {name: shape}, model(LAYERS)).changes) == [key]


def test_control_loras_replace_norms_by_their_scale(tmp_path: Path) -> None:
    shapes = {
        "blocks.0.attn.to_q.lora_A.weight": (R, K),
        "blocks.0.attn.to_q.lora_B.weight": (N, R),
        "blocks.0.attn.to_q.lora_B.bias": (N,),
        "blocks.0.norm.query_norm.scale": (K,),
    }
    fused = matched(tmp_path, shapes, model(LAYERS))
    kinds = {key: change.kind for key, (change,) in fused.changes.items()}
    assert kinds == {
        "blocks.0.attn.to_q.weight": "lora",
        "blocks.0.attn.to_q.bias": "diff",
        "blocks.0.norm.query_norm.scale": "set",
    }


def test_processor_names_are_those_of_the_layers_beside_them() -> None:
    names = [
        f"double_blocks.3.processor.{part}.{end}.weight"
        for part in ("qkv_lora1", "qkv_lora2", "proj_lora1", "proj_lora2")
        for end in ("down", "up")
    ]
    names += ["single_blocks.3.processor.qkv_lora.up.weight"]
    assert [module for module, _ in spell(names).modules] == [
        "double_blocks.3.img_attn.qkv",
        "double_blocks.3.txt_attn.qkv",
        "double_blocks.3.img_attn.proj",
        "double_blocks.3.txt_attn.proj",
        "single_blocks.3.linear1_qkv",
    ]


def test_a_family_gives_other_names_with_their_rows(tmp_path: Path) -> None:
    aliases = {"attn.to_k": Target("qkv.weight", (4, 8))}
    family = Family("f", "F", "diffusion", "", lambda s: "core", aliases=lambda shapes: aliases)
    for module in ("transformer.attn.to_k", "lycoris_attn_to_k", "lora_transformer_attn_to_k"):
        shapes = {f"{module}.lora_A.weight": (R, K), f"{module}.lora_B.weight": (4, R)}
        fused = matched(tmp_path, shapes, model({"qkv.weight": (N, K)}, family))
        assert fused.changes["qkv.weight"][0].target == Target("qkv.weight", (4, 8))
    bias = {"transformer.attn.to_k.diff_b": (4,), "qkv.diff": (N, K)}
    fused = matched(tmp_path, bias, model({"qkv.weight": (N, K), "qkv.bias": (N,)}, family))
    assert fused.changes["qkv.bias"][0].target == Target("qkv.bias", (4, 8))


def test_the_hosts_own_names_come_first(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"odd.diff": torch.ones(N, K)}, path)
    target = Target("blocks.0.attn.to_q.weight")
    fused = match([open_lora(path)], model(LAYERS), names={"odd": target})
    assert fused.changes[target.key][0].module == "odd"


def test_every_unmatched_module_is_named_once(tmp_path: Path) -> None:
    shapes = {
        "blocks.0.attn.to_q.lora_A.weight": (R, K),
        "blocks.0.attn.to_q.lora_B.weight": (N, R),
        "blocks.7.attn.to_q.lora_A.weight": (R, K),
        "blocks.7.attn.to_q.lora_B.weight": (N, R),
        "blocks.7.attn.to_q.alpha": (),
        "blocks.0.modulation.diff_b": (1,),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (R, K),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": (N, R),
        "bundle_emb.token.string_to_param": (4, 4),
    }
    (report,) = matched(tmp_path, shapes, model(LAYERS)).report
    assert report.matched == 1
    assert sorted(report.unmatched) == [
        "blocks.0.modulation",
        "blocks.7.attn.to_q",
        "bundle_emb.token.string_to_param",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    ]
    assert report.notes == ("1 modules are for a text encoder, not for this model",)
    assert report.to_json()["unmatched"] == list(report.unmatched)


def test_a_text_encoder_takes_its_own_keys(tmp_path: Path) -> None:
    family = Family("text", "Text", "text", "", lambda shapes: "core")
    key = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    for module in (
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    ):
        shapes = {f"{module}.lora_down.weight": (R, K), f"{module}.lora_up.weight": (N, R)}
        assert list(matched(tmp_path, shapes, model({key: (N, K)}, family)).changes) == [key]


@pytest.mark.parametrize(
    ("family", "module", "target"),
    [
        (
            "flux",
            "transformer.transformer_blocks.0.attn.to_k",
            Target("double_blocks.0.img_attn.qkv.weight", (8, 16)),
        ),
        (
            "flux",
            "lora_transformer_single_transformer_blocks_0_proj_mlp",
            Target("single_blocks.0.linear1.weight", (24, 56)),
        ),
        (
            "flux",
            "lora_unet_double_blocks_0_img_attn_qkv",
            Target("double_blocks.0.img_attn.qkv.weight"),
        ),
        ("wan", "transformer.blocks.0.attn2.to_q", Target("blocks.0.cross_attn.q.weight")),
        ("wan", "lora_unet__blocks_0_self_attn_q", Target("blocks.0.self_attn.q.weight")),
        ("wan", "lycoris_blocks_0_attn1_to_q", Target("blocks.0.self_attn.q.weight")),
        (
            "qwen_image",
            "lycoris_transformer_blocks_0_img_mlp_net_0_proj",
            Target("transformer_blocks.0.img_mlp.net.0.proj.weight"),
        ),
    ],
)
def test_real_families_place_real_names(
    tmp_path: Path, family: str, module: str, target: Target
) -> None:
    shapes = {
        "double_blocks.0.img_attn.qkv.weight": (24, 8),
        "single_blocks.0.linear1.weight": (56, 8),
        "blocks.0.self_attn.q.weight": (8, 8),
        "blocks.0.cross_attn.q.weight": (8, 8),
        "transformer_blocks.0.img_mlp.net.0.proj.weight": (32, 8),
    }
    rows = shapes[target.key][0] if target.rows is None else target.rows[1] - target.rows[0]
    factors = {f"{module}.lora_down.weight": (R, 8), f"{module}.lora_up.weight": (rows, R)}
    fused = matched(tmp_path, factors, model(shapes, families()[family]))
    assert fused.changes[target.key][0].target == target
