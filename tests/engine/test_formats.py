"""Every dialect: a tiny file as its own tool writes it, who claims it, its layers and its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.layer import Layer
from fusequant.engine.parts import discover
from fusequant.engine.read import formats, read
from safetensors.torch import save_file

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
Tensors = dict[str, torch.Tensor]
BIAS = {"block.0.proj.bias": torch.arange(192).to(torch.bfloat16)}
NAME = "block.0.proj"
WEIGHT = torch.linspace(-3, 3, 192 * 256).reshape(192, 256).sin()


def marker(**config: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def fp8(shape: tuple[int, ...] = (192, 256)) -> torch.Tensor:
    return WEIGHT[: shape[0], : shape[1]].contiguous().to(E4M3)


def int8(shape: tuple[int, ...] = (192, 256)) -> torch.Tensor:
    return (WEIGHT[: shape[0], : shape[1]] * 127).round().to(torch.int8).contiguous()


def rows(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(0.25, 2, 192).reshape(192, 1).to(dtype)


def blocks() -> torch.Tensor:
    return torch.tensor([[0.5, 1.0], [2.0, 4.0]])


def spread(scale: torch.Tensor, n: int = 192, k: int = 256) -> torch.Tensor:
    return scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]


def int4() -> tuple[Tensors, torch.Tensor]:
    """Packed codes, low nibble first, and (q - 8) * s."""
    codes = torch.arange(192 * 256).reshape(192, 256) % 16
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8).view(torch.int8)
    scale = torch.linspace(0.5, 2, 2 * 192).reshape(2, 192).to(torch.bfloat16)
    value = (codes - 8) * scale.float().t().repeat_interleave(128, 1)
    stored = {f"{NAME}.weight": packed, f"{NAME}.weight_scale": scale}
    return stored | {f"{NAME}.weight_zeros": torch.zeros(2, 192, dtype=torch.bfloat16)}, value


def layer(weight: torch.Tensor, prefix: str = "", **beside: torch.Tensor) -> Tensors:
    """The tensors of one quantized layer with its bias, under any prefix."""
    found = {f"{NAME}.weight": weight, **BIAS}
    found |= {f"{NAME}.{leaf}": tensor for leaf, tensor in beside.items()}
    return {prefix + name: tensor for name, tensor in found.items()}


def core(weight: torch.Tensor, scale: torch.Tensor, **config: object) -> Tensors:
    return layer(weight, weight_scale=scale, comfy_quant=marker(**config))


TENSOR = torch.tensor(0.5)
ONES, ZEROS2 = torch.ones(()), torch.zeros(2).to(E4M3)
ROTATED = {"convrot": True, "convrot_groupsize": 256}
SIXTEEN = {"block.0.proj.weight": WEIGHT.to(torch.bfloat16), "norm.weight": torch.ones(8)}

# id: (tensors, dialect, scheme of the layer, its numbers; None where a rotation stands before them)
Fixture = tuple[Tensors, str, str, torch.Tensor | None]
READ: dict[str, Fixture] = {
    "bf16": (SIXTEEN, "plain", "none", WEIGHT.to(torch.bfloat16)),
    "fp16": ({f"{NAME}.weight": WEIGHT.half(), **BIAS}, "plain", "none", WEIGHT.half()),
    "ids": ({f"{NAME}.weight": WEIGHT, "position_ids": torch.arange(7)[None]}, "plain", "none", WEIGHT),
    "bare-e4m3": (layer(fp8()), "plain_fp8", "fp8", fp8()),
    "bare-e5m2": (layer(WEIGHT.to(E5M2)), "plain_fp8", "fp8_e5m2", WEIGHT.to(E5M2)),
    "core-fp8": (core(fp8(), TENSOR, format="float8_e4m3fn"), "core", "fp8", fp8().float() / 2),
    "core-e5m2": (
        core(WEIGHT.to(E5M2), TENSOR, format="float8_e5m2"),
        "core",
        "fp8_e5m2",
        WEIGHT.to(E5M2).float() / 2,
    ),
    "core-int8": (
        core(int8(), rows(), format="int8_tensorwise"), "core", "int8", int8() * rows()
    ),
    "core-int8-scalar": (
        core(int8(), TENSOR, format="int8_tensorwise"), "core", "int8", int8() * 0.5
    ),
    "core-weight-only": (
        core(int8(), rows(), format="int8_tensorwise", full_precision_matrix_mult=True),
        "core",
        "int8_weight_only",
        int8() * rows(),
    ),
    "core-convrot": (
        core(int8(), rows(), format="int8_tensorwise", **ROTATED), "core", "int8_convrot", None
    ),
    "core-convrot-nested": (
        core(int8(), rows(), format="int8_tensorwise", params=ROTATED), "core", "int8_convrot", None
    ),
    "core-rows": (
        core(fp8(), rows().flatten(), format="float8_e4m3fn_rowwise"),
        "core",
        "fp8_row",
        fp8().float() * rows(),
    ),
    "core-blocks": (
        core(fp8(), blocks(), format="float8_e4m3fn_blockwise", group_size=128),
        "core",
        "fp8_block128",
        fp8().float() * spread(blocks()),
    ),
    "core-int4": (
        int4()[0] | {f"{NAME}.comfy_quant": marker(format="awq_w4a16", group_size=128), **BIAS},
        "core",
        "int4_g128",
        int4()[1],
    ),
    "convert_to_quant-per-row": (
        core(int8(), rows(), format="int8_tensorwise", per_row=True),
        "core",
        "int8",
        int8() * rows(),
    ),
    "scaled_fp8": (
        layer(fp8(), scale_weight=TENSOR, scale_input=ONES) | {"scaled_fp8": torch.zeros(0).to(E4M3)},
        "scaled_fp8",
        "fp8",
        fp8().float() / 2,
    ),
    "scaled_fp8-nested": (
        layer(fp8(), "text_encoders.t5.", scale_weight=TENSOR)
        | {"text_encoders.t5.scaled_fp8": torch.zeros(0), "vae.weight": torch.ones(3)},
        "scaled_fp8",
        "fp8",
        fp8().float() / 2,
    ),
    "scaled_fp8-e5m2": (
        layer(WEIGHT.to(E5M2), scale_weight=TENSOR) | {"scaled_fp8": torch.zeros(2).to(E5M2)},
        "scaled_fp8",
        "fp8_e5m2",
        WEIGHT.to(E5M2).float() / 2,
    ),
    "lightx2v-comfy-fp8": (
        layer(fp8(), scale_weight=TENSOR.bfloat16()) | {"scaled_fp8": ZEROS2},
        "scaled_fp8",
        "fp8",
        fp8().float() / 2,
    ),
    "lightx2v-comfy-int8": (
        layer(int8(), scale_weight=TENSOR) | {"scaled_fp8": ZEROS2},
        "lightx2v_comfy",
        "int8",
        int8() * 0.5,
    ),
    "lightx2v-int8": (layer(int8(), weight_scale=rows()), "lightx2v", "int8", int8() * rows()),
    "lightx2v-fp8-bf16-scale": (
        layer(fp8(), weight_scale=rows(torch.bfloat16)),
        "lightx2v",
        "fp8_row",
        fp8().float() * rows(torch.bfloat16).float(),
    ),
    "lightx2v-per-tensor": (
        layer(fp8(), weight_scale=TENSOR.reshape(1), input_scale=ONES),
        "lightx2v",
        "fp8",
        fp8().float() / 2,
    ),
    "blocks": (
        layer(fp8(), weight_scale=blocks()),
        "fp8_block128",
        "fp8_block128",
        fp8().float() * spread(blocks()),
    ),
    "deepseek": (
        layer(fp8(), weight_scale_inv=blocks()),
        "fp8_block128",
        "fp8_block128",
        fp8().float() * spread(blocks()),
    ),
    "comfy-quants-cli": (
        core(int8(), rows(), convrot=False, convrot_groupsize=256, per_row=True),
        "int8_unnamed",
        "int8",
        int8() * rows(),
    ),
    "comfy-quants-cli-rotated": (
        core(int8(), rows(), per_row=True, **ROTATED), "int8_unnamed", "int8_convrot", None
    ),
    "int8-fast-older": (
        core(int8(), TENSOR, convrot=False, per_row=False), "int8_unnamed", "int8", int8() * 0.5
    ),
    "int8-fast-saved": (
        layer(int8(), "model.diffusion_model.", weight_scale=rows()),
        "int8_saved",
        "int8",
        int8() * rows(),
    ),
}  # fmt: skip


def u8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def i32(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


# id: (tensors, metadata, dialect, kind of the refusal)
REFUSED: dict[str, tuple[Tensors, dict[str, str], str, str]] = {
    **{
        name: (
            core(u8(192, 128), u8(192, 16), format=name), {}, "core_unread",
            f"format-{name.replace('_', '-')}",
        )
        for name in (
            "nvfp4", "mxfp8", "convrot_w4a4", "asym_w4a8_int8", "int8_blockwise", "hybrid_mxfp8",
            "svdquant_w4a4", "never_heard_of",
        )
    },
    "awq-64": (
        int4()[0] | {f"{NAME}.comfy_quant": marker(format="awq_w4a16", group_size=64)},
        {}, "core", "block-size",
    ),
    "fp8-blocks-of-64": (
        core(fp8(), torch.ones(3, 4), format="float8_e4m3fn_blockwise", group_size=64),
        {}, "core", "block-size",
    ),
    "int8-without-scales": (layer(int8()), {}, "int8_bare", "int8-without-scale"),
    "lightx2v-nvfp4": (
        layer(u8(192, 128), weight_scale=torch.ones(256, 16).to(E4M3), weight_global_scale=TENSOR),
        {}, "microscaled", "format-microscaled",
    ),
    "quanto": (
        {f"{NAME}.weight._data": int8(), f"{NAME}.weight._scale": rows(), **BIAS},
        {}, "quanto", "format-quanto",
    ),
    "torchao": (
        {f"{NAME}._weight_qdata": int8(), f"{NAME}._weight_scale": rows(), **BIAS},
        {}, "torchao", "format-torchao",
    ),
    "torchao-fp8": (
        {f"{NAME}._weight_qdata": fp8(), f"{NAME}._weight_scale": rows(), **BIAS},
        {}, "torchao", "format-torchao",
    ),
    "bitsandbytes-int8": (
        layer(int8(), SCB=rows().flatten(), weight_format=torch.tensor(0, dtype=torch.uint8)),
        {}, "bitsandbytes", "format-bitsandbytes",
    ),
    "bitsandbytes-nf4": (
        {
            f"{NAME}.weight": u8(24576, 1),
            f"{NAME}.weight.absmax": torch.ones(768),
            f"{NAME}.weight.quant_map": torch.ones(16),
            f"{NAME}.weight.quant_state.bitsandbytes__nf4": u8(80),
        },
        {}, "bitsandbytes", "format-bitsandbytes",
    ),
    "marlin": (
        layer(i32(16, 384), weight_scale=torch.ones(2, 192).half()), {}, "marlin", "format-marlin"
    ),
    "marlin-workspace": (
        layer(i32(16, 384), weight_workspace=i32(24)), {}, "marlin", "format-marlin"
    ),
    "gptq": (
        {f"{NAME}.qweight": i32(32, 192), f"{NAME}.qzeros": i32(2, 24), f"{NAME}.g_idx": i32(256)},
        {}, "gptq", "format-gptq",
    ),
    "nunchaku": (
        {f"{NAME}.qweight": int8(), f"{NAME}.wscales": rows(), f"{NAME}.lora_down": WEIGHT},
        {}, "nunchaku", "format-nunchaku",
    ),
    "compressed-tensors": (
        {f"{NAME}.weight_packed": i32(192, 32), f"{NAME}.weight_scale": rows()},
        {}, "compressed_tensors", "format-compressed-tensors",
    ),
    "gguf-inside": (
        {f"{NAME}.weight": u8(192, 144)}, {"source": "model-Q4_K.gguf"},
        "gguf_tensors", "format-gguf-tensors",
    ),
    "lora": (
        {f"{NAME}.lora_down.weight": WEIGHT[:4].clone(), f"{NAME}.lora_up.weight": WEIGHT[:, :4].clone()},
        {}, "lora", "format-lora",
    ),
    "lora-peft": (
        {f"{NAME}.lora_A.weight": WEIGHT[:4].clone(), f"{NAME}.lora_B.weight": WEIGHT[:, :4].clone()},
        {}, "lora", "format-lora",
    ),
}  # fmt: skip

CLAIMS = {name: (row[0], {}, row[1]) for name, row in READ.items()} | {
    name: row[:3] for name, row in REFUSED.items()
}
Open = Callable[..., object]


@pytest.fixture
def opened(tmp_path):
    """Save tensors and open the file; closed at the end."""
    found = []

    def make(tensors: Tensors, metadata: dict[str, str] | None = None):
        path = tmp_path / f"model-{len(found)}.safetensors"
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(own, path, metadata)
        found.append(open_source(path))
        return found[-1]

    yield make
    for source in found:
        source.close()


def the_layer(contents) -> Layer:
    return next(x for x in contents.layers if x.key.endswith(f"{NAME}.weight"))


def numbers(source, found: Layer) -> torch.Tensor:
    """What the scheme makes of the layer's stored tensors."""
    part = found.parts[0]
    tensors = {role: source.tensor(name) for role, name in part.tensors.items()}
    scheme = discover("fusequant.engine.schemes", "SCHEME")[part.scheme]
    return scheme.dequantize(tensors, part.settings)


@pytest.mark.parametrize("name", CLAIMS)
def test_exactly_one_format_claims_a_file(name, opened):
    tensors, metadata, dialect = CLAIMS[name]
    source = opened(tensors, metadata)
    assert [form.name for form in formats().values() if form.detect(source)] == [dialect]


@pytest.mark.parametrize("name", READ)
def test_layers_and_numbers(name, opened):
    tensors, dialect, scheme, expected = READ[name]
    source = opened(tensors)
    contents = read(source)
    assert contents.format == dialect
    found = the_layer(contents)
    assert (found.scheme, found.shape) == (scheme, (192, 256))
    assert found.key in tensors
    if scheme != "none":
        assert found.dtype in ("BF16", "F32")
    if expected is not None:
        torch.testing.assert_close(numbers(source, found), expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", READ)
def test_every_tensor_is_a_part_or_ignored(name, opened):
    tensors = READ[name][0]
    contents = read(opened(tensors))
    used = [x for y in contents.layers for part in y.parts for x in part.tensors.values()]
    assert sorted([*used, *contents.ignored]) == sorted(tensors)
    assert len({x.key for x in contents.layers}) == len(contents.layers)


@pytest.mark.parametrize("name", REFUSED)
def test_other_dialects_are_refused_by_name(name, opened):
    tensors, metadata, _, kind = REFUSED[name]
    with pytest.raises(Refused) as refusal:
        read(opened(tensors, metadata))
    assert refusal.value.kind == kind
    assert refusal.value.found and refusal.value.expected and refusal.value.fix


def test_a_lora_is_told_where_it_belongs(opened):
    with pytest.raises(Refused, match="pass it with --lora"):
        read(opened(REFUSED["lora"][0]))


def test_header_metadata_marks_layers_too(opened):
    layers = {NAME: {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    source = opened(layer(fp8(), weight_scale=TENSOR), {"_quantization_metadata": text})
    contents = read(source)
    assert (contents.format, contents.problems) == ("core", ())
    part = the_layer(contents).parts[0]
    assert (part.scheme, part.settings) == ("fp8", {"full_precision_matrix_mult": True})


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', "[" * 100000])
def test_damaged_header_metadata_is_refused(text, opened):
    source = opened(layer(fp8(), weight_scale=TENSOR), {"_quantization_metadata": text})
    with pytest.raises(Refused) as refusal:
        read(source)
    assert refusal.value.kind == "marker-not-json"


def test_two_marker_elements_ask_for_full_precision(opened):
    settings = [
        the_layer(read(opened(layer(fp8(), scale_weight=TENSOR) | {"scaled_fp8": mark}))).parts[0]
        for mark in (ZEROS2, torch.zeros(0).to(E4M3), torch.zeros(1))
    ]
    assert [bool(part.settings) for part in settings] == [True, False, False]


def test_input_scale_is_a_role(opened):
    contents = read(opened(READ["scaled_fp8"][0]))
    assert the_layer(contents).parts[0].tensors["input_scale"] == f"{NAME}.scale_input"


def test_one_file_may_mix_schemes(opened):
    other = {name.replace("0", "1"): x for name, x in READ["core-int8"][0].items()}
    contents = read(opened(READ["core-fp8"][0] | other))
    schemes = {x.key: x.scheme for x in contents.layers if x.scheme != "none"}
    assert schemes == {"block.0.proj.weight": "fp8", "block.1.proj.weight": "int8"}


def test_bare_float8_biases_and_norms_are_layers(opened):
    source = opened(layer(fp8()) | {"norm.weight": torch.tensor([1.0, 2.0]).to(E4M3)})
    norm = next(x for x in read(source).layers if x.key == "norm.weight")
    assert (norm.scheme, norm.shape) == ("fp8", (2,))


def test_nothing_and_the_unknown_are_refused_by_name(opened):
    for tensors, kind in (({}, "empty-checkpoint"), ({"x.weight": i32(4, 4)}, "format-unknown")):
        with pytest.raises(Refused) as refusal:
            read(opened(tensors))
        assert refusal.value.kind == kind


def test_reading_needs_no_torch(tmp_path):
    paths = []
    for name, row in READ.items():
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file({key: x.clone().contiguous() for key, x in row[0].items()}, paths[-1])
    code = (
        "import sys\n"
        "from fusequant.engine.files.open import open_source\n"
        "from fusequant.engine.read import read\n"
        "print([read(open_source(path)).format for path in sys.argv[1:]])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
