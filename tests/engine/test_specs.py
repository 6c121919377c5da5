"""The header-only specs are the real models: parameters, names, and no numbers inside."""

from __future__ import annotations

import json

import pytest

from fusequant.engine.errors import Refused
from fusequant.engine.read import read
from fusequant.engine.specs import names, spec

# billions of parameters as published, to two digits behind the point
BILLIONS = {
    "clip-l": 0.12,
    "clip-vision-h": 0.63,
    "flux1-dev": 11.90,
    "flux1-schnell": 11.89,
    "qwen-image-edit-2511": 20.43,
    "qwen2.5-vl-7b": 8.29,
    "t5-xxl": 4.76,
    "umt5-xxl": 5.68,
    "wan2.1-i2v-14b-480p": 16.39,
    "wan2.1-t2v-14b": 14.29,
    "wan2.2-i2v-14b": 14.29,
    "wan2.2-t2v-14b": 14.29,
    "wan2.2-ti2v-5b": 5.00,
}


def test_every_spec_is_known_here() -> None:
    assert names() == tuple(sorted(BILLIONS))


@pytest.mark.parametrize("name", names())
def test_parameters_are_those_published(name: str) -> None:
    found = spec(name)
    assert sum(tensor.elements for tensor in found.tensors.values()) == found.parameters
    assert round(found.parameters / 1e9, 2) == BILLIONS[name]


@pytest.mark.parametrize("name", names())
def test_a_spec_is_a_small_file_and_reads_like_a_checkpoint(name: str) -> None:
    found = spec(name)
    assert found.path.stat().st_size <= 30_000
    assert found.file == json.loads(found.path.read_text(encoding="utf-8"))["file"]
    contents = read(found)
    assert {layer.key for layer in contents.layers} == set(found.tensors)
    assert not contents.problems


def test_blocks_are_unfolded() -> None:
    wan = spec("wan2.1-t2v-14b").tensors
    assert wan["blocks.39.ffn.2.weight"].shape == (5120, 13824)
    assert "blocks.40.ffn.2.weight" not in wan
    assert {tensor.dtype for tensor in wan.values()} == {"F16"}
    relative = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    assert relative.format(0) in spec("t5-xxl").tensors  # T5 has it in the first block only,
    assert relative.format(1) not in spec("t5-xxl").tensors
    assert relative.format(23) in spec("umt5-xxl").tensors  # UMT5 in every one


def test_public_names_are_kept() -> None:
    assert "double_blocks.0.img_attn.norm.query_norm.scale" in spec("flux1-dev").tensors
    assert "__index_timestep_zero__" in spec("qwen-image-edit-2511").tensors
    assert "guidance_in.in_layer.weight" not in spec("flux1-schnell").tensors


def test_an_unknown_spec_is_refused_with_near_names() -> None:
    with pytest.raises(Refused) as refused:
        spec("flux-dev")
    assert refused.value.kind == "unknown-spec" and "flux1-dev" in str(refused.value)


def test_a_spec_has_no_numbers() -> None:
    with pytest.raises(Refused) as refused:
        spec("flux1-dev").tensor("img_in.weight")
    assert refused.value.kind == "spec-has-no-numbers"
    assert "flux1-dev.safetensors" in refused.value.to_json()["fix"]
