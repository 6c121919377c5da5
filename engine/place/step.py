"""A diffusion transformer and one call of it in, the memory of its fullest moment out.

bytes = itemsize x rotations + max over the moments of a block of
    arrays of (tokens, hidden) and (tokens, MLP width) that are alive
    + scores before and after softmax: 2 x batch x heads x min(queries, rows) x keys
    + what the layer being computed takes: its output and its widened weight, see WORKING

Weights that are kept are not counted; neither is the number of blocks, which run in turn. Where an
allocator keeps small pieces for later, the most small pieces of the moments so far are added to the
large ones of each: they are still there. From the second block on that is every moment's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .moments import IMAGE, JOINT, ONE, TEXT, Blocks, Moment

HEAD = 128  # numbers in a head of every family that is counted
RESIDENT, PLAIN = "resident", "none"  # ways to hold a weight that are no scheme
# what our products widen at a time, see kernels/backends/_by_rows.py
CPU_RUN_BYTES, GPU_RUN_BYTES = 4 << 20, 256 << 20
ROUNDED_ELEMENTS = 1 << 18  # activations of a block that become codes at a time, by two threads
BLOCK_BYTES = 16 << 20  # values of a block of rows, see kernels/backends/_integers.py
ROUNDED_ROWS = 1024  # activations that become codes at a time, see kernels/backends/_integers.py


@dataclass(frozen=True)
class ByRows:
    """A weight that our own product widens a run of rows at a time, see `_by_rows`.

    Of a run: `beside`, what is kept next to it for the whole product; `making`, what is there too
    while it is made. `rounded`: activations become codes, some rows at a time, whose products are
    scaled before they go to the output. `turned`: all of them are rotated first.
    """

    beside: float = 0.0
    making: float = 0.0
    rounded: bool = False
    turned: bool = False


@dataclass(frozen=True)
class InBlocks:
    """A weight whose product is made in blocks of rows of the activations, see `onednn.py`.

    Of a block: its codes, and float32 values in BLOCK_BYTES. `turned`: all rows are rotated first.
    """

    turned: bool = False


Ways = tuple[tuple[float, float, float], ...]
# how a weight (N, K) is held: alternatives of (N K, M N, M K), the activations being (M, K), in
# units of one activation; the largest counts. Measured one layer at a time on a CPU.
WORKING: dict[str, Ways | ByRows | InBlocks] = {
    RESIDENT: ((0, 1, 0),),  # a plain weight in the dtype that is computed in
    PLAIN: ((1, 1, 0),),  # a plain weight that is widened for its layer
    "int8": ByRows(rounded=True),
    "int8_convrot": ByRows(rounded=True, turned=True),
    "int8_weight_only": ByRows(),
    "fp8": ByRows(0.5, 0.25),
    "fp8_e5m2": ByRows(0.5),
    "fp8_row": ByRows(0.5, 0.25),
    "fp8_block128": ByRows(0.5, 0.25),
    "int4_g128": ByRows(0.0, 0.5),
}
_DEQUANTIZED = ((2.0, 1.0, 0.0),)  # any other scheme: codes to numbers, twice while it is scaled

# the same schemes on a CPU with a loop for whole numbers, by oneDNN or our own
LOOPS = {"int8": "int8 by a loop", "int8_convrot": "int8_convrot by a loop"}
WORKING |= {LOOPS["int8"]: InBlocks(), LOOPS["int8_convrot"]: InBlocks(turned=True)}
# the same schemes by ComfyUI's own plain torch code, which widens a whole weight for its product
PLAIN_TORCH = {
    "fp8": "fp8 of ComfyUI",
    "fp8_e5m2": "fp8 of ComfyUI",
    "int8": "int8 of ComfyUI",
    "int8_convrot": "int8_convrot of ComfyUI",
}
WORKING |= {
    "fp8 of ComfyUI": ((2, 0, 0), (1, 1, 0)),
    "int8 of ComfyUI": ((0.25, 0, 0), (0, 5, 0.25)),
    "int8_convrot of ComfyUI": ((0.25, 0, 0), (0, 5, 1.25)),
}

# Products of codes on a GPU, counted from their kernels and not measured. What a CPU needs beside
# its output (sums of 32 bits, their float32 copies, a turned copy of the codes) is not there: since
# Ampere comfy-kitchen scales the sums in the registers that they are made in.
FUSED = "fused"  # codes of the activations, the output
FOLDED = "folded"  # the rotation's kernel applies the activation too, whose output is never made
SUMS = "sums"  # 32 bits a number, written out before they are scaled
FUSED_FP8 = "fused fp8"  # first the largest magnitude, of a copy
FUSED_FP8_ROW = "fused fp8_row"  # our own: first a float32 copy
WORKING |= {
    FUSED: ((0, 1, 0.5),),
    FOLDED: ((0, 1, 0.5),),
    SUMS: ((0, 3, 0.5),),
    FUSED_FP8: ((0, 0, 1), (0, 1, 0.5)),
    FUSED_FP8_ROW: ((0, 0, 2.5), (0, 1, 0.5)),
}


@dataclass(frozen=True)
class Matrix:
    """A weight (n, k) and how it is held: a row of WORKING, or another scheme."""

    n: int
    k: int
    held: str = PLAIN


@dataclass(frozen=True)
class Net:
    """What the memory of a step depends on in a model. A layer it lacks is not in `matrices`.

    `repeated`: some block is there more than once.
    """

    blocks: Blocks
    hidden: int
    wide: int
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    repeated: bool = True


@dataclass(frozen=True)
class Call:
    """One call of a model. `rows`: queries that attention meets at once, None: it keeps no scores.

    `itemsize` is that of the dtype that is computed in. `kept_bytes`: pieces that are smaller stay
    with the process when they are freed. `run_bytes`: what our products widen at a time.
    """

    batch: int
    image: int
    text: int
    rows: int | None = None
    itemsize: int = 4
    kept_bytes: int = 0
    run_bytes: int = GPU_RUN_BYTES

    def tokens(self, whose: str) -> int:
        """How many of a batch there are."""
        counts = {IMAGE: self.image, TEXT: self.text, JOINT: self.image + self.text, ONE: 1}
        return self.batch * counts[whose]


def step_bytes(net: Net, call: Call) -> int:
    """The fullest moment of a step in bytes, without weights that are kept."""
    moments = [
        [(count, elements * call.itemsize) for count, elements in _pieces(moment, net, call)]
        for moment in net.blocks.moments
    ]
    fullest = kept = 0.0
    for alive in moments * (2 if net.repeated else 1):
        kept = max(kept, sum(n * x for n, x in alive if x < call.kept_bytes))
        fullest = max(fullest, kept + sum(n * x for n, x in alive if x >= call.kept_bytes))
    rotations = call.tokens(net.blocks.rotary) // call.batch * 2 * HEAD
    return math.ceil(fullest + rotations * call.itemsize)


def _pieces(moment: Moment, net: Net, call: Call) -> list[tuple[float, float]]:
    """What is alive in a moment: (how many arrays, elements of each)."""
    alive = [(n, call.tokens(whose) * net.hidden) for whose, n in moment.hidden.items()]
    alive += [(n, call.tokens(whose) * net.wide) for whose, n in moment.wide.items()]
    found: list[tuple[float, float]] = [*alive]
    if moment.scores is not None and call.rows is not None:
        queries, keys = (call.tokens(whose) // call.batch for whose in moment.scores)
        heads = net.hidden // HEAD
        found.append((2, call.batch * heads * min(queries, call.rows) * keys))
    if moment.linear is not None:
        name, whose = moment.linear
        matrix = net.matrices.get(name)
        if matrix is None:  # a model without such a layer has no such moment
            return []
        found += working(matrix, call.tokens(whose), call)
        if matrix.held == FOLDED:
            found.append((-moment.activated, call.tokens(whose) * net.wide))
    return found


def working(matrix: Matrix, tokens: int, call: Call) -> list[tuple[float, float]]:
    """What one product of (tokens, k) and (n, k) takes: (how many arrays, elements of each)."""
    n, k = matrix.n, matrix.k
    found = WORKING.get(matrix.held, _DEQUANTIZED)
    if isinstance(found, ByRows):
        ways = _by_rows(found, matrix, tokens, call)
    elif isinstance(found, InBlocks):
        ways = _in_blocks(found, matrix, tokens, call)
    else:
        ways = [[*zip(way, (n * k, tokens * n, tokens * k), strict=True)] for way in found]
    return max(ways, key=_total)


def _by_rows(
    held: ByRows, matrix: Matrix, tokens: int, call: Call
) -> list[list[tuple[float, float]]]:
    """Moments of a product in runs of rows: the output, the run, its products of all tokens.

    The products of the run before are there until their name is given to the next. Those of 16 bits
    are scaled in float32, for which both are there at once.
    """
    rows = min(matrix.n, max(1, call.run_bytes // (call.itemsize * matrix.k)))
    some = min(tokens, ROUNDED_ROWS) if held.rounded else tokens
    run, products = rows * matrix.k, some * rows
    before = 1 if rows < matrix.n else 0
    scaled = 4 / call.itemsize  # float32 products, in units of one activation
    converted = 1 + scaled if call.itemsize < 4 else 1.0
    beside = [(1.0, float(tokens * matrix.n))]
    if held.rounded:  # codes in 8 and in 32 bits, and the sums of these rows
        beside += [(0.25 + scaled, some * matrix.k), (scaled, some * matrix.n)]
    if held.turned:
        beside.append((scaled, tokens * matrix.k))
    return [
        [*beside, (1 + held.beside + held.making, run), (before * scaled, products)],
        [*beside, (1 + held.beside, run), (max(converted, 1 + before * scaled), products)],
    ]


def _in_blocks(
    held: InBlocks, matrix: Matrix, tokens: int, call: Call
) -> list[list[tuple[float, float]]]:
    """Moments of a block: its codes are made, some rows at a time, and multiplied.

    Beside them the output; float32 in units of one activation.
    """
    wide = 4 / call.itemsize
    rows = min(tokens, max(32, BLOCK_BYTES // (4 * matrix.n)))
    codes = float(rows * matrix.k)
    beside = [(1.0, float(tokens * matrix.n)), (1 / call.itemsize, codes)]
    if held.turned:
        beside.append((wide, float(tokens * matrix.k)))
    made = (2 * wide, min(codes, float(ROUNDED_ELEMENTS)))
    return [[*beside, made], [*beside, (wide, float(rows * matrix.n))]]


def _total(pieces: list[tuple[float, float]]) -> float:
    return sum(count * elements for count, elements in pieces)


def query_rows(free_bytes: float, call: Call, heads: int) -> int:
    """The queries that ComfyUI's sub-quadratic attention meets with all keys at once."""
    keys, per_row = call.image + call.text, call.batch * heads * call.itemsize * 4.0
    fits = (rows for rows in (4096, 2048, 1024, 512, 256) if free_bytes / (per_row * rows) >= keys)
    return next(fits, 512)
