"""LightX2V's nvfp4 and mx files: recognised, read, mended to ComfyUI's formats code for code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import inspect
from fusequant.engine.layer import Layer
from fusequant.engine.model import recognise
from fusequant.engine.pipeline import convert
from fusequant.engine.read import examine, formats, read
from fusequant.engine.repairable import mend
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import all_schemes, rows_of
from fusequant.engine.source import Source

from .coded_lightx2v import LIGHTX2V, Coded, K, N, mxfp4, nvfp4_calibrated, power_of

Tensors = dict[str, torch.Tensor]
Q = "blocks.0.self_attn.q"
WAN = {
    f"{Q}.bias": torch.arange(N).bfloat16(),
    "blocks.0.norm3.weight": torch.ones(K),
    "head.modulation": torch.ones(1, 2, 8),
}
LEAVES = {
    "weight": "weight", "scale": "weight_scale", "global_scale": "weight_global_scale",
    "alpha": "alpha",
}  # fmt: skip
POWERS = torch.float8_e8m0fnu


def wan(coded: Coded, input_leaf: str = "input_global_scale") -> Tensors:
    """A Wan layer as the converter writes it: e8m0 scales under that dtype."""
    stored = dict(coded[0])
    if stored["scale"].dtype == torch.uint8:
        stored["scale"] = stored["scale"].view(POWERS)
    leaves = LEAVES | {"input_scale": input_leaf}
    return WAN | {f"{Q}.{leaves[role]}": tensor for role, tensor in stored.items()}


def opened(tmp_path: Path, tensors: Tensors) -> Source:
    path = tmp_path / "model.safetensors"
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, path)
    return open_source(path)


def the_layer(source: Source) -> Layer:
    return next(x for x in read(source).layers if x.key == f"{Q}.weight")


CODED = {**LIGHTX2V, "calibrated": nvfp4_calibrated(), "far apart": mxfp4(90, 129)}
HOMES = {
    "lightx2v_nvfp4": "nvfp4", "lightx2v_mxfp8": "mxfp8", "lightx2v_mxfp6": "mxfp8",
    "lightx2v_mxfp4": "nvfp4", "calibrated": "nvfp4", "far apart": "none",
}  # fmt: skip
every = pytest.mark.parametrize("name", CODED)


@every
def test_the_file_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    source = opened(tmp_path, wan(CODED[name]))
    assert [form.name for form in formats().values() if form.detect(source)] == ["microscaled"]
    contents, found = read(source), the_layer(source)
    assert found.shape == (N, K)
    assert {problem.kind for problem in contents.problems} == {"scale-without-marker"}
    model = recognise(contents)
    assert model.family.name == "wan" and not model.unused
    used = [x for y in contents.layers for part in y.parts for x in part.tensors.values()]
    assert sorted([*used, *contents.ignored]) == sorted(source.tensors)
    got = rows_of(found, source)
    torch.testing.assert_close(got(0, N).double(), CODED[name][2].double(), rtol=3e-7, atol=0)
    assert torch.equal(got(70, 171), got(0, N)[70:171])


@every
def test_a_mended_copy_is_comfyui_s_format_with_the_very_numbers(name: str, tmp_path: Path) -> None:
    source = opened(tmp_path, wan(CODED[name]))
    before, out = rows_of(the_layer(source), source)(0, N), tmp_path / "mended.safetensors"
    assert mend(read(source)).exact == (HOMES[name] != "none")
    prepared = prepare_repair(source)
    written = convert(prepared, out)
    assert out.stat().st_size == written.bytes == prepared.plan.bytes
    made = load_file(out)
    if HOMES[name] == "none":
        assert set(made) == {f"{Q}.weight", *WAN}
        assert torch.equal(made[f"{Q}.weight"], before.to(made[f"{Q}.weight"].dtype))
        return
    scheme = all_schemes()[HOMES[name]]
    for piece in scheme.pieces(N, K, "BF16").values():
        assert tuple(made[Q + piece.suffix].shape) == piece.shape
    facts = json.loads(made[f"{Q}.comfy_quant"].numpy().tobytes())
    assert facts == {"format": scheme.format_id}
    again = open_source(out)
    assert read(again).problems == ()
    assert torch.equal(rows_of(the_layer(again), again)(0, N), before)


def test_the_calibrated_scale_of_the_input_becomes_comfyui_s(tmp_path: Path) -> None:
    """2688 / absmax and absmax say the same: ComfyUI has absmax / 2688."""
    absmax = torch.tensor(5.25)
    for leaf, stored in (("input_global_scale", 2688 / absmax), ("input_absmax", absmax)):
        coded = LIGHTX2V["lightx2v_nvfp4"]
        tensors = {**coded[0], "input_scale": stored}
        source = opened(tmp_path, wan((tensors, {}, coded[2]), leaf))
        convert(prepare_repair(source), tmp_path / "mended.safetensors")
        made = load_file(tmp_path / "mended.safetensors")
        torch.testing.assert_close(made[f"{Q}.input_scale"], absmax / 2688)


@every
def test_dequant_and_the_doctor(name: str, tmp_path: Path) -> None:
    source = opened(tmp_path, wan(CODED[name]))
    report = inspect(source.path)
    assert (report.family, report.dialect) == ("wan", "microscaled")
    assert report.loads_in == ("FuseQuant: Load FP8 DiT",)
    assert report.parameters == N * K + N + K + 16
    before, out = rows_of(the_layer(source), source)(0, N), tmp_path / "plain.safetensors"
    convert(prepare_dequant(source), out)
    assert torch.equal(load_file(out)[f"{Q}.weight"], before)


def test_rows_that_no_tile_is_full_of_are_filled_up(tmp_path: Path) -> None:
    """130 rows: ComfyUI stores 160 of mxfp8; scales of the rest may hold anything."""
    coded = LIGHTX2V["lightx2v_mxfp8"][0]
    tensors = wan(({**coded, "weight": coded["weight"][:130]}, {}, torch.empty(0)))
    tensors[f"{Q}.bias"] = torch.zeros(130)
    tensors[f"{Q}.weight_scale"] = tensors[f"{Q}.weight_scale"].clone()
    tensors[f"{Q}.weight_scale"].view(torch.uint8)[128:].view(-1)[16 * 2 : 512] = 255
    source, out = opened(tmp_path, tensors), tmp_path / "mended.safetensors"
    before = rows_of(the_layer(source), source)(0, 130)
    convert(prepare_repair(source), out)
    made = load_file(out)
    assert made[f"{Q}.weight"].shape == (160, K)
    assert not (made[f"{Q}.weight_scale"] == 255).any()
    again = open_source(out)
    assert the_layer(again).shape == (130, K)
    assert torch.equal(rows_of(the_layer(again), again)(0, 130), before)


def bad_scale(at: int) -> Tensors:
    tensors = wan(LIGHTX2V["lightx2v_mxfp6"])
    tensors[f"{Q}.weight_scale"] = tensors[f"{Q}.weight_scale"].clone()
    tensors[f"{Q}.weight_scale"].view(torch.uint8).view(-1)[at] = 255
    return tensors


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    source = opened(tmp_path, bad_scale(3))
    assert "scale-not-finite" in {problem.kind for problem in examine(source).problems}
    with pytest.raises(Refused, match="1 bytes are NaN"):
        read(source)


def test_scales_that_do_not_lie_in_tiles_are_refused_by_name(tmp_path: Path) -> None:
    other = {
        f"{Q}.weight": torch.zeros(N, K // 2, dtype=torch.uint8),
        f"{Q}.weight_scale": torch.ones(N, K // 16).to(torch.float8_e4m3fn),
        f"{Q}.weight_scale_2": torch.ones(()),
    }
    for tensors in (other, {k: t for k, t in other.items() if not k.endswith("_2")}):
        with pytest.raises(Refused, match="in tiles of 128 x 4") as refusal:
            read(opened(tmp_path, WAN | tensors))
        assert refusal.value.kind == "format-microscaled"


def test_the_powers_that_nvfp4_holds_are_told_from_the_file(tmp_path: Path) -> None:
    part = the_layer(opened(tmp_path, wan(mxfp4(112, 129)))).parts[0]
    assert part.settings == {"exponents": [112, 129]}
    assert power_of(torch.tensor(127)) == 1.0


def test_what_was_calibrated_beside_the_file_is_part_of_it(tmp_path: Path) -> None:
    coded, absmax = LIGHTX2V["lightx2v_nvfp4"], torch.tensor(5.25, dtype=torch.bfloat16)
    plain = opened(tmp_path, wan(coded))
    calib = {"absmax": {f"{Q}.weight": absmax, "blocks.9.ffn.0.weight": absmax}}
    torch.save(calib, tmp_path / "calib.pt")
    source = open_source(plain.path)
    assert set(source.tensors) - set(plain.tensors) == {f"{Q}.input_absmax"}
    assert (source.kind, source.path) == (plain.kind, plain.path)
    convert(prepare_repair(source), tmp_path / "mended.safetensors")
    made = load_file(tmp_path / "mended.safetensors")
    assert torch.equal(made[f"{Q}.input_scale"], absmax.float() / 2688)
    folder = open_source(opened(folder_of(tmp_path), wan(coded)).path.parent)
    assert f"{Q}.input_absmax" not in folder.tensors
    torch.save(calib, tmp_path / "alone" / "calib.pt")
    folder = open_source(tmp_path / "alone")
    assert f"{Q}.input_absmax" in folder.tensors
    assert inspect(tmp_path / "alone").dialect == "microscaled"


def folder_of(tmp_path: Path) -> Path:
    made = tmp_path / "alone"
    made.mkdir()
    return made


@pytest.mark.parametrize("content", [{"other": {}}, [torch.ones(1)]])
def test_a_calibration_of_another_shape_is_refused_by_name(content: object, tmp_path: Path) -> None:
    plain = opened(tmp_path, wan(LIGHTX2V["lightx2v_nvfp4"]))
    torch.save(content, tmp_path / "calib.pt")
    with pytest.raises(Refused, match=r"without absmax in calib\.pt"):
        open_source(plain.path)


def test_other_models_leave_such_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "calib.pt").write_bytes(b"nothing")
    source = opened(tmp_path, wan(LIGHTX2V["lightx2v_mxfp8"]))
    assert f"{Q}.input_absmax" not in source.tensors
