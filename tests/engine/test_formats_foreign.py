"""Dialects that are recognised and not read: each is claimed once and refused by its own name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.read import formats, read

from .tool_dialects import TOOLS, torchao_header

E4M3 = torch.float8_e4m3fn
Tensors = dict[str, torch.Tensor]
NAME = "block.0.proj"
WEIGHT = torch.ones(192, 256)
INT8, FP8 = WEIGHT.to(torch.int8), WEIGHT.to(E4M3)
ROWS, TENSOR = torch.ones(192, 1), torch.tensor(0.5)
DOWN, UP = WEIGHT[:4], WEIGHT[:, :4]
BIAS = {f"{NAME}.bias": torch.ones(192)}


def layer(weight: torch.Tensor, **beside: torch.Tensor) -> Tensors:
    """One layer with its bias."""
    found = {f"{NAME}.{leaf}": tensor for leaf, tensor in beside.items()}
    return {f"{NAME}.weight": weight, **BIAS, **found}


def core(weight: torch.Tensor, scale: torch.Tensor, **config: object) -> Tensors:
    data = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    return layer(weight, weight_scale=scale, comfy_quant=data)


def u8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def i32(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def packed(qweight: torch.Tensor, qzeros: torch.Tensor) -> Tensors:
    """One layer as GPTQ and AutoAWQ name its tensors."""
    found = {"qweight": qweight, "qzeros": qzeros, "scales": torch.ones(2, 192).half()}
    return {f"{NAME}.{leaf}": tensor for leaf, tensor in found.items()}


SHAPE = torch.tensor([192, 256])
# id: (tensors, metadata, dialect, kind of the refusal)
REFUSED: dict[str, tuple[Tensors, dict[str, str], str, str]] = {
    **{
        name: (
            core(u8(192, 128), u8(192, 16), format=name), {}, "core_unread",
            f"format-{name.replace('_', '-')}",
        )
        for name in (
            "never_heard_of",
        )
    },
    "fp8-blocks-of-64": (
        core(FP8, torch.ones(3, 4), format="float8_e4m3fn_blockwise", group_size=64),
        {}, "core", "block-size",
    ),
    "int8-without-scales": (layer(INT8), {}, "int8_bare", "int8-without-scale"),
    "modelopt-nvfp4": (
        layer(u8(192, 128), weight_scale=torch.ones(192, 16).to(E4M3), weight_scale_2=TENSOR),
        {}, "microscaled", "format-microscaled",
    ),
    "torchao": (
        {f"{NAME}._weight_qdata": INT8, f"{NAME}._weight_scale": ROWS, **BIAS},
        {}, "torchao", "format-torchao",
    ),
    "torchao-earlier": (
        {f"{NAME}.weight:qdata": INT8, f"{NAME}.weight:scale": ROWS, **BIAS},
        {}, "torchao", "format-torchao-earlier",
    ),
    "torchao-unlisted": (
        {f"{NAME}._weight_qdata": INT8, f"{NAME}._weight_scale": ROWS, **BIAS},
        {"tensor_names": "[]"}, "torchao", "state-unread",
    ),
    **{
        f"torchao-header-{at}": (
            {f"{NAME}._weight_qdata": INT8, f"{NAME}._weight_scale": ROWS, **BIAS},
            {"tensor_names": json.dumps([f"{NAME}.weight"]), f"{NAME}.weight": text},
            "torchao", kind,
        )
        for at, (text, kind) in enumerate((
            ("[]", "format-torchao"), ('{"_data": {}}', "format-torchao"),
            ('{"_type": ["a"], "_data": {}}', "format-torchao-unknown"),
            ('{"_type": "Int8Tensor", "_data": [1]}', "format-torchao"),
            ("[" * 100_000, "format-torchao"),
        ))
    },
    "torchao-damaged-header": (
        {f"{NAME}._weight_qdata": INT8, f"{NAME}._weight_scale": ROWS, **BIAS},
        {"tensor_names": json.dumps([f"{NAME}.weight"]), f"{NAME}.weight": "{"},
        "torchao", "format-torchao",
    ),
    **{
        f"torchao-{kind}": (
            {f"{NAME}._weight_qdata": i32(192, 32), f"{NAME}._weight_scale": ROWS, **BIAS},
            torchao_header(f"{kind}Tensor", ("qdata", "scale")), "torchao",
            f"format-torchao-{kind.lower()}",
        )
        for kind in ("Int4TilePackedTo4d", "Int4PlainInt32", "MX", "NVFP4", "Never")
    },
    **{
        f"bitsandbytes-{order}": (
            layer(INT8, SCB=ROWS.flatten(), weight_format=torch.tensor(at, dtype=torch.uint8)),
            {}, "bitsandbytes", f"format-bitsandbytes-{order}",
        )
        for at, order in ((1, "col32"), (2, "col-turing"), (3, "col-ampere"), (9, "unknown"))
    },
    "marlin-workspace": (
        layer(i32(16, 384), weight_workspace=i32(24)), {}, "marlin", "codes-without-scale"
    ),
    "gptq-act-order": (
        packed(i32(32, 192), i32(2, 24)) | {f"{NAME}.g_idx": i32(256)},
        {}, "gptq", "format-gptq-act-order",
    ),
    "gptq-3": (packed(i32(24, 192), i32(2, 18)), {}, "gptq", "format-gptq-3-bit"),
    "awq": (packed(i32(256, 24), i32(2, 24)), {}, "gptq", "format-awq"),
    "compressed-tensors-act-order": (
        {
            f"{NAME}.weight_packed": i32(192, 32), f"{NAME}.weight_scale": ROWS,
            f"{NAME}.weight_shape": SHAPE, f"{NAME}.weight_g_idx": i32(256),
        },
        {}, "compressed_tensors", "format-compressed-tensors-act-order",
    ),
    "compressed-tensors-fp4": (
        {f"{NAME}.weight_packed": u8(192, 128), f"{NAME}.weight_scale": FP8[:, :16]},
        {}, "compressed_tensors", "format-compressed-tensors-fp4",
    ),
    "nunchaku": (
        {f"{NAME}.qweight": INT8, f"{NAME}.wscales": ROWS, f"{NAME}.lora_down": WEIGHT},
        {}, "nunchaku", "format-nunchaku",
    ),
    "gguf-inside": (
        {f"{NAME}.weight": u8(192, 144)}, {"source": "model-Q4_K.gguf"},
        "gguf_tensors", "format-gguf-tensors",
    ),
    "lora": (
        {f"{NAME}.lora_down.weight": DOWN, f"{NAME}.lora_up.weight": UP},
        {}, "lora", "format-lora",
    ),
    "lora-peft": (
        {f"{NAME}.lora_A.weight": DOWN, f"{NAME}.lora_B.weight": UP},
        {}, "lora", "format-lora",
    ),
}  # fmt: skip


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


@pytest.mark.parametrize("name", REFUSED)
def test_exactly_one_format_claims_a_file(name, opened):
    tensors, metadata, dialect, _ = REFUSED[name]
    source = opened(tensors, metadata)
    assert [form.name for form in formats().values() if form.detect(source)] == [dialect]


@pytest.mark.parametrize("name", REFUSED)
def test_a_dialect_is_refused_by_its_name(name, opened):
    tensors, metadata, _, kind = REFUSED[name]
    with pytest.raises(Refused) as refusal:
        read(opened(tensors, metadata))
    assert refusal.value.kind == kind
    assert refusal.value.found and refusal.value.expected and refusal.value.fix


def test_a_lora_is_told_where_it_belongs(opened):
    with pytest.raises(Refused, match="pass it with --lora"):
        read(opened(REFUSED["lora"][0]))


def test_nothing_and_the_unknown_are_refused_by_name(opened):
    for tensors, kind in (({}, "empty-checkpoint"), ({"x.weight": i32(4, 4)}, "format-unknown")):
        with pytest.raises(Refused) as refusal:
            read(opened(tensors))
        assert refusal.value.kind == kind


def test_two_dialects_in_one_file_are_refused(opened):
    other = {f"b.{name}": x for name, x in TOOLS["quanto-qint8"].tensors.items()}
    tensors = TOOLS["gptq"].tensors | other
    with pytest.raises(Refused) as refusal:
        read(opened(tensors))
    assert refusal.value.kind == "format-ambiguous"
