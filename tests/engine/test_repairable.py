"""What a mended file stores for each layer: the same codes wherever a format for them exists."""

from __future__ import annotations

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


def test_joined_layers_are_quantized_again():
    part = Part("int8", {"weight": "q.weight", "scale": "q.weight_scale"})
    layer = Layer("qkv.weight", (576, 256), "BF16", (part, part, part))
    found = mend(contents(layer)).layers[0]
    assert (found.action, found.scheme) == ("requantize", "int8")


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
