"""Layers of a checkpoint under ComfyUI's names: codes stay codes, also where parts are joined."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

pytest.importorskip("comfy_kitchen", reason="comfy-kitchen is not installed")

from fusequant.engine.layer import Layer, Part
from fusequant.engine.rows import all_schemes
from fusequant.engine.tensors import TensorSpec, dtype_name
from fusequant.host.translate import translate

N, K = 128, 256


class Memory:
    """A source of tensors in memory."""

    path, kind = Path("memory"), "safetensors"
    metadata: Mapping[str, str] = {}

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.values = tensors
        self.tensors = {
            name: TensorSpec(name, dtype_name(t.dtype), tuple(t.shape))
            for name, t in tensors.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        return self.values[name]


def stored(scheme: str, names: str, **settings: object) -> tuple[Memory, list[Part], torch.Tensor]:
    """A source with one weight for each letter of `names`, their parts and the joined numbers."""
    found, tensors, parts, values = all_schemes()[scheme], {}, [], []
    for seed, name in enumerate(names):
        weight = torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
        pieces = found.quantize(weight)
        tensors |= {f"{name}.{role}": tensor for role, tensor in pieces.items()}
        said = {**found.config(N, K), **settings}
        parts.append(Part(scheme, {role: f"{name}.{role}" for role in pieces}, said))
        values.append(found.dequantize(pieces, said))
    return Memory(tensors), parts, torch.cat(values)


def dequantized(state: Mapping[str, torch.Tensor], layer: str) -> tuple[str, torch.Tensor]:
    """(format id, numbers) of a layer of a state dict."""
    facts = json.loads(state[f"{layer}.comfy_quant"].numpy().tobytes())
    scheme = next(
        s for s in all_schemes().values()
        if s.format_id == facts["format"] and (s.name == "int8_convrot") == ("convrot" in facts)
    )  # fmt: skip
    pieces = {role: state[layer + p.suffix] for role, p in scheme.pieces(N, K, "BF16").items()}
    return facts["format"], scheme.dequantize(pieces, facts)


@pytest.mark.parametrize("scheme", [name for name in all_schemes() if name != "none"])
def test_a_whole_layer_keeps_its_codes(scheme: str) -> None:
    source, parts, values = stored(scheme, "a")
    made = translate((Layer("x.weight", (N, K), "BF16", tuple(parts)),), source)
    assert made.state["x.weight"].data_ptr() == source.values["a.weight"].data_ptr()
    assert torch.equal(dequantized(made.state, "x")[1], values)
    assert made.how == {scheme: 1} and made.requantized == []


@pytest.mark.parametrize(
    ("scheme", "joined"),
    [
        ("fp8", "float8_e4m3fn_rowwise"),
        ("fp8_row", "float8_e4m3fn_rowwise"),
        ("int8", "int8_tensorwise"),
        ("int8_convrot", "int8_tensorwise"),
        ("int4_g128", "awq_w4a16"),
    ],
)
def test_joined_parts_keep_their_codes(scheme: str, joined: str) -> None:
    source, parts, values = stored(scheme, "qkv")
    made = translate((Layer("qkv.weight", (3 * N, K), "BF16", tuple(parts)),), source)
    name, found = dequantized(made.state, "qkv")
    assert name == joined
    assert torch.equal(found, values)
    assert made.requantized == []


@pytest.mark.parametrize("scheme", ["fp8_block128", "fp8_e5m2"])
def test_parts_that_no_format_joins_are_quantized_again_and_named(scheme: str) -> None:
    source, parts, values = stored(scheme, "qk")
    made = translate((Layer("qk.weight", (2 * N, K), "BF16", tuple(parts)),), source)
    _, found = dequantized(made.state, "qk")
    assert float((found - values).norm() / values.norm()) < all_schemes()[scheme].worst_error
    assert made.requantized == ["qk"]


def test_rows_of_a_stored_layer_are_taken() -> None:
    source, parts, values = stored("int8", "a")
    swapped = tuple(Part("int8", parts[0].tensors, {}, rows) for rows in ((64, 128), (0, 64)))
    made = translate((Layer("x.weight", (N, K), "BF16", swapped),), source)
    assert torch.equal(dequantized(made.state, "x")[1], torch.cat((values[64:], values[:64])))


def test_plain_layers_are_views_and_joined_ones_are_stacked() -> None:
    a, b = torch.randn(4, 8).bfloat16(), torch.randn(2, 8).bfloat16()
    source = Memory({"a": a, "b": b})
    one = Layer("one.weight", (4, 8), "BF16", (Part("none", {"weight": "a"}),))
    two = Layer(
        "two.weight", (6, 8), "BF16",
        (Part("none", {"weight": "a"}), Part("none", {"weight": "b"})),
    )  # fmt: skip
    made = translate((one, two), source)
    assert made.state["one.weight"].data_ptr() == a.data_ptr()
    assert torch.equal(made.state["two.weight"], torch.cat((a, b)))


def test_a_layer_that_comes_later_is_a_shape_without_data() -> None:
    source, parts, _ = stored("fp8", "a")
    layer = Layer("x.weight", (N, K), "BF16", tuple(parts))
    made = translate((layer,), source, later={"x.weight"})
    assert made.state["x.weight"].is_meta
    assert (made.state["x.weight"].shape, made.state["x.weight"].dtype) == ((N, K), torch.bfloat16)


def test_plain_dequantizes_everything() -> None:
    source, parts, values = stored("int8", "a")
    layer = Layer("x.weight", (N, K), "BF16", tuple(parts))
    made = translate((layer,), source, plain=True)
    assert list(made.state) == ["x.weight"]
    assert torch.equal(made.state["x.weight"], values.bfloat16())
