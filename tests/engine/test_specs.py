"""The header-only specs are the real models: parameters, names, and no numbers inside."""

from __future__ import annotations

import json

import pytest

from fusequant.engine.errors import Refused
from fusequant.engine.read import read
from fusequant.engine.specs import names, spec

# billions of parameters as published, to two digits behind the point; SD3.5's with the positions
# that its files hold (of the large one 8.06 without them)
BILLIONS = {
    "chroma1-hd": 8.90,
    "chroma1-radiance": 9.51,
    "clip-g": 0.69,
    "clip-l": 0.12,
    "clip-vision-h": 0.63,
    "flux1-dev": 11.90,
    "flux1-schnell": 11.89,
    "flux2-dev": 32.22,
    "flux2-klein-4b": 3.88,
    "flux2-klein-9b": 9.08,
    "gemma-2-2b": 2.61,
    "gemma-3-12b": 12.19,
    "hidream-i1": 17.11,
    "hunyuan-video-1.5": 8.33,
    "hunyuan-video": 12.82,
    "krea-2": 12.82,
    "llama-3.1-8b": 8.03,
    "ltx-2": 19.59,
    "ltx-video-0.9-13b": 13.04,
    "ltx-video-0.9-2b": 1.92,
    "lumina-2": 2.61,
    "mistral-small-flux2": 17.34,
    "qwen-image-2.1": 7.12,
    "qwen-image-2512": 20.43,
    "qwen-image-edit-2511": 20.43,
    "qwen2.5-vl-7b": 8.29,
    "qwen3-4b": 4.02,
    "qwen3-8b": 8.19,
    "sd3.5-large": 8.15,
    "sd3.5-medium": 2.47,
    "t5-xxl": 4.76,
    "umt5-xxl": 5.68,
    "wan2.1-i2v-14b-480p": 16.39,
    "wan2.1-t2v-1.3b": 1.42,
    "wan2.1-t2v-14b": 14.29,
    "wan2.1-vace-14b": 17.34,
    "wan2.2-animate-14b": 17.27,
    "wan2.2-fun-control-14b": 14.29,
    "wan2.2-i2v-14b": 14.29,
    "wan2.2-s2v-14b": 16.30,
    "wan2.2-t2v-14b": 14.29,
    "wan2.2-ti2v-5b": 5.00,
    "z-image-turbo": 6.15,
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
