"""A diffusion transformer and the size of a picture in, the memory of one step on a CPU out.

bytes = max over the moments of a block of
    arrays of (tokens, hidden) and (tokens, MLP width) that are alive
    + scores before and after softmax: 2 * batch * heads * min(queries, rows) * keys
    + what the layer being computed takes: see WORKING.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .moments import BLOCKS, IMAGE, JOINT, ONE, TEXT, Blocks, Moment

HEAD = 128  # numbers in a head of every family told here
# buffers and compiled code that torch's libraries make at the first step and keep, measured
LIBRARIES_BYTES = 64 << 20

# by scheme: alternatives of (N * K, M * N, M * K), the activations being (M, K) and the weight
# (N, K), in units of one activation; the largest counts. Measured one layer at a time.
WORKING: dict[str, tuple[tuple[float, float, float], ...]] = {
    "resident": ((0, 1, 0),),  # a plain weight in the dtype that is computed in
    "none": ((1, 1, 0),),  # a plain weight that is widened for its layer
    "fp8": ((2, 0, 0), (1, 1, 0)),
    "fp8_e5m2": ((2, 0, 0), (1, 1, 0)),
    "int8": ((0.25, 0, 0), (0, 5, 0.25)),
    "int8_convrot": ((0.25, 0, 0), (0, 5, 1.25)),
    "int8_weight_only": ((1, 2, 0),),
    "fp8_row": ((1.25, 2, 0),),
    "fp8_block128": ((1.25, 2, 0),),
    "int4_g128": ((1.13, 2, 0),),
}
_DEQUANTIZED = ((2.0, 1.0, 0.0),)  # any other scheme: codes to numbers, twice while it is scaled


@dataclass(frozen=True)
class Matrix:
    """A weight (n, k) and how it is held: a scheme, `none` or `resident` (see WORKING)."""

    n: int
    k: int
    held: str = "none"


@dataclass(frozen=True)
class Call:
    """One call of a model. `rows`: queries that attention meets at once, None: it keeps no scores.

    `itemsize` is that of the dtype that is computed in.
    """

    batch: int
    image: int
    text: int
    rows: int | None = None
    itemsize: int = 4

    def tokens(self, whose: str) -> int:
        """How many of a batch there are."""
        counts = {IMAGE: self.image, TEXT: self.text, JOINT: self.image + self.text, ONE: 1}
        return self.batch * counts[whose]


def layers_of(family: str) -> tuple[str, ...]:
    """The layers whose shapes `step_bytes` wants to know, () for a family that it does not know."""
    blocks = BLOCKS.get(family)
    if blocks is None:
        return ()
    computed = (moment.linear[0] for moment in blocks.moments if moment.linear is not None)
    return tuple(dict.fromkeys((blocks.hidden, blocks.wide, *computed)))


def step_bytes(family: str, call: Call, matrices: Mapping[str, Matrix]) -> int | None:
    """The fullest moment of a step in bytes, without weights that are kept; None: not known.

    A layer that is not among `matrices` is left out: a model may have no such blocks.
    """
    blocks = BLOCKS.get(family)
    if blocks is None or blocks.hidden not in matrices or blocks.wide not in matrices:
        return None
    elements = max(_elements(moment, blocks, call, matrices) for moment in blocks.moments)
    rotations = call.tokens(blocks.rotary) // call.batch * 2 * HEAD
    return math.ceil((elements + rotations) * call.itemsize)


def _elements(moment: Moment, blocks: Blocks, call: Call, matrices: Mapping[str, Matrix]) -> float:
    hidden, wide = matrices[blocks.hidden].n, matrices[blocks.wide].n
    alive = sum(count * call.tokens(whose) * hidden for whose, count in moment.hidden.items())
    alive += sum(count * call.tokens(whose) * wide for whose, count in moment.wide.items())
    if moment.scores is not None and call.rows is not None:
        queries, keys = (call.tokens(whose) // call.batch for whose in moment.scores)
        alive += 2 * call.batch * (hidden // HEAD) * min(queries, call.rows) * keys
    if moment.linear is None:
        return alive
    name, whose = moment.linear
    matrix = matrices.get(name)
    return alive + _working(matrix, call.tokens(whose)) if matrix is not None else 0.0


def _working(matrix: Matrix, tokens: int) -> float:
    """Elements that one product of (tokens, k) and (n, k) takes."""
    n, k = matrix.n, matrix.k
    ways = WORKING.get(matrix.held, _DEQUANTIZED)
    return max(nk * n * k + mn * tokens * n + mk * tokens * k for nk, mn, mk in ways)


def query_rows(free_bytes: float, call: Call, heads: int) -> int:
    """The queries that ComfyUI's sub-quadratic attention meets with all keys at once."""
    keys, per_row = call.image + call.text, call.batch * heads * call.itemsize * 4.0
    fits = (rows for rows in (4096, 2048, 1024, 512, 256) if free_bytes / (per_row * rows) >= keys)
    return next(fits, 512)
