"""GGUF files: header, shapes, numbers and names, against the gguf package where it is installed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusequant.engine.compare import compare
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.format import Contents
from fusequant.engine.formats import gguf as gguf_format
from fusequant.engine.ggml import BY_NAME, TYPES
from fusequant.engine.inspect import inspect
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.model import recognise
from fusequant.engine.pipeline import Request, convert, prepare
from fusequant.engine.read import formats, read
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import row_count, rows_of
from fusequant.engine.source import Source
from fusequant.engine.stored import all_codecs

from .gguf_file import (
    ENCODE,
    Stored,
    entry,
    fact,
    file_of,
    filled,
    gguf,
    golden,
    numbers,
    q8_0,
)  # fmt: skipfrom .lightx2v_models import qwen, wan
from .lightx2v_models import qwen, wan

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
QKV = "double_blocks.0.img_attn.qkv.weight"
DECODED = [kind.name for kind in TYPES.values() if kind.decoded]


def flux(kind: str = "Q4_K") -> tuple[Stored, dict[str, torch.Tensor]]:
    """(a FLUX as GGUF stores it, its numbers): matrices in `kind` where whole blocks fit."""
    generator = torch.Generator().manual_seed(3)
    stored, values = {}, {}
    for name, shape in CONFIG.shapes().items():
        if len(shape) == 2 and "blocks." in name and shape[1] % BY_NAME[kind].elements == 0:
            data, values[name] = filled(kind, shape)
            stored[name] = (kind, shape, data)
        else:
            values[name] = torch.randn(shape, generator=generator) * 0.05
            plain = values[name].to(torch.bfloat16) if len(shape) == 2 else values[name]
            values[name] = plain.float()
            stored[name] = numbers(plain)
    return stored, values


@pytest.fixture
def opened(tmp_path: Path):
    """Write bytes as a .gguf and open it; closed at the end."""
    found: list[Source] = []

    def make(data: bytes) -> Source:
        path = tmp_path / f"model-{len(found)}.gguf"
        path.write_bytes(data)
        found.append(open_source(path))
        return found[-1]

    yield make
    for source in found:
        source.close()


def values_of(source: Source, contents: Contents) -> dict[str, torch.Tensor]:
    return {
        layer.key: rows_of(layer, source)(0, row_count(layer)).reshape(layer.shape)
        for layer in contents.layers
    }


def test_the_package_agrees_on_types_and_blocks() -> None:
    package = pytest.importorskip("gguf")
    sizes = package.constants.GGML_QUANT_SIZES
    named = {kind.name: (int(kind), *sizes[kind]) for kind in sizes}
    for number, kind in TYPES.items():
        assert named[kind.name] == (number, kind.elements, kind.size)


@pytest.mark.parametrize("name", DECODED)
def test_the_package_agrees_on_golden_blocks(name: str) -> None:
    package = pytest.importorskip("gguf")
    blocks, values = golden(name)
    data = torch.frombuffer(bytearray(blocks), dtype=torch.uint8).view(-1, BY_NAME[name].size)
    found = package.quants.dequantize(data.numpy(), package.GGMLQuantizationType[name])
    assert torch.from_numpy(found).reshape(-1).equal(values)


def test_every_decoded_type_has_its_codec_and_every_codec_its_type() -> None:
    named = {kind.codec for kind in TYPES.values() if kind.dtype is None}
    assert named == {name for name in all_codecs() if name.startswith("gguf_")}


@pytest.mark.parametrize("name", DECODED)
def test_any_run_of_rows_is_a_cut_of_the_whole(name: str) -> None:
    blocks, values = golden(name)
    tensors = {"weight": torch.frombuffer(bytearray(blocks), dtype=torch.uint8)}
    rows, whole = all_codecs()[name_of(name)].rows, values.reshape(32, 24)
    for start in range(32):
        for stop in (start + 1, min(32, start + 5), 32):
            found = rows(tensors, {"columns": 24, "type": name}, start, stop)
            assert found.equal(whole[start:stop])


def name_of(kind: str) -> str:
    return BY_NAME[kind].codec


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "IQ4_XS"])
def test_a_flux_is_read_layer_by_layer(kind: str, opened) -> None:
    stored, expected = flux(kind)
    source = opened(file_of(stored))
    assert [form.name for form in formats().values() if form.detect(source)] == ["gguf"]
    contents = read(source)
    model = recognise(contents)
    assert (model.family.name, model.spelling, model.dtype) == ("flux", "core", "BF16")
    layers = {layer.key: layer for layer in contents.layers}
    assert (layers[QKV].scheme, layers[QKV].shape) == (name_of(kind), (768, 256))
    assert layers["img_in.weight"].scheme == "none"
    found = values_of(source, contents)
    assert set(found) == set(expected)
    assert all(found[key].equal(expected[key]) for key in expected)


def test_a_file_of_the_package_opens_with_the_package_s_numbers(tmp_path: Path) -> None:
    package = pytest.importorskip("gguf")
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(5)) * 0.02
    writer = package.GGUFWriter(tmp_path / "p.gguf", "flux")
    kinds = package.GGMLQuantizationType
    writer.add_array("tokenizer.ggml.tokens", ["a"] * 300)
    for kind in ("Q8_0", "Q4_0", "Q5_1"):
        data = package.quants.quantize(weight.numpy(), kinds[kind])
        writer.add_tensor(f"{kind}.weight", data, raw_dtype=kinds[kind])
    writer.add_tensor("norm.weight", weight[0].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = open_source(tmp_path / "p.gguf")
    found = values_of(source, read(source))
    reader = package.GGUFReader(tmp_path / "p.gguf")
    for tensor in reader.tensors:
        expected = package.quants.dequantize(tensor.data, tensor.tensor_type)
        assert found[tensor.name].equal(torch.from_numpy(expected.copy()))
    assert source.metadata["general.architecture"] == "flux"
    source.close()


@pytest.mark.parametrize(("kind", "bound"), [("Q8_0", 0.01), ("Q4_K", 0.1)])
def test_our_own_writer_is_understood_by_the_package(kind: str, bound: float) -> None:
    """What the other tests make files with: close to the weight, the same for both readers."""
    package = pytest.importorskip("gguf")
    weight = torch.randn(8, 512, generator=torch.Generator().manual_seed(2)) * 0.02
    data = torch.frombuffer(bytearray(ENCODE[kind](weight)), dtype=torch.uint8)
    blocks = data.view(-1, BY_NAME[kind].size).numpy()
    theirs = torch.from_numpy(
        package.quants.dequantize(blocks, package.GGMLQuantizationType[kind])
    ).reshape(8, 512)
    ours = all_codecs()[name_of(kind)].rows({"weight": data}, {"columns": 512}, 0, 8)
    assert ours.equal(theirs)
    assert float((ours - weight).norm() / weight.norm()) < bound


def test_numbers_without_blocks_keep_their_dtype(opened) -> None:
    half, wide = torch.randn(4, 8).half(), torch.randn(3)
    kinds = {"a.weight": numbers(half), "b.bias": numbers(wide), "c": ("I32", (2,), bytes(8))}
    contents = read(opened(file_of(kinds)))
    assert {x.key: (x.dtype, x.shape) for x in contents.layers} == {
        "a.weight": ("F16", (4, 8)),
        "b.bias": ("F32", (3,)),
        "c": ("I32", (2,)),
    }


def test_blocks_are_float16_beside_float16(opened) -> None:
    data, _ = filled("Q8_0", (4, 32))
    stored = {"a.weight": ("Q8_0", (4, 32), data), "b.weight": numbers(torch.ones(2).half())}
    layer = read(opened(file_of(stored))).layers[0]
    assert (layer.dtype, layer.scheme) == ("F16", "gguf_q8_0")


def test_a_flattened_tensor_has_its_own_shape_again(opened) -> None:
    data, values = filled("Q8_0", (12, 32))
    plain = torch.arange(24.0)
    stored = {"conv.weight": ("Q8_0", (12, 32), data), "five.weight": numbers(plain)}
    mark = "comfy.gguf.orig_shape."
    facts = {f"{mark}conv.weight": [8, 3, 4, 4], f"{mark}five.weight": [2, 3, 1, 2, 2]}
    source = opened(file_of(stored, facts))
    contents = read(source)
    assert [layer.shape for layer in contents.layers] == [(8, 3, 4, 4), (2, 3, 1, 2, 2)]
    found = values_of(source, contents)
    assert found["conv.weight"].equal(values.reshape(8, 3, 4, 4))
    assert found["five.weight"].equal(plain.reshape(2, 3, 1, 2, 2))


@pytest.mark.parametrize("told", [[2, 2], [-2, -12], "24", "[24", [0]])
def test_a_shape_that_cannot_be_is_refused(told: object, opened) -> None:
    stored = {"w": numbers(torch.arange(24.0))}
    with pytest.raises(Refused, match="gguf-shape"):
        read(opened(file_of(stored, {"comfy.gguf.orig_shape.w": told})))


def test_a_lora_is_told_where_it_belongs(opened) -> None:
    stored = {"a.weight.lora_a": numbers(torch.ones(4, 4))}
    with pytest.raises(Refused, match="--lora"):
        read(opened(file_of(stored, {"general.type": "adapter"})))


def test_types_of_the_package_are_read_through_it(opened, monkeypatch) -> None:
    pytest.importorskip("gguf")
    block = bytes([127]) + bytes([0x21] * 16)
    stored = {"a.weight": ("MXFP4", (1, 32), block)}
    source = opened(file_of(stored))
    expected = torch.tensor([[0.5] * 16 + [1.0] * 16])  # codes 1 and 2 of e2m1
    assert values_of(source, read(source))["a.weight"].equal(expected)


def test_without_the_package_they_are_named_and_refused(opened, monkeypatch) -> None:
    monkeypatch.setattr(gguf_format, "find_spec", lambda name: None)
    data = entry("a.weight", (1, 256), next(n for n, k in TYPES.items() if k.name == "IQ3_S"), 0)
    source = opened(gguf([fact("general.architecture", "flux")], [data], bytes(110)))
    (problem,) = inspect(source.path).problems[:1]
    assert (problem.kind, problem.layer) == ("gguf-type", "a")
    with pytest.raises(Refused, match="pip install gguf"):
        read(source)


def test_what_is_made_of_it(tmp_path: Path) -> None:
    stored, expected = flux()
    path = tmp_path / "flux.gguf"
    path.write_bytes(file_of(stored))
    report = inspect(path)
    assert (report.dialect, report.family) == ("gguf", "flux")
    assert report.layers["gguf_q4_k"] > 5 and report.bytes == path.stat().st_size
    assert report.loads_in == ("FuseQuant: Load FP8 DiT",)
    assert "other-tool" in {problem.kind for problem in report.problems}
    convert(prepare_dequant(open_source(path)), tmp_path / "plain.safetensors")
    plain = load_file(tmp_path / "plain.safetensors")
    assert all(plain[key].equal(expected[key]) for key in expected)
    convert(prepare_repair(open_source(path)), tmp_path / "repaired.safetensors")
    mended = load_file(tmp_path / "repaired.safetensors")
    assert mended[QKV].equal(expected[QKV].bfloat16())
    prepared = prepare(open_source(path), (), Request("int8"))
    assert any("rounds them twice" in warning for warning in prepared.plan.warnings)
    convert(prepared, tmp_path / "int8.safetensors")
    first, second = open_source(path), open_source(tmp_path / "int8.safetensors")
    assert 0 < compare(first, second).worst < 0.05
    first.close()
    second.close()


def test_shards_are_one_model(tmp_path: Path) -> None:
    stored, expected = flux("Q8_0")
    names = list(stored)
    for at, part in enumerate((names[:9], names[9:]), 1):
        data = file_of({name: stored[name] for name in part})
        (tmp_path / f"flux-{at:05}-of-00002.gguf").write_bytes(data)
    source = open_source(tmp_path)
    assert read(source).format == "gguf"
    assert values_of(source, read(source))[QKV].equal(expected[QKV])
    source.close()


T5 = {
    **{
        f"enc.blk.0.attn_{x}.weight": f"encoder.block.0.layer.0.SelfAttention.{x}.weight"
        for x in "qkvo"
    },
    "enc.blk.0.attn_norm.weight": "encoder.block.0.layer.0.layer_norm.weight",
    "enc.blk.0.attn_rel_b.weight": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "enc.blk.0.ffn_gate.weight": "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    "enc.blk.0.ffn_up.weight": "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
    "enc.blk.0.ffn_down.weight": "encoder.block.0.layer.1.DenseReluDense.wo.weight",
    "enc.blk.0.ffn_norm.weight": "encoder.block.0.layer.1.layer_norm.weight",
    "enc.output_norm.weight": "encoder.final_layer_norm.weight",
    "token_embd.weight": "shared.weight",
}
QWEN = {
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.0.attn_q.bias": "model.layers.0.self_attn.q_proj.bias",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
    "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
    "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@pytest.mark.parametrize(("family", "names"), [("t5", T5), ("qwen_vl", QWEN)])
def test_text_encoders_under_llama_cpp_s_names(family: str, names: dict[str, str], opened) -> None:
    weights = {name: torch.full((4, 32), float(at)) for at, name in enumerate(names)}
    stored = {name: ("Q8_0", (4, 32), q8_0(weight)) for name, weight in weights.items()}
    source = opened(file_of(stored, {"general.architecture": family}))
    model = recognise(read(source))
    assert (model.family.name, model.spelling) == (family, "gguf")
    assert {layer.key for layer in model.layers} == set(names.values())
    for layer in model.layers:
        was = next(name for name, core in names.items() if core == layer.key)
        torch.testing.assert_close(rows_of(layer, source)(0, 4), weights[was], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("family", "make"), [("wan", wan), ("qwen_image", qwen)])
def test_other_diffusion_models_keep_their_own_names(family: str, make, opened) -> None:
    """As ComfyUI-GGUF writes them; a tensor of five sides is stored flat with its shape beside."""
    tensors = make()
    flat = {name: x for name, x in tensors.items() if x.dim() > 4}
    stored = {name: numbers(x.reshape(len(x), -1) if name in flat else x)
              for name, x in tensors.items()}  # fmt: skip
    told = {f"comfy.gguf.orig_shape.{name}": list(x.shape) for name, x in flat.items()}
    source = opened(file_of(stored, {"general.architecture": family, **told}))
    model = recognise(read(source))
    assert (model.family.name, model.spelling) == (family, "core")
    assert {layer.key: layer.shape for layer in model.layers} == {
        name: tuple(x.shape) for name, x in tensors.items()
    }


def test_llama_s_rows_are_in_another_order_and_not_taken_for_qwen_s(opened) -> None:
    stored = {name: numbers(torch.ones(4, 4)) for name in QWEN if not name.endswith("bias")}
    assert recognise(read(opened(file_of(stored)))).family.name == "unknown"


def test_a_header_of_two_million_texts_opens_in_a_second(tmp_path: Path) -> None:
    count = 1 << 21
    listed = (1).to_bytes(8, "little") + b"a"
    head = fact("t", ["x"])[: -len(listed)]
    head = head[:-8] + count.to_bytes(8, "little")
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([head + listed * count], [entry("w", (2,), 0, 0)], bytes(8)))
    started = time.process_time()
    source = open_source(path)
    assert time.process_time() - started < 1
    assert source.tensors["w"].shape == (2,)
    source.close()


def test_a_header_needs_no_torch_and_no_package(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file_of(flux()[0]))
    code = (
        "import sys\n"
        "from fusequant.engine.inspect import inspect\n"
        "found = inspect(sys.argv[1]).layers\n"
        "sys.exit('torch' in sys.modules or 'gguf' in sys.modules or not found['gguf_q4_k'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0
