"""A diffusion transformer and one call of it in, the memory of its fullest moment out.

bytes = itemsize x rotations + max over the moments of a block of
    arrays of (tokens, hidden) and (tokens, MLP width) that are alive
    + scores before and after softmax: 2 x batch x heads x min(queries, rows) x keys
    + what the layer being computed takes: its output and its widened weight, see WORKING

Weights that are kept are not counted; neither is the number of blocks, which run in turn. Where an
allocator keeps small pieces for later, the maximum is taken of the large and of the small ones
each: the small pieces of one moment are still there in another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .moments import IMAGE, JOINT, ONE, TEXT, Blocks, Moment

HEAD = 128  # numbers in a head of every family that is counted
RESIDENT, PLAIN, NATIVE = "resident", "none", "native"  # ways to hold a weight that are no scheme

# how a weight (N, K) is held: alternatives of (N K, M N, M K), the activations being (M, K), in
# units of one activation; the largest counts. Measured one layer at a time on a CPU.
WORKING: dict[str, tuple[tuple[float, float, float], ...]] = {
    RESIDENT: ((0, 1, 0),),  # a plain weight in the dtype that is computed in
    PLAIN: ((1, 1, 0),),  # a plain weight that is widened for its layer
    "fp8": ((2, 0, 0), (1, 1, 0)),
    "fp8_e5m2": ((2, 0, 0), (1, 1, 0)),
    "int8": ((0.25, 0, 0), (0, 5, 0.25)),
    "int8_convrot": ((0.25, 0, 0), (0, 5, 1.25)),
    "int8_weight_only": ((1, 2, 0),),
    "fp8_row": ((1.25, 2, 0),),
    "fp8_block128": ((1.25, 2, 0),),
    "int4_g128": ((1.13, 2, 0),),
    # a GPU's own matmul of codes, counted and not measured: 8-bit activations, sums of 32 bits
    NATIVE: ((0, 3, 0.5),),
}
_DEQUANTIZED = ((2.0, 1.0, 0.0),)  # any other scheme: codes to numbers, twice while it is scaled


@dataclass(frozen=True)
class Matrix:
    """A weight (n, k) and how it is held: a row of WORKING, or another scheme."""

    n: int
    k: int
    held: str = PLAIN


@dataclass(frozen=True)
class Net:
    """What the memory of a step depends on in a model. A layer it lacks is not in `matrices`."""

    blocks: Blocks
    hidden: int
    wide: int
    matrices: Mapping[str, Matrix] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of a model. `rows`: queries that attention meets at once, None: it keeps no scores.

    `itemsize` is that of the dtype that is computed in. `kept_bytes`: pieces that are smaller stay
    with the process when they are freed.
    """

    batch: int
    image: int
    text: int
    rows: int | None = None
    itemsize: int = 4
    kept_bytes: int = 0

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
    large = max(sum(n * x for n, x in alive if x >= call.kept_bytes) for alive in moments)
    small = max(sum(n * x for n, x in alive if x < call.kept_bytes) for alive in moments)
    rotations = call.tokens(net.blocks.rotary) // call.batch * 2 * HEAD
    return math.ceil(large + small + rotations * call.itemsize)


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
        found += working(matrix, call.tokens(whose))
    return found


def working(matrix: Matrix, tokens: int) -> list[tuple[float, float]]:
    """What one product of (tokens, k) and (n, k) takes: (how many arrays, elements of each)."""
    n, k = matrix.n, matrix.k
    sizes = (n * k, tokens * n, tokens * k)
    ways = WORKING.get(matrix.held, _DEQUANTIZED)
    return max(([*zip(way, sizes, strict=True)] for way in ways), key=_total)


def _total(pieces: list[tuple[float, float]]) -> float:
    return sum(count * elements for count, elements in pieces)


def query_rows(free_bytes: float, call: Call, heads: int) -> int:
    """The queries that ComfyUI's sub-quadratic attention meets with all keys at once."""
    keys, per_row = call.image + call.text, call.batch * heads * call.itemsize * 4.0
    fits = (rows for rows in (4096, 2048, 1024, 512, 256) if free_bytes / (per_row * rows) >= keys)
    return next(fits, 512)
