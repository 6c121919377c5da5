"""What stands under ComfyUI's markers beside its own formats, against the tools' own code."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import inspect
from fusequant.engine.pipeline import convert
from fusequant.engine.read import read
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import rows_of

from .coded_core import SHIFT, Coded, awq, svdquant, swizzled
from .dialects import NAME, Tensors
from .dialects_core import SVDQUANT, stored

GOLDEN = json.loads((Path(__file__).parent / "convert_to_quant_golden.json").read_text())
Packed = dict[str, object]


def unpacked(stored: Packed) -> torch.Tensor:
    data = bytearray(base64.b64decode(str(stored["data"])))
    shape = stored["shape"]
    assert isinstance(shape, list)
    return torch.frombuffer(data, dtype=getattr(torch, str(stored["dtype"]))).reshape(shape)


def written(tensors: Tensors, path: Path) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    return path


def values(path: Path, key: str = f"{NAME}.weight") -> torch.Tensor:
    source = open_source(path)
    layer = next(layer for layer in read(source).layers if layer.key == key)
    found = rows_of(layer, source)(0, layer.shape[0]).reshape(layer.shape).clone()
    source.close()
    return found


def test_hybrid_mxfp8_is_repaired_to_mxfp8_code_for_code(tmp_path):
    stored_as = GOLDEN["hybrid_mxfp8"]
    tensors = {key: unpacked(tensor) for key, tensor in stored_as["tensors"].items()}
    path, mended = written(tensors, tmp_path / "m.safetensors"), tmp_path / "mended.safetensors"
    convert(prepare_repair(open_source(path)), mended)
    found = load_file(mended)
    assert set(found) == set(tensors) - {f"{NAME}.weight_scalar"}
    for leaf in ("weight", "weight_scale"):
        assert (
            found[f"{NAME}.{leaf}"]
            .view(torch.uint8)
            .equal(tensors[f"{NAME}.{leaf}"].view(torch.uint8))
        )
    assert json.loads(found[f"{NAME}.comfy_quant"].numpy().tobytes())["format"] == "mxfp8"
    assert values(mended).equal(unpacked(stored_as["values"]))
    assert "hybrid-mxfp8" not in {problem.kind for problem in inspect(mended).problems}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_of_convert_to_quant_has_the_numbers_of_its_own_dequantize(name, tmp_path):
    tensors = {key: unpacked(tensor) for key, tensor in GOLDEN[name]["tensors"].items()}
    path = written(tensors, tmp_path / "m.safetensors")
    assert inspect(path).layers[{"hybrid_mxfp8": "mxfp8"}.get(name, name)] == 1
    assert values(path).equal(unpacked(GOLDEN[name]["values"]))


def test_scales_lie_where_comfy_kitchen_looks_for_them():
    blocked = pytest.importorskip("comfy_kitchen.float_utils").to_blocked
    scale = (torch.arange(200 * 7) % 251).to(torch.uint8).reshape(200, 7)
    assert swizzled(scale).flatten().equal(blocked(scale).flatten())


@pytest.mark.parametrize("group", [64, 128, 256])
def test_awq_has_the_numbers_of_comfy_kitchen(group, tmp_path):
    layout = pytest.importorskip("comfy_kitchen.tensor.awq_w4a16").TensorCoreAWQW4A16Layout
    coded = awq(group, torch.float32)
    params = layout.Params(
        scale=coded[0]["scale"], zeros=coded[0]["zeros"], group_size=group,
        orig_dtype=torch.float32, orig_shape=tuple(coded[2].shape),
    )  # fmt: skip
    expected = layout.dequantize(coded[0]["weight"], params)
    path = written(stored(coded, format="awq_w4a16", group_size=group), tmp_path / "m.safetensors")
    torch.testing.assert_close(values(path), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tiled", [True, False])
def test_svdquant_has_the_weight_of_comfy_kitchen(tiled, tmp_path):
    layout = pytest.importorskip("comfy_kitchen.tensor.svdquant_w4a4").TensorCoreSVDQuantW4A4Layout
    coded = svdquant(tiled)
    tensors = {role: tensor.clone() for role, tensor in coded[0].items()}
    for role in ("scale", "smooth", "down", "up"):
        tensors[role] = tensors[role].float()  # so that its arithmetic is float32
    params = layout.Params(
        scale=tensors["scale"], proj_down=tensors["down"], proj_up=tensors["up"],
        smooth_factor=tensors["smooth"], orig_dtype=torch.float32,
        orig_shape=tuple(coded[2].shape),
    )  # fmt: skip
    expected = layout.dequantize(tensors["weight"], params)
    path = written(stored(coded, **SVDQUANT), tmp_path / "m.safetensors")
    torch.testing.assert_close(values(path), expected, rtol=1e-5, atol=1e-4)


def test_a_shifted_layer_computes_what_comfy_kitchen_computes(tmp_path):
    """(x + shift) in the 4-bit branch, x in the other, against x w.T + b with the whole weight."""
    ops = pytest.importorskip("comfy_kitchen.backends.eager.svdquant")
    coded = svdquant(tiled=True)
    t = {role: x.float() if x.is_floating_point() else x for role, x in coded[0].items()}
    # activations that four unsigned bits hold: multiples of a group's step, from 0 to 15 of them
    x = (torch.arange(3 * 256).reshape(3, 256) % 16) / 4 * t["smooth"] - SHIFT
    bias = torch.linspace(-1, 1, 256).to(torch.bfloat16)
    codes, scales, branch = ops.quantize_svdquant_w4a4(
        x + SHIFT, t["smooth"], t["down"], pad_size=1, act_unsigned=True, lora_x=x
    )
    expected = ops.scaled_mm_svdquant_w4a4(
        codes, t["weight"], scales, t["scale"], branch, t["up"], bias.float(), act_unsigned=True
    )
    tensors = stored(coded, act_unsigned=True, **SVDQUANT) | {f"{NAME}.bias": bias}
    path = written(tensors, tmp_path / "m.safetensors")
    found = x @ values(path).t() + values(path, f"{NAME}.bias")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


REPAIRED: dict[str, tuple[Coded, dict[str, object], str]] = {
    "groups of 256": (awq(256), {"format": "awq_w4a16", "group_size": 256}, "int4_g128"),
    "groups of 128": (awq(128), {"format": "awq_w4a16", "group_size": 128}, "int4_g128"),
    "groups of 64": (awq(64), {"format": "awq_w4a16", "group_size": 64}, "none"),
    "svdquant": (svdquant(True), SVDQUANT, "none"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repair_keeps_codes_where_a_format_holds_them(name, tmp_path):
    coded, config, scheme = REPAIRED[name]
    path = written(stored(coded, **config), tmp_path / "m.safetensors")
    repaired = tmp_path / "repaired.safetensors"
    done = convert(prepare_repair(open_source(path)), repaired)
    if scheme == "none":
        assert load_file(repaired)[f"{NAME}.weight"].equal(coded[2].to(torch.bfloat16))
        return
    assert done.layers[scheme] == 1
    found = load_file(repaired)
    assert found[f"{NAME}.weight"].equal(coded[0]["weight"])
    assert found[f"{NAME}.weight_scale"].shape == (2, 192)
    assert values(repaired).equal(values(path))


def test_the_whole_bias_is_written(tmp_path):
    tensors = stored(svdquant(True), act_unsigned=True, **SVDQUANT)
    path = written(tensors, tmp_path / "m.safetensors")
    convert(prepare_dequant(open_source(path)), tmp_path / "plain.safetensors")
    plain = load_file(tmp_path / "plain.safetensors")
    assert set(plain) == {f"{NAME}.weight", f"{NAME}.bias"}
    assert plain[f"{NAME}.bias"].equal(values(path, f"{NAME}.bias"))
    assert not plain[f"{NAME}.bias"].equal(tensors[f"{NAME}.bias"].float())
