"""Tiles fit the shared memory of every GPU, whatever the sizes; no GPU and no Triton is needed."""

from __future__ import annotations

from itertools import product

import pytest

from fusequant.kernels import product_tiles
from fusequant.kernels.product_tiles import BLOCK128, FP8, INT4, INT8, SHARED, TILES, Tile

ROWS = (1, 7, 16, 17, 64, 65, 256, 1024, 4096, 16384)
RANKS = (0, 4, 16, 32, 200)


def power_of_two(number: int) -> bool:
    return number > 0 and not number & (number - 1)


@pytest.mark.parametrize("arch", (*SHARED, "sm_130", "gfx999"))
@pytest.mark.parametrize("kind", TILES)
def test_every_tile_fits_and_is_what_a_kernel_takes(kind: str, arch: str) -> None:
    for rows, outputs, rank in product(ROWS, (37, 3072, 13824), RANKS):
        tile = product_tiles.choose(kind, rows, outputs, arch, 132, rank)
        assert product_tiles.shared_bytes(kind, tile, rank) <= product_tiles.shared_limit(arch)
        for side in (tile.rows, tile.outputs, tile.inputs):
            assert power_of_two(side) and side >= 16
        assert power_of_two(tile.warps) and tile.warps <= 8 and tile.stages >= 1
        if kind == BLOCK128:  # one scale of the weight for each program and step
            assert tile.inputs == 128 and 128 % tile.outputs == 0
        if arch.startswith("gfx"):
            assert tile.stages <= 2


def test_the_bytes_of_a_loop_and_of_an_end_by_hand() -> None:
    eight = Tile(rows=128, outputs=256, inputs=128, warps=8, stages=3)
    assert product_tiles.shared_bytes(INT8, eight) == 3 * 128 * (128 + 256) + 1024
    four = Tile(rows=16, outputs=64, inputs=128, warps=4, stages=5)
    assert product_tiles.shared_bytes(INT4, four) == 5 * 128 * (2 * 16 + 64 // 2) + 1024
    flat = Tile(rows=128, outputs=128, inputs=16, warps=8, stages=2)
    ends = 4 * 128 * 128 + 2 * 32 * (128 + 128)
    assert product_tiles.shared_bytes(FP8, flat, rank=20) == ends + 1024


def test_known_gpus_get_the_tiles_their_memory_allows() -> None:
    def sides(*asked: object) -> tuple[int, int, int, int]:
        tile = product_tiles.choose(*asked)  # type: ignore[arg-type]
        return tile.rows, tile.outputs, tile.inputs, tile.stages

    assert sides(INT8, 4096, 3072, "sm_90") == (128, 256, 128, 4)
    assert sides(INT8, 4096, 3072, "sm_80") == (128, 256, 128, 3)
    assert sides(INT8, 4096, 3072, "sm_89") == (128, 128, 128, 3)
    assert sides(FP8, 4096, 3072, "sm_90") == (128, 128, 128, 4)
    assert sides(INT4, 4096, 3072, "sm_89") == (128, 128, 64, 4)
    assert sides(INT4, 1, 12288, "sm_90", 132) == (16, 64, 128, 5)
    assert sides(INT4, 1, 3072, "sm_90", 132) == (16, 32, 128, 5)  # 96 programs, not 48


@pytest.mark.parametrize(("rank", "block"), ((0, 0), (1, 16), (16, 16), (17, 32), (128, 64)))
def test_a_branch_is_added_in_blocks_that_a_product_takes(rank: int, block: int) -> None:
    assert product_tiles.block_rank(rank) == block


def test_rows_share_a_program_where_they_are_short() -> None:
    for block in (16, 256, 4096, 32768):
        rows = product_tiles.rows_at_once(block)
        for arch, threads in (("sm_90", 32), ("gfx1100", 32), ("gfx942", 64)):
            warps = product_tiles.quantize_warps(rows * block, arch)
            assert power_of_two(rows) and power_of_two(warps) and warps >= 4
            assert warps * threads <= 1024 and rows * block <= 32 * threads * warps
