"""What a mended file stores for each layer: the same codes wherever a format for them exists."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusequant.engine.format import Contents
from fusequant.engine.layer import Layer, Part
from fusequant.engine.problem_kinds import tell
from fusequant.engine.repairable import mend
from fusequant.engine.rotated import as_rotated


def stored(scheme: str, shape=(192, 256), key="a.weight", **settings: object) -> Layer:
    tensors = {"weight": key} | ({} if scheme == "none" else {"scale": "a.weight_scale"})
    return Layer(key, shape, "BF16", (Part(scheme, tensors, settings),))


def contents(*layers: Layer, problems=()) -> Contents:
    return Contents("any", layers, tuple(problems))


@pytest.mark.parametrize(
    ("scheme", "format_id", "scale_shape", "opened_by"),
    [
        ("fp8", "float8_e4m3fn", (), "ComfyUI 0.33"),
        ("fp8_e5m2", "float8_e5m2", (), "ComfyUI 0.33"),
        ("int8", "int8_tensorwise", (192, 1), "ComfyUI 0.33"),
        ("int8_convrot", "int8_tensorwise", (192, 1), "ComfyUI 0.33"),
        ("int8_weight_only", "int8_tensorwise", (192, 1), "ComfyUI 0.33"),
        ("fp8_row", "float8_e4m3fn_rowwise", (192,), "FuseQuant's loaders"),
        ("fp8_block128", "float8_e4m3fn_blockwise", (2, 2), "FuseQuant's loaders"),
        ("int4_g128", "awq_w4a16", (2, 192), "ComfyUI 0.38 and FuseQuant's loaders"),
    ],
)
def test_the_same_codes_under_core_s_ids(scheme, format_id, scale_shape, opened_by):
    found = mend(contents(stored(scheme), stored("none", (192,), "a.bias")))
    first, bias = found.layers
    assert (first.action, first.scheme, first.format_id) == ("respell", scheme, format_id)
    assert (first.scale_shape, found.opened_by) == (scale_shape, opened_by)
    assert (bias.action, bias.scheme) == ("keep", "none")
    assert found.exact


@pytest.mark.parametrize("layer", [stored("fp8", (8, 4, 3, 3)), stored("fp8", (8,), "a.bias")])
def test_codes_that_are_no_matrix_are_dequantized(layer):
    found = mend(contents(layer))
    assert (found.layers[0].action, found.layers[0].scheme) == ("dequantize", "none")
    assert found.layers[0].why and not found.exact


def joined(scheme: str, count: int = 3, edge: int = 256, **of_the_last: object) -> Layer:
    parts = [
        Part(scheme, {"weight": f"{x}.weight", "scale": f"{x}.scale"}, {}, (0, edge))
        for x in "qkv"[:count]
    ]
    parts[-1] = replace(parts[-1], settings=of_the_last)
    return Layer("qkv.weight", (count * edge, 256), "BF16", tuple(parts))


@pytest.mark.parametrize(
    ("scheme", "home"),
    [
        ("int8", "int8"),
        ("int8_weight_only", "int8_weight_only"),
        ("int8_convrot", "int8_convrot"),
        ("fp8_row", "fp8_row"),
        ("fp8_block128", "fp8_block128"),
        ("int4_g128", "int4_g128"),
        ("fp8", "fp8_row"),
    ],
)
def test_joined_layers_keep_their_codes(scheme, home):
    found = mend(contents(joined(scheme)))
    assert (found.layers[0].action, found.layers[0].scheme) == ("restate", home)
    assert found.exact


@pytest.mark.parametrize(
    "layer",
    [joined("fp8_e5m2"), joined("fp8_block128", edge=192), joined("int8", convrot=True)],
    ids=["no rows of e5m2", "cut inside a tile", "settings that differ"],
)
def test_joined_layers_that_no_scheme_holds_are_quantized_again(layer):
    found = mend(contents(layer)).layers[0]
    assert (found.action, found.scheme) == ("requantize", layer.scheme)


def test_halves_of_one_weight_keep_its_scale():
    part = Part("fp8", {"weight": "a.weight", "scale": "a.scale"})
    halves = tuple(replace(part, rows=rows) for rows in ((96, 192), (0, 96)))
    found = mend(contents(Layer("a.weight", (192, 256), "BF16", halves))).layers[0]
    assert (found.action, found.scheme, found.opened_by) == ("restate", "fp8", "ComfyUI 0.33")


def test_what_respelling_cannot_mend_is_left():
    problems = (tell("scale-zero", "1 of 2", "a"), tell("scale-without-marker", "x", "a"))
    assert [x.kind for x in mend(contents(problems=problems)).left] == ["scale-zero"]


def test_a_decision_is_a_choice_of_a_plan():
    choice = mend(contents(stored("int8"))).layers[0].choice
    assert (choice.layer.key, choice.scheme, choice.dtype) == ("a.weight", "int8", "BF16")


def test_rotated_rows_on_the_user_s_word():
    odd = stored("int8", (192, 100), "b.weight")
    given = contents(stored("int8"), odd, problems=[tell("maybe-rotated", "int8 rows")])
    found = as_rotated(given, 64)
    assert [layer.scheme for layer in found.layers] == ["int8_convrot", "int8"]
    assert found.layers[0].parts[0].settings == {"convrot_groupsize": 64}
    assert found.problems == ()
