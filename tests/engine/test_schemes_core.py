"""ComfyUI's own schemes against comfy-kitchen: the bytes and names of its layouts, its numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fusequant.engine.rows import all_schemes
from fusequant.engine.tensors import torch_dtype
from fusequant.kernels import ops
from fusequant.kernels.registry import use_backend

tensor = pytest.importorskip("comfy_kitchen.tensor", reason="comfy-kitchen is not installed")

LAYOUTS = {
    "mxfp8": "TensorCoreMXFP8Layout",
    "nvfp4": "TensorCoreNVFP4Layout",
    "w4a4_convrot": "TensorCoreConvRotW4A4Layout",
    "w4a8": "AsymW4A8Int8Layout",
}
# whole tiles, several tiles, odd rows, sides that nothing divides, one row, rows of a large run
SHAPES = ((128, 256), (300, 512), (37, 768), (130, 200), (5, 100), (1, 256), (260, 3072))
BACKENDS = (None, "reference", "kitchen")
Weight = torch.Tensor
every = pytest.mark.parametrize("name", LAYOUTS)


def normal(shape: tuple[int, int]) -> Weight:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 0.03


def outliers(shape: tuple[int, int]) -> Weight:
    """Loud rows and columns, rows of zeros, blocks of zeros."""
    made = normal(shape)
    made[::7] *= 20
    made[:, ::50] *= 30
    made[shape[0] // 2] = 0.0
    made[:, :40] = 0.0
    made[0, 60] = 1.0
    return made


def heavy(shape: tuple[int, int]) -> Weight:
    """So loud in some inputs that w4a8 fits levels of its own."""
    made = normal(shape)
    made[:, : shape[1] // 2] *= 1e-9
    return made


# comfy-kitchen takes its time for levels of its own
KINDS = ((normal, SHAPES), (outliers, SHAPES[1:4]), (heavy, ((136, 256),)))
kinds = pytest.mark.parametrize(("make", "shapes"), KINDS, ids=("normal", "outliers", "heavy"))


def raw(found: torch.Tensor) -> torch.Tensor:
    return found.detach().contiguous().reshape(-1).view(torch.uint8)


def by_kitchen(name: str, weight: Weight) -> tuple[dict[str, torch.Tensor], Any, Any]:
    """({suffix: tensor} of the layout's state dict, codes, params)."""
    layout = getattr(tensor, LAYOUTS[name])
    settings = all_schemes()[name].config(*weight.shape)
    more = {key: value for key, value in settings.items() if key != "orig_shape"}
    codes, params = layout.quantize(weight, **more)
    return layout.state_dict_tensors(codes, params), codes, params


def takes(name: str, shape: tuple[int, int]) -> bool:
    return all_schemes()[name].refuses(*shape) is None


@every
@kinds
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bytes_and_names_are_those_of_the_layout(
    name: str, make: Any, shapes: tuple[tuple[int, int], ...], backend: Any
) -> None:
    scheme = all_schemes()[name]
    for shape in shapes if backend is None else shapes[:2]:
        if not takes(name, shape):
            continue
        weight = make(shape)
        wanted, codes, params = by_kitchen(name, weight)
        with use_backend(backend):
            stored = scheme.quantize(weight)
            values = scheme.dequantize(stored, scheme.config(*shape))
        pieces = scheme.pieces(*shape, "F32")
        assert {piece.suffix: role for role, piece in pieces.items()}.keys() == {
            f".weight{suffix}" for suffix in wanted
        }
        for role, piece in pieces.items():
            theirs = wanted[piece.suffix.removeprefix(".weight")]
            assert tuple(theirs.shape) == tuple(stored[role].shape) == piece.shape, (shape, role)
            assert torch.equal(raw(stored[role]), raw(theirs)), (shape, role)
            assert torch_dtype(piece.dtype).itemsize == theirs.dtype.itemsize
        layout = getattr(tensor, LAYOUTS[name])
        read = layout.dequantize(codes, params)[: shape[0], : shape[1]]
        assert torch.equal(values, read), shape


@every
@kinds
@pytest.mark.parametrize("step", (1, 2))
def test_runs_of_rows_give_the_bytes_of_the_whole(
    name: str, make: Any, shapes: tuple[tuple[int, int], ...], step: int
) -> None:
    scheme = all_schemes()[name]
    for shape in shapes:
        if not takes(name, shape):
            continue
        weight, (n, k) = make(shape), shape
        rows = step * scheme.row_step
        ends = [*range(rows, n - scheme.row_step + 1, rows), n]
        spans = list(zip([0, *ends], ends, strict=False))
        known = None
        if scheme.survey is not None:
            known = scheme.survey.run(lambda a, b, w=weight: w[a:b], n, k, spans)
        runs = [scheme.quantize(weight[a:b], known) for a, b in spans]
        for role, whole in scheme.quantize(weight).items():
            axis = scheme.row_axis.get(role)
            got = runs[0][role] if axis is None else torch.cat([run[role] for run in runs], axis)
            assert torch.equal(raw(got), raw(whole)), (shape, role)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@every
def test_sixteen_bits_are_taken_as_float32(name: str, dtype: torch.dtype) -> None:
    """comfy-kitchen itself would round scales and rotations to the weight's dtype."""
    weight = normal((128, 256)).to(dtype)
    wanted, _, _ = by_kitchen(name, weight.float())
    scheme = all_schemes()[name]
    stored = scheme.quantize(weight)
    for role, piece in scheme.pieces(128, 256, "BF16").items():
        assert torch.equal(raw(stored[role]), raw(wanted[piece.suffix.removeprefix(".weight")]))


def test_a_weight_of_zeros_has_finite_scales_where_comfy_kitchen_has_nan() -> None:
    codes, params = tensor.TensorCoreNVFP4Layout.quantize(torch.zeros(16, 64))
    assert params.block_scale.float().isnan().any() and codes.any()
    stored = all_schemes()["nvfp4"].quantize(torch.zeros(16, 64))
    assert not stored["weight"].any() and not stored["scale"].any()
    assert stored["scale_2"].item() == 1.0


def test_the_levels_of_a_large_weight_come_from_some_of_its_rows() -> None:
    """4200 rows of 1024: 4096 of them decide."""
    weight, scheme = heavy((4200, 1024)), all_schemes()["w4a8"]
    spans = [(start, min(4200, start + 512)) for start in range(0, 4200, 512)]
    levels = scheme.survey.run(lambda a, b: weight[a:b], 4200, 1024, spans)  # type: ignore[union-attr]
    eager = pytest.importorskip("comfy_kitchen.backends.eager.w4a8_int8")
    decided = eager._decide_codebook(weight, eager.rotate_int8_convrot_weight, 16, 256)
    assert torch.equal(levels, decided)


def test_two_packings_of_e2m1_differ_in_the_order_of_halves() -> None:
    weight = normal((16, 64))
    codes, _, scale_2 = ops.quantize_nvfp4(weight)
    kitchen = pytest.importorskip("comfy_kitchen")
    low_first, _ = kitchen.quantize_nvfp4(weight, scale_2, hi_first=False)
    assert torch.equal((codes << 4) | (codes >> 4), low_first)
