"""Triton builds our kernels for GPUs that are not here; they ask for no more than the tiles say."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from fusequant.kernels import product_tiles
from fusequant.kernels.product_tiles import BLOCK128, FP8, INT4, INT8

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="Triton has no build for this system, or interprets",
)
# (kind, GPU, rows of x, rank of a branch, an instruction of its tensor cores)
PRODUCTS = (
    (INT8, "sm_80", 64, 0, "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"),
    (INT4, "sm_80", 1, 16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
    (BLOCK128, "sm_89", 64, 0, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
    (FP8, "sm_90", 64, 0, "wgmma.mma_async"),
    (INT4, "sm_90", 32, 0, "wgmma.mma_async"),
)


@pytest.fixture(scope="module")
def compiling(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """compiling.py beside this file, with a cache of this run's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        path = Path(__file__).with_name("compiling.py")
        spec = importlib.util.spec_from_file_location("compiling", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_product_compiles_for_tensor_cores(
    case: tuple[str, str, int, int, str], compiling: ModuleType
) -> None:
    kind, arch, rows, rank, instruction = case
    tile = product_tiles.choose(kind, rows, 3072, arch, 100, rank)
    made = compiling.product(kind, arch, tile, rank)
    assert instruction in made.asm["ptx"]
    assert made.asm["cubin"]  # the assembler took it
    asked = made.metadata.shared
    assert 0 < asked <= product_tiles.shared_bytes(kind, tile, rank)
    assert asked <= product_tiles.shared_limit(arch)


def test_turing_s_two_passes_compile(compiling: ModuleType) -> None:
    for made in (compiling.quantizer("int8", "sm_75"), compiling.scaler("sm_75")):
        assert made.asm["cubin"] and ".target sm_75" in made.asm["ptx"]


def test_on_hopper_sums_that_are_held_twice_stay_in_registers(compiling: ModuleType) -> None:
    """Twice 64 numbers a thread of 255 at most; twice 128 do not fit."""
    tile = product_tiles.choose(FP8, 4096, 3072, "sm_90", 132)
    assert 2 * tile.rows * tile.outputs // (32 * tile.warps) <= 128
    made = compiling.product(FP8, "sm_90", tile)
    assert "wgmma.mma_async" in made.asm["ptx"] and made.metadata.shared <= 227 * 1024


@pytest.mark.parametrize("arch", ("sm_80", "sm_90"))
def test_rows_are_quantized_and_widened(arch: str, compiling: ModuleType) -> None:
    made = compiling.quantizer("e4m3 of layer_norm", arch)
    assert ("cvt.rn.satfinite.e4m3x2.f32" in made.asm["ptx"]) == (arch == "sm_90")
    assert "div.rn.f32" in made.asm["ptx"]  # the quotient is the reference's
    widened = compiling.dequantizer("e4m3", arch)
    assert ".ftz" not in widened.asm["ptx"]  # the smallest codes would be lost
