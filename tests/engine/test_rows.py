"""Layers put together from stored weights: their numbers, and the pieces of a scheme, by rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from fusequant.engine.layer import Layer, Part
from fusequant.engine.rows import all_schemes, restated_rows, rows_of
from fusequant.engine.stored import all_codecs, held_by, home_of
from fusequant.engine.tensors import TensorSpec, dtype_name

from .coded import CODED

N, K = 192, 256
HELD = [
    name
    for name, (_, settings, _) in CODED.items()
    if all_codecs()[name.split(":")[0]].home(settings)
]
SCHEMES = ["int8", "int8_weight_only", "fp8_row", "fp8_block128", "int4_g128", "fp8"]


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


def pieces_by_rows(layer: Layer, source: Memory, step: int) -> torch.Tensor:
    """The numbers of the home scheme's pieces, read in runs that part edges lie inside of."""
    home = held_by(layer)
    scheme, read = all_schemes()[home], restated_rows(layer, source, home)
    config = scheme.config(*layer.shape)
    n = layer.shape[0]
    runs = [(start, min(n, start + step)) for start in range(0, n, step)]
    return torch.cat([scheme.dequantize(read(*run), config) for run in runs])


@pytest.mark.parametrize("name", HELD)
def test_parts_of_a_codec_are_rows_of_one_layer(name: str) -> None:
    """The lower half first, then a whole one: as a swapped and a joined layer have them."""
    tensors, settings, numbers = CODED[name]
    source = Memory(tensors)
    part = Part(name.split(":")[0], {role: role for role in tensors}, settings, view=(N, K))
    rows = ((100, N), (0, 100), (0, N))
    parts = tuple(Part(part.scheme, part.tensors, settings, cut, (N, K)) for cut in rows)
    layer = Layer("x.weight", (2 * N, K), "F16", parts)
    wanted = torch.cat([numbers[slice(*cut)] for cut in rows]).float()
    read = rows_of(layer, source)
    torch.testing.assert_close(read(0, 2 * N), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(read(50, 333), wanted[50:333], rtol=1e-6, atol=0)
    if all_schemes()[home_of(part)].row_step > 1:  # cut inside a tile of its scales
        assert held_by(layer) == "none"
        return
    torch.testing.assert_close(pieces_by_rows(layer, source, 77), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SCHEMES)
def test_parts_of_a_scheme_are_rows_of_one_layer(name: str) -> None:
    scheme, tensors, parts, wanted = all_schemes()[name], {}, [], []
    for at, (low, high) in enumerate(((128, 256), (0, 128), (0, 256))):
        weight = torch.randn(256, K, generator=torch.Generator().manual_seed(at)) * (at + 1)
        pieces = scheme.quantize(weight)
        tensors |= {f"{at}.{role}": tensor for role, tensor in pieces.items()}
        parts.append(Part(name, {role: f"{at}.{role}" for role in pieces}, {}, (low, high)))
        wanted.append(scheme.dequantize(pieces, scheme.config(256, K))[low:high])
    layer, source = Layer("x.weight", (512, K), "BF16", tuple(parts)), Memory(tensors)
    assert torch.equal(rows_of(layer, source)(0, 512), torch.cat(wanted))
    assert torch.equal(pieces_by_rows(layer, source, 256), torch.cat(wanted))


def test_bare_codes_have_a_scale_of_one() -> None:
    codes = torch.randn(N, K).to(torch.float8_e4m3fn)
    source = Memory({"w": codes})
    halves = tuple(Part("fp8", {"weight": "w"}, {}, rows) for rows in ((96, N), (0, 96)))
    layer = Layer("x.weight", (N, K), "BF16", halves)
    assert held_by(layer) == "fp8"
    pieces = restated_rows(layer, source, "fp8")(0, N)
    assert pieces["scale"].shape == () and float(pieces["scale"]) == 1
    wanted = torch.cat((codes[96:], codes[:96])).float()
    assert torch.equal(all_schemes()["fp8"].dequantize(pieces, {}), wanted)
