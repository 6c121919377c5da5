"""Files for LightX2V: its names, its layers, its shapes, numbers equal when read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.cli.main import main
from fusequant.engine.compare import compare
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.files.writer import Writer
from fusequant.engine.fuse.lora import open_lora
from fusequant.engine.inspect import inspect
from fusequant.engine.lightx2v import INDEX, NON_BLOCK
from fusequant.engine.pipeline import Request, Written, convert, prepare
from fusequant.engine.read import read
from fusequant.engine.rows import row_count, rows_of
from fusequant.engine.specs import spec
from fusequant.engine.stream import Cancelled

from .lightx2v_models import (
    RULES,
    D,
    Tensors,
    chosen,
    clip_wan,
    hunyuan_split,
    qwen,
    randn,
    t5_core,
    wan,
    z_image_core,
)  # fmt: skip

# name: (a small model, the rule, LightX2V's names of what it holds where they are not the file's)
MODELS: dict[str, tuple[Callable[[], Tensors], str, dict[str, str] | None]] = {
    "wan": (wan, "wan", None),
    "qwen": (qwen, "qwen", None),
    "hunyuan": (hunyuan_split, "hunyuan", None),
    "clip": (clip_wan, "clip", None),
    "t5": (
        t5_core,
        "t5",
        {
            "shared.weight": "token_embedding.weight",
            "encoder.final_layer_norm.weight": "norm.weight",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
                "blocks.0.pos_embedding.embedding.weight"
            ),
            "encoder.block.0.layer.0.layer_norm.weight": "blocks.0.norm1.weight",
            "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "blocks.0.ffn.gate.0.weight",
            "encoder.block.0.layer.1.DenseReluDense.wo.weight": "blocks.0.ffn.fc2.weight",
            **{
                f"encoder.block.0.layer.0.SelfAttention.{x}.weight": f"blocks.0.attn.{x}.weight"
                for x in "qkvo"
            },
        },
    ),
}


def saved(tensors: Tensors, folder: Path, name: str = "source") -> Path:
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    return path


def run(source: Path, out: Path, scheme: str = "int8", **more: object) -> Written:
    loras = [open_lora(path) for path in more.pop("loras", ())]  # type: ignore[attr-defined]
    request = Request(scheme, format="lightx2v", **more)  # type: ignore[arg-type]
    return convert(prepare(open_source(source), loras, request), out)


def expected(weight: torch.Tensor, scheme: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, scale [N, 1]) by the converter's formulas in float32."""
    amax = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-5)
    if scheme == "int8":
        scale = amax / 127
        return (weight.float() / scale).round().clamp(-128, 127).to(torch.int8), scale
    scale = amax / 448
    return (weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


@pytest.mark.parametrize("scheme", ["int8", "fp8_row"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_in_the_file(name: str, scheme: str, tmp_path: Path) -> None:
    make, rule, names = MODELS[name]
    tensors = make()
    run(saved(tensors, tmp_path), tmp_path / "out.safetensors", scheme)
    found = load_file(tmp_path / "out.safetensors")
    wanted = {}
    for key, tensor in tensors.items():
        if any(word in key for word in RULES[rule][2]):
            continue
        spelled = names[key] if names else key
        if not chosen(rule, spelled, tuple(tensor.shape)):
            wanted[spelled] = tensor.bfloat16()
            continue
        codes, scale = expected(tensor, scheme)
        wanted |= {spelled: codes, f"{spelled}_scale": scale}
    assert set(found) == set(wanted)
    for key, tensor in wanted.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=0)
        else:  # a code may be its neighbor where the division ends at a tie
            same = (found[key].float() == tensor.float()).float().mean()
            assert same == 1 if tensor.dtype == torch.bfloat16 else same > 0.999, key


def test_joined_layers_are_cut_and_renamed(tmp_path: Path) -> None:
    tensors = z_image_core()
    run(saved(tensors, tmp_path), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    qkv = tensors["layers.0.attention.qkv.weight"]
    for at, part in enumerate("qkv"):
        codes, _ = expected(qkv[at * D : (at + 1) * D], "int8")
        name = f"layers.0.attention.to_{part}.weight"
        assert (found[name] == codes).float().mean() > 0.999
        assert found[f"{name}_scale"].shape == (D, 1)
    assert found["layers.0.attention.to_out.0.weight"].dtype == torch.int8
    assert found["layers.0.adaLN_modulation.0.weight"].dtype == torch.int8
    assert found["all_x_embedder.2-1.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model", "rule", "matrices"),
    [
        ("wan2.2-t2v-14b", "wan", 400), ("wan2.1-i2v-14b-480p", "wan", 480),
        ("qwen-image-edit-2511", "qwen", 840), ("umt5-xxl", "t5", 168),
    ],
)  # fmt: skip
def test_as_many_matrices_as_lightx2v_multiplies(model: str, rule: str, matrices: int) -> None:
    prepared = prepare(spec(model), (), Request("int8", format="lightx2v"))
    quantized = [output for output in prepared.outputs if output.choice.scheme == "int8"]
    assert len(quantized) == matrices
    assert all(chosen(rule, x.choice.layer.key, x.choice.layer.shape) for x in quantized)


@pytest.mark.parametrize("by_block", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "fp8_row"])
def test_our_own_reader_finds_the_same_numbers(scheme, by_block, tmp_path) -> None:
    source = saved(wan(), tmp_path)
    out = tmp_path / ("out" if by_block else "out.safetensors")
    written = run(source, out, scheme, by_block=by_block)
    report = inspect(out)
    assert (report.dialect, report.family) == ("lightx2v", "wan")
    assert report.layers[scheme] == written.layers[scheme] == 20
    assert report.loads_in == ("FuseQuant: Load FP8 DiT",)
    opened = open_source(out)
    for layer in read(opened).layers:
        found = rows_of(layer, opened)(0, row_count(layer)).reshape(layer.shape)
        weight = wan()[layer.key]
        if layer.scheme == "none":
            assert found.equal(weight.float())
        else:
            codes, scale = expected(weight, scheme)
            step = float(scale.max())  # a code may be its neighbor
            torch.testing.assert_close(found, codes.float() * scale, rtol=1e-6, atol=step)
    opened.close()
    again = open_source(source)
    opened = open_source(out)
    assert compare(again, opened).worst < 0.05
    again.close()
    opened.close()


def test_a_folder_of_blocks(tmp_path: Path) -> None:
    out = tmp_path / "blocks"
    prepared = prepare(
        open_source(saved(wan(3), tmp_path)), (), Request("int8", format="lightx2v", by_block=True)
    )
    planned = prepared.plan.bytes
    written = convert(prepared, out)
    files = {path.name: path for path in out.iterdir()}
    blocks = [f"block_{at}.safetensors" for at in range(3)]
    assert set(files) == {*blocks, NON_BLOCK, INDEX}
    assert sum(path.stat().st_size for path in files.values()) == planned == written.bytes
    index = json.loads(files[INDEX].read_text())
    held = {name: load_file(files[name]) for name in (*blocks, NON_BLOCK)}
    assert index["weight_map"] == {key: file for file in held for key in held[file]}
    for at in range(3):
        assert all(key.startswith(f"blocks.{at}.") for key in held[f"block_{at}.safetensors"])
    assert not any(key.startswith("blocks.") for key in held[NON_BLOCK])
    one = tmp_path / "one.safetensors"
    run(tmp_path / "source.safetensors", one)
    whole = load_file(one)
    assert all(whole[key].equal(x) for file in held.values() for key, x in file.items())


def test_a_lora_is_fused_before(tmp_path: Path) -> None:
    tensors, name = wan(1), "blocks.0.self_attn.q"
    up, down = randn(D, 4), randn(4, D)
    lora = saved({f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}, tmp_path, "lora")
    run(saved(tensors, tmp_path), tmp_path / "out.safetensors", loras=[lora])
    codes, _ = expected(tensors[f"{name}.weight"].float() + up @ down, "int8")
    found = load_file(tmp_path / "out.safetensors")[f"{name}.weight"]
    assert (found == codes).float().mean() > 0.999


def test_a_lora_on_joined_rows_reaches_each_of_them(tmp_path: Path) -> None:
    tensors = z_image_core()
    up, down = randn(D, 4), randn(4, D)
    name = "layers.0.attention.to_k.lora_"
    lora = saved({f"{name}B.weight": up, f"{name}A.weight": down}, tmp_path, "lora")
    run(saved(tensors, tmp_path), tmp_path / "out.safetensors", loras=[lora])
    found = load_file(tmp_path / "out.safetensors")
    qkv = tensors["layers.0.attention.qkv.weight"]
    codes, _ = expected(qkv[D : 2 * D] + up @ down, "int8")
    assert (found["layers.0.attention.to_k.weight"] == codes).float().mean() > 0.999
    codes, _ = expected(qkv[:D], "int8")
    assert (found["layers.0.attention.to_q.weight"] == codes).float().mean() > 0.999


def test_a_lora_in_the_file_s_own_spelling(tmp_path: Path) -> None:
    tensors, name = hunyuan_split(), "double_blocks.0.img_attn_k"
    up, down = randn(D, 4), randn(4, D)
    lora = saved({f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}, tmp_path, "lora")
    run(saved(tensors, tmp_path), tmp_path / "out.safetensors", loras=[lora])
    codes, _ = expected(tensors[f"{name}.weight"] + up @ down, "int8")
    found = load_file(tmp_path / "out.safetensors")
    assert (found[f"{name}.weight"] == codes).float().mean() > 0.999


@pytest.mark.parametrize("stored", ["int8", "fp8_row"])
def test_codes_that_fit_are_written_as_they_are(stored: str, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    run(saved(wan(1), tmp_path), first, stored)
    written = run(first, tmp_path / "again.safetensors", stored)
    assert all(o.as_stored for o in written.prepared.outputs if o.choice.scheme != "none")
    one, two = load_file(first), load_file(tmp_path / "again.safetensors")
    assert all(two[key].float().equal(one[key].float()) for key in one)


def test_one_scale_a_tensor_becomes_one_for_each_row(tmp_path: Path) -> None:
    tensors, name = wan(1), "blocks.0.self_attn.q.weight"
    codes = (tensors[name].float() * 400).to(torch.float8_e4m3fn)
    tensors |= {name: codes, f"{name.removesuffix('.weight')}.scale_weight": torch.tensor(0.0025)}
    tensors["scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
    run(saved(tensors, tmp_path), tmp_path / "out.safetensors", "fp8_row")
    found = load_file(tmp_path / "out.safetensors")
    assert found[name].view(torch.uint8).equal(codes.view(torch.uint8))
    assert found[f"{name}_scale"].equal(torch.full((D, 1), 0.0025))


REFUSED: dict[str, tuple[Callable[[], Tensors], dict[str, object], str]] = {
    "scheme": (wan, {"scheme": "int8_convrot"}, "lightx2v-scheme"),
    "fp8 per tensor": (wan, {"scheme": "fp8"}, "lightx2v-scheme"),
    "keep": (wan, {"keep": ("blocks.0.*",)}, "lightx2v-keep"),
    "family": (lambda: {"a.0.weight": randn(D, D)}, {}, "lightx2v-family"),
    "names": (
        lambda: {
            k.replace("img_attn_proj", "img_attn.proj").replace("img_attn_", "img_attn."): v
            for k, v in hunyuan_split().items()
        } | {"double_blocks.0.img_attn.qkv.weight": randn(3 * D, D)},
        {}, "lightx2v-names",
    ),
    "format": (wan, {"format": "diffusers"}, "unknown-format"),
    "blocks of core": (wan, {"format": "core", "by_block": True}, "by-block"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_lightx2v_does_not_open_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, asked, kind = REFUSED[name]
    source = open_source(saved(make(), tmp_path))
    with pytest.raises(Refused) as refusal:
        prepare(source, (), Request(**{"scheme": "int8", "format": "lightx2v"} | asked))  # type: ignore[arg-type]
    assert refusal.value.kind == kind
    source.close()


def test_auto_is_what_every_card_multiplies(tmp_path: Path) -> None:
    prepared = prepare(open_source(saved(wan(1), tmp_path)), (), Request("auto", format="lightx2v"))
    assert prepared.request.scheme == "int8"
    prepared.close()


def test_a_target_that_is_in_the_way_is_refused(tmp_path: Path) -> None:
    source = saved(wan(1), tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name, kind in (
        ("full", "folder-not-empty"), ("source.safetensors", "target-is-file"),
        ("no/where", "no-such-folder"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=kind):
            run(source, tmp_path / name, by_block=True)
    assert (tmp_path / "full" / "a").read_text() == "mine"
    run(source, tmp_path / "empty", by_block=True)
    assert (tmp_path / "empty" / INDEX).is_file()


def test_a_full_disk_is_met_before_anything_is_written(tmp_path, monkeypatch) -> None:
    source = saved(wan(1), tmp_path)
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("fusequant.engine.files.folder_writer.shutil.disk_usage", lambda path: free)
    with pytest.raises(Refused, match="disk-full"):
        run(source, tmp_path / "out", by_block=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.safetensors"]


@pytest.mark.parametrize("stage", ["first", "last", "finish"])
def test_nothing_is_left_of_an_interrupted_folder(stage, tmp_path, monkeypatch) -> None:
    source = saved(wan(3), tmp_path)

    def stop(done: int, total: int) -> None:
        if stage == "first" or (stage == "last" and done >= total):
            raise Cancelled

    def broken(self: Writer) -> None:
        raise OSError(28, "No space left on device")

    if stage == "finish":
        monkeypatch.setattr(Writer, "_finish", broken)
    request = Request("int8", format="lightx2v", by_block=True)
    with pytest.raises((Cancelled, Refused)):
        convert(prepare(open_source(source), (), request), tmp_path / "out", stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.safetensors"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(wan(1), tmp_path)
    asked = [str(source), "--format", "lightx2v", "--scheme", "fp8-sgl", "--by-block", "--json"]
    assert main(["plan", *asked]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert main(["convert", *asked, "--out", str(tmp_path / "out")]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["bytes"] == planned["bytes"] and made["layers"]["fp8_row"] == 10
    assert any("for lightx2v" in warning for warning in made["warnings"])
    wrong = ["convert", str(source), "--by-block", "--out", str(tmp_path / "x"), "--json"]
    assert main(wrong) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "by-block"
