"""What the tools' own code writes, and what it makes of that, against what is read here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.files.open import open_source
from fusequant.engine.read import read
from fusequant.engine.rows import rows_of

from .coded_tools import CODED

Tensors = dict[str, torch.Tensor]
WEIGHT = torch.randn(192, 256, generator=torch.Generator().manual_seed(0))


def numbers(
    tensors: Tensors, folder: Path, metadata: dict[str, str] | None = None
) -> dict[str, torch.Tensor]:
    """Every quantized layer of a file with these tensors."""
    path = folder / "model.safetensors"
    own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, metadata)
    source = open_source(path)
    contents = read(source)
    assert contents.problems == ()
    found = {
        layer.key: rows_of(layer, source)(0, layer.shape[0])
        for layer in contents.layers
        if layer.scheme != "none"
    }
    source.close()
    return found


# --- bytes that the tools' own packers made of the codes of the fixtures, recorded -------------

# (codec entry, role): SHA-256 of what pack() of IST-DASLab/marlin, pack() of AutoGPTQ's
# QuantLinear, pack_to_int32 of compressed-tensors, pack_weights of optimum-quanto and pack_int4 of
# MSLK (for torchao) return, run on the same codes and scales
RECORDED = {
    ("marlin_int4", "weight"): "d3bd1b877028c79d",
    ("marlin_int4", "scale"): "d92200e5f1612216",
    ("marlin_int4:one", "weight"): "d3bd1b877028c79d",
    ("marlin_int4:one", "scale"): "bea81064bb6163b3",
    ("gptq", "weight"): "de81a5e4ebb4d942",
    ("gptq", "zeros"): "231d57415b7a58a8",
    ("gptq:less-one", "zeros"): "9ef0ca8daf2e3154",
    ("gptq:2", "weight"): "5818bc5f985e5f9d",
    ("gptq:2", "zeros"): "5297d3ac7566ef1b",
    ("gptq:8", "weight"): "e7b797f1deb8443c",
    ("gptq:8", "zeros"): "c24e73f000a4255a",
    ("packed_int32", "weight"): "0896ae84a94a2f3b",
    ("packed_int32:zeros", "zeros"): "cc1ada9e1d2d01f7",
    ("packed_int32:8", "weight"): "ad06bc454a07cdbb",
    ("quanto_bits", "weight"): "0d8aa89293f8dca5",
    ("quanto_bits:2", "weight"): "8b2ce37cb5346a25",
    ("quanto_bits:odd", "weight"): "855483bbc027585b",
    ("torchao_int4", "weight"): "59ec53d821da6f05",
}


@pytest.mark.parametrize(("entry", "role"), RECORDED)
def test_the_fixtures_are_packed_as_the_tool_packs(entry: str, role: str) -> None:
    data = CODED[entry][0][role].contiguous().numpy().tobytes()
    assert hashlib.sha256(data).hexdigest()[:16] == RECORDED[entry, role]


# --- optimum-quanto ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quanto() -> Iterator[ModuleType]:
    """optimum-quanto; its codes are unpacked here, as on a CPU it would compile an extension."""
    found = pytest.importorskip("optimum.quanto")
    from optimum.quanto.tensor.packed import PackedTensor

    def unpack(self: PackedTensor) -> torch.Tensor:
        mask = (1 << self._bits) - 1
        blocks = [(self._data >> at) & mask for at in range(0, 8, self._bits)]
        return torch.cat(blocks)[: self.shape[0]]

    before, PackedTensor.unpack = PackedTensor.unpack, unpack
    yield found
    PackedTensor.unpack = before


@pytest.mark.parametrize(
    "name", ["qint8", "qint4", "qint2", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"]
)
def test_quanto(name: str, quanto: ModuleType, tmp_path: Path) -> None:
    """In float32 to the bit; three layers: groups of 128, of 96 and whole rows, odd sizes."""
    torch.manual_seed(0)
    sizes = ((256, 192), (192, 96), (96, 33))
    model = torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes))
    quanto.quantize(model, weights=getattr(quanto, name))
    quanto.freeze(model)
    found = numbers(model.state_dict(), tmp_path)
    assert len(found) == 3
    for at in range(3):
        assert torch.equal(found[f"{at}.weight"], model[at].weight.dequantize().detach())


@pytest.mark.parametrize("name", ["qint8", "qfloat8_e4m3fn"])
def test_quanto_in_bfloat16_rounds_once_more(name: str, quanto: ModuleType, tmp_path: Path) -> None:
    """The tool multiplies in bfloat16: its numbers are ours, rounded."""
    model = torch.nn.Sequential(torch.nn.Linear(256, 192)).bfloat16()
    quanto.quantize(model, weights=getattr(quanto, name))
    quanto.freeze(model)
    found = numbers(model.state_dict(), tmp_path)["0.weight"]
    assert torch.equal(found.bfloat16(), model[0].weight.dequantize().detach())


def test_quanto_with_calibrated_activations_is_told(quanto: ModuleType, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(256, 192))
    quanto.quantize(model, weights=quanto.qint8, activations=quanto.qint8)
    with quanto.Calibration():
        model(torch.randn(4, 256))
    quanto.freeze(model)
    path = tmp_path / "model.safetensors"
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, path)
    source = open_source(path)
    assert {x.kind for x in read(source).problems} == {"activation-scales-unread"}
    source.close()


# --- torchao -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchao() -> ModuleType:
    return pytest.importorskip("torchao.quantization")


def torchao_weights(ao: ModuleType) -> dict[str, torch.Tensor]:
    """Weights of every type that torchao quantizes on a CPU."""
    from torchao.quantization.granularity import PerBlock, PerGroup, PerRow, PerTensor
    from torchao.quantization.quant_primitives import MappingType

    weight, kinds = WEIGHT.bfloat16(), (MappingType.SYMMETRIC, MappingType.ASYMMETRIC)
    square = torch.randn(256, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    return {
        **{
            f"int8 {spread} {kind.name}": ao.Int8Tensor.from_hp(weight, spread, mapping_type=kind)
            for spread in (PerRow(), PerTensor(), PerGroup(128))
            for kind in kinds
        },
        **{
            f"float8 {dtype} {spread}": ao.Float8Tensor.from_hp(weight, dtype, spread)
            for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
            for spread in (PerRow(), PerTensor(), PerBlock([64, 128]), PerBlock([1, 128]))
        },
        "float8 tiles": ao.Float8Tensor.from_hp(square, granularity=PerBlock([128, 128])),
        **{
            f"intx {bits} {group} {kind.name}": ao.IntxUnpackedToInt8Tensor.from_hp(
                weight, (1, group), getattr(torch, f"int{bits}"), mapping_type=kind
            )
            for bits in (2, 4, 8)
            for group in (32, 128, 256)
            for kind in kinds
        },
    }


def test_torchao(torchao: ModuleType, tmp_path: Path) -> None:
    """Each weight to the bit, in the dtype that the tool returns."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    weights = torchao_weights(torchao)
    state = {f"{at}.weight": weight for at, weight in enumerate(weights.values())}
    tensors, metadata = flatten_tensor_state_dict(state | {"0.bias": torch.zeros(192)})
    found = numbers(tensors, tmp_path, metadata)
    assert found.keys() == state.keys()
    for name, weight, key in zip(weights, state.values(), state, strict=True):
        wanted = weight.dequantize()
        assert torch.equal(found[key].to(wanted.dtype), wanted), name


def test_torchao_factors_of_the_inputs_are_part_of_the_weight(
    torchao: ModuleType, tmp_path: Path
) -> None:
    """The tool multiplies the activations by them, and so does a product with our weight."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization.granularity import PerRow

    factor = torch.linspace(0.5, 2, 256)
    weight = torchao.Int8Tensor.from_hp(WEIGHT, PerRow(), act_pre_scale=factor)
    tensors, metadata = flatten_tensor_state_dict({"a.weight": weight})
    found = numbers(tensors, tmp_path, metadata)["a.weight"]
    eye = torch.eye(256)
    torch.testing.assert_close(eye @ found.t(), torch.nn.functional.linear(eye, weight))


# --- bitsandbytes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bitsandbytes() -> ModuleType:
    return pytest.importorskip("bitsandbytes.functional")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bitsandbytes_four_bits(
    dtype: torch.dtype, kind: str, nested: bool, bitsandbytes: ModuleType, tmp_path: Path
) -> None:
    """To the bit, in the state's dtype and in float32; sizes that blocks do not divide too."""
    for shape in ((192, 256), (33, 100), (7, 9)):
        weight = WEIGHT[: shape[0], : shape[1]].contiguous().to(dtype)
        packed, state = bitsandbytes.quantize_4bit(
            weight, blocksize=64, quant_type=kind, compress_statistics=nested
        )
        beside = {f"a.weight.{name}": x for name, x in state.as_dict(packed=True).items()}
        found = numbers({"a.weight": packed} | beside, tmp_path)["a.weight"]
        assert torch.equal(found.to(dtype), bitsandbytes.dequantize_4bit(packed, state))
        state.dtype = torch.float32
        assert torch.equal(found, bitsandbytes.dequantize_4bit(packed, state))


def test_bitsandbytes_int8(bitsandbytes: ModuleType, tmp_path: Path) -> None:
    codes, largest, _ = bitsandbytes.int8_vectorwise_quant(WEIGHT.half())
    tensors = {"a.weight": codes, "a.SCB": largest}
    tensors["a.weight_format"] = torch.tensor(0, dtype=torch.uint8)
    wanted = bitsandbytes.int8_vectorwise_dequant(codes, largest)
    torch.testing.assert_close(numbers(tensors, tmp_path)["a.weight"], wanted, rtol=1e-6, atol=0)
