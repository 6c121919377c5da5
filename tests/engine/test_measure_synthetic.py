"""Random models and LoRAs: right names and shapes, a seed is a model, outliers where due."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fusequant.engine.errors import Refused
from fusequant.engine.measure.config import TINY, FluxConfig, config_of, of_size
from fusequant.engine.measure.lora import make_lora, write_lora
from fusequant.engine.measure.synthetic import make_weights, write_flux_like
from fusequant.engine.measure.timing import PrivatePeak

SMALL = FluxConfig(256, 1, 1)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def test_the_file_holds_the_same_numbers_as_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert write_flux_like(path, SMALL, seed=3) == SMALL
    stored, made = read(path), make_weights(SMALL, seed=3)
    assert stored.keys() == made.keys() == SMALL.shapes().keys()
    assert all(torch.equal(stored[key], made[key]) for key in made)
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert all(t.isfinite().all() for t in stored.values())
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_seed_is_a_model() -> None:
    first, again, other = (make_weights(SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_layers_do_not_share_their_numbers() -> None:
    weights = make_weights(SMALL)
    left, right = (weights[f"double_blocks.0.{x}_attn.proj.weight"].float() for x in ("img", "txt"))
    assert abs(float((left * right).sum() / left.norm() / right.norm())) < 0.02


def test_weights_have_outlier_channels_and_heavy_rows() -> None:
    weight = make_weights(TINY)["double_blocks.0.img_mlp.2.weight"].float()
    columns, rows = weight.norm(dim=0).sort().values, weight.norm(dim=1).sort().values
    assert columns[-2] > 2.5 * columns[columns.shape[0] // 2]
    assert columns[-10] < 1.5 * columns[columns.shape[0] // 2]
    assert rows[-1] > 2.5 * rows[rows.shape[0] // 2]


def test_modulation_raises_a_few_activations_10_to_40_times() -> None:
    bias = make_weights(TINY)["double_blocks.1.img_mod.lin.bias"].float()
    for scale in (bias.view(6, -1)[1], bias.view(6, -1)[4]):
        raised = (scale + 1)[scale > 5]
        assert len(raised) == 2
        assert ((raised >= 9.9) & (raised <= 40.2)).all()


@pytest.mark.parametrize("size", [12 << 20, 100 << 20, 1 << 30, 4 << 30, 24 << 30])
def test_a_size_becomes_a_model_that_nearly_fills_it(size: int) -> None:
    config = of_size(size)
    assert 0.6 * size < config.size_bytes <= size
    assert config.double_blocks >= 1
    assert config.single_blocks >= 2
    assert config_of(config.shapes()) == config


def test_flux_dev_has_its_parameter_count() -> None:
    flux_dev = FluxConfig(3072, 19, 38, 4096, 768)
    assert flux_dev.size_bytes == 2 * 11_901_408_320
    assert flux_dev.heads == 24


def test_writing_takes_little_memory_whatever_the_size(tmp_path: Path) -> None:
    make_weights(SMALL)  # what torch takes once
    with PrivatePeak() as peak:
        write_flux_like(tmp_path / "big.safetensors", 400 << 20)
    assert (tmp_path / "big.safetensors").stat().st_size > 240 << 20
    assert peak.over_baseline_bytes is None or peak.over_baseline_bytes < 80 << 20


def test_names_that_are_no_flux_are_refused() -> None:
    with pytest.raises(Refused, match="not-flux-shaped"):
        config_of({"blocks.0.attn.weight": (4, 4)})
    with pytest.raises(Refused, match="size-too-small"):
        of_size(1000)


def test_the_kohya_lora_spells_fused_layers(tmp_path: Path) -> None:
    write_lora(tmp_path / "style.safetensors", SMALL, "kohya", rank=8)
    lora = read(tmp_path / "style.safetensors")
    at = "lora_unet_double_blocks_0_img_attn_qkv"
    assert lora[f"{at}.lora_down.weight"].shape == (8, 256)
    assert lora[f"{at}.lora_up.weight"].shape == (768, 8)
    assert float(lora[f"{at}.alpha"]) == 4.0
    assert lora["lora_unet_single_blocks_0_linear1.lora_up.weight"].shape == (7 * 256, 8)
    assert {t.dtype for t in lora.values()} == {torch.float16}
    assert all(key.startswith("lora_unet_") for key in lora)
    assert len(lora) == 3 * 10


def test_the_peft_lora_spells_q_k_and_v_apart(tmp_path: Path) -> None:
    write_lora(tmp_path / "distill.safetensors", SMALL, "peft", rank=4)
    lora = read(tmp_path / "distill.safetensors")
    double, single = "transformer.transformer_blocks.0", "transformer.single_transformer_blocks.0"
    for part in ("attn.to_q", "attn.to_k", "attn.add_v_proj", "attn.to_add_out"):
        assert lora[f"{double}.{part}.lora_A.weight"].shape == (4, 256)
        assert lora[f"{double}.{part}.lora_B.weight"].shape == (256, 4)
    assert lora[f"{double}.ff.net.2.lora_A.weight"].shape == (4, 1024)
    assert lora[f"{single}.proj_mlp.lora_B.weight"].shape == (1024, 4)
    assert lora[f"{single}.proj_out.lora_A.weight"].shape == (4, 5 * 256)
    assert not any("alpha" in key for key in lora)
    assert len(lora) == 2 * (12 + 5)


@pytest.mark.parametrize(("spelling", "low", "high"), [("kohya", 0.01, 0.03), ("peft", 0.03, 0.09)])
def test_a_delta_has_the_size_of_its_kind(spelling: str, low: float, high: float) -> None:
    weight = make_weights(TINY)["double_blocks.0.img_attn.proj.weight"].float()
    lora = {key: t.float() for key, t in make_lora(TINY, spelling).items()}
    if spelling == "kohya":
        at = "lora_unet_double_blocks_0_img_attn_proj"
        factor = lora[f"{at}.alpha"] / 16
        delta = factor * lora[f"{at}.lora_up.weight"] @ lora[f"{at}.lora_down.weight"]
    else:
        at = "transformer.transformer_blocks.0.attn.to_out.0"
        delta = lora[f"{at}.lora_B.weight"] @ lora[f"{at}.lora_A.weight"]
    assert low < float(delta.norm() / weight.norm()) < high


def test_a_lora_is_the_same_for_a_seed_and_an_unknown_spelling_is_refused() -> None:
    first, again, other = (make_lora(SMALL, "peft", 4, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
    with pytest.raises(Refused, match=r"unknown-spelling.*peft, core, kohya"):
        make_lora(SMALL, "onetrainer")
