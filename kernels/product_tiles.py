"""A product's kind, sizes and GPU in, the tile that one program of a kernel computes out.

Plain arithmetic over two tables, so that it can be read and tested where no GPU is. What a tile
needs of a multiprocessor's shared memory is bounded from above; the numbers of bytes are what a
program may ask for, in CUDA's table of compute capabilities and AMD's of its architectures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

KIB = 1024
SHARED = {
    "sm_70": 96 * KIB, "sm_75": 64 * KIB, "sm_80": 163 * KIB, "sm_86": 99 * KIB,
    "sm_87": 163 * KIB, "sm_89": 99 * KIB, "sm_90": 227 * KIB, "sm_100": 227 * KIB,
    "sm_103": 227 * KIB, "sm_120": 99 * KIB, "sm_121": 99 * KIB,
    "gfx90a": 64 * KIB, "gfx942": 64 * KIB, "gfx950": 160 * KIB,
    "gfx940": 64 * KIB, "gfx941": 64 * KIB,
    **dict.fromkeys(("gfx1100", "gfx1101", "gfx1102", "gfx1103"), 64 * KIB),
    **dict.fromkeys(("gfx1150", "gfx1151", "gfx1152", "gfx1153"), 64 * KIB),
    **dict.fromkeys(("gfx1200", "gfx1201"), 64 * KIB),
}  # fmt: skip
SHARED_ELSEWHERE = 48 * KIB  # what every GPU has

INT8, FP8, BLOCK128, INT4 = "int8", "fp8", "fp8_block128", "int4"


@dataclass(frozen=True)
class Tile:
    """`rows` x `outputs` of y, summed over `inputs` at a time; loads run `stages` ahead."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int


# kind: (at most so many rows of x, tile); None is every number. Wide memory first, see `choose`.
TILES: dict[str, tuple[tuple[int | None, Tile], ...]] = {
    INT8: (
        (16, Tile(16, 64, 256, 4, 4)),
        (64, Tile(64, 64, 128, 4, 4)),
        (512, Tile(128, 128, 128, 8, 4)),
        (None, Tile(128, 256, 128, 8, 4)),
    ),
    BLOCK128: (
        (16, Tile(16, 64, 128, 4, 5)),
        (64, Tile(64, 64, 128, 4, 4)),
        (None, Tile(128, 128, 128, 8, 4)),
    ),
    INT4: (
        (16, Tile(16, 64, 128, 4, 5)),
        (32, Tile(32, 64, 128, 4, 4)),
        (64, Tile(64, 128, 128, 8, 4)),
        (None, Tile(128, 128, 128, 8, 3)),
    ),
}
# On Hopper e4m3 sums are handed over, so a program holds them twice: half the outputs of int8, or
# its registers spill in the loop.
TILES[FP8] = (*TILES[INT8][:-1], (None, Tile(128, 128, 128, 8, 4)))
# AMD's compiler keeps what is loaded ahead in registers: two stages are what it is made for
STAGES_ON_AMD = 2
LEAST = 16  # what a matrix unit takes of each side
NARROW_OUTPUTS = 32
WARP, WIDE_WARP, MOST_THREADS = 32, 64, 1024
ELEMENTS_AT_ONCE = 4096


def shared_limit(arch: str) -> int:
    """Bytes of shared memory that one program may have on `sm_90`, `gfx942` and so on."""
    return SHARED.get(arch, SHARED_ELSEWHERE)


def shared_bytes(kind: str, tile: Tile, rank: int = 0) -> int:
    """An upper bound of what the compiled kernel asks for: the loop's tiles, or its end.

    The loop holds `stages` tiles of x and of the weight; four-bit codes are widened in registers.
    The end turns float32 sums over for the store, beside both sides of a branch.
    """
    bytes_a_pair = 2 * tile.rows + tile.outputs // 2 if kind == INT4 else tile.rows + tile.outputs
    stage = tile.inputs * bytes_a_pair
    branch = 2 * block_rank(rank) * (tile.rows + tile.outputs)
    ends = 4 * tile.rows * tile.outputs + branch
    return max(tile.stages * stage, ends) + KIB


def block_rank(rank: int) -> int:
    """How much of a branch's rank is added at a time: a power of two of 16 to 64, 0 for none."""
    return 0 if rank == 0 else min(64, max(LEAST, 1 << (rank - 1).bit_length()))


def choose(
    kind: str, rows: int, outputs: int, arch: str, processors: int = 0, rank: int = 0
) -> Tile:
    """The table's tile for so many rows, made smaller until it fits the GPU's shared memory.

    Few rows on a GPU of many processors: narrower tiles, so that each has work.
    """
    tile = next(tile for most, tile in TILES[kind] if most is None or rows <= most)
    if arch.startswith("gfx"):
        tile = replace(tile, stages=min(tile.stages, STAGES_ON_AMD))
    if tile.rows == LEAST and outputs < processors * tile.outputs:
        tile = replace(tile, outputs=NARROW_OUTPUTS)
    limit = shared_limit(arch)
    return next(small for small in _smaller(kind, tile) if shared_bytes(kind, small, rank) <= limit)


def rows_at_once(block: int) -> int:
    """How many rows of `block` numbers a program takes, both powers of two."""
    return max(1, ELEMENTS_AT_ONCE // block)


def quantize_warps(elements: int, arch: str) -> int:
    """Warps for a program that holds so many numbers: 32 or fewer a thread, 1024 threads at most.

    A warp is 64 threads on AMD's data center cards, 32 elsewhere.
    """
    threads = WIDE_WARP if arch.startswith("gfx9") else WARP
    return min(MOST_THREADS // threads, max(4, elements // (32 * threads)))


def _smaller(kind: str, tile: Tile) -> Iterator[Tile]:
    """The tile, then with fewer stages (two hide a load at least), then half the longer side.

    bf16 beside four-bit codes is wide: half the inputs at a time come before fewer stages.
    """
    if kind == INT4:
        deeper = tile.stages + 1 if tile.stages > STAGES_ON_AMD else tile.stages
        yield tile
        yield replace(tile, inputs=tile.inputs // 2, stages=deeper)
    while True:
        for stages in range(tile.stages, 1, -1):
            yield replace(tile, stages=stages)
        if max(tile.rows, tile.outputs) <= LEAST:
            yield replace(tile, stages=1)
            return
        longer = "outputs" if tile.outputs >= tile.rows else "rows"
        tile = replace(tile, **{longer: getattr(tile, longer) // 2})
