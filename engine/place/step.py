"""A diffusion transformer and one call of it in, the memory of its fullest moment out.

bytes = itemsize x (rotations + max over the moments of a block of
    arrays of (tokens, hidden) and (tokens, MLP width) that are alive
    + scores before and after softmax: 2 x batch x heads x min(queries, rows) x keys
    + what the layer being computed takes: its output and its widened weight, see WORKING)

Weights that are kept are not counted; neither is the number of blocks, which run in turn.
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


def step_bytes(net: Net, call: Call) -> int:
    """The fullest moment of a step in bytes, without weights that are kept."""
    elements = max(_elements(moment, net, call) for moment in net.blocks.moments)
    rotations = call.tokens(net.blocks.rotary) // call.batch * 2 * HEAD
    return math.ceil((elements + rotations) * call.itemsize)


def _elements(moment: Moment, net: Net, call: Call) -> float:
    alive = sum(count * call.tokens(whose) * net.hidden for whose, count in moment.hidden.items())
    alive += sum(count * call.tokens(whose) * net.wide for whose, count in moment.wide.items())
    if moment.scores is not None and call.rows is not None:
        queries, keys = (call.tokens(whose) // call.batch for whose in moment.scores)
        alive += 2 * call.batch * (net.hidden // HEAD) * min(queries, call.rows) * keys
    if moment.linear is None:
        return alive
    name, whose = moment.linear
    matrix = net.matrices.get(name)
    # a model without such a layer has no such moment
    return alive + working(matrix, call.tokens(whose)) if matrix is not None else 0.0


def working(matrix: Matrix, tokens: int) -> float:
    """Elements that one product of (tokens, k) and (n, k) takes."""
    n, k = matrix.n, matrix.k
    ways = WORKING.get(matrix.held, _DEQUANTIZED)
    return max(nk * n * k + mn * tokens * n + mk * tokens * k for nk, mn, mk in ways)


def query_rows(free_bytes: float, call: Call, heads: int) -> int:
    """The queries that ComfyUI's sub-quadratic attention meets with all keys at once."""
    keys, per_row = call.image + call.text, call.batch * heads * call.itemsize * 4.0
    fits = (rows for rows in (4096, 2048, 1024, 512, 256) if free_bytes / (per_row * rows) >= keys)
    return next(fits, 512)
