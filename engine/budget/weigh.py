"""Some rows of a layer and schemes in, the error that each scheme makes out.

The rows are a deterministic sample, spread evenly over the layer, LoRAs added. Each scheme
quantizes them and multiplies 32 tokens with them as its own linear does, activations included:

    x ~ N(0, inputs_k)                    one column k at a time, as far as the inputs are known
    v_n = mean over tokens of (linear(x)_n - (x w.T)_n)^2
    error^2 = sum_n s_n v_n / sum_n s_n (x w.T)_n^2        s_n: sensitivity of channel n, else 1

A LoRA's delta d becomes d + e, with e what quantizing changes in the weight. What is no more of d
counts on top of the error, as its share of the weight's energy:

    damage = |d|^2 / |w|^2 * (1 - cosine(d, d + e)^2)

which is at most error^2 for a LoRA that is well kept, and all of its energy for one that is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...kernels import registry
from ..errors import Refused
from ..fuse.lora import Fused
from ..insight import LayerInsight
from ..layer import Layer
from ..measure.synthetic import generator
from ..rounding import rounder
from ..rounding_names import NEAREST
from ..rows import RowReader, row_count, row_elements, rows_of
from ..scheme import Scheme
from ..source import Source
from .weighed import LoraLeft, Weighed

SAMPLE_ELEMENTS = 1 << 21  # of a layer: 3 % of FLUX's largest
SAMPLE_ROWS = 128  # at least, where there are as many
RUN_ROWS = 8  # read at once
TOKENS = 32


@dataclass(frozen=True)
class Sample:
    """`rows` (r, k) float32 of a layer with LoRAs added, `indices` of them, each file's delta."""

    rows: torch.Tensor
    indices: torch.Tensor
    deltas: tuple[tuple[str, torch.Tensor], ...] = ()


def runs(count: int, k: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the rows of a sample, in short runs spread evenly; all of a small layer."""
    wanted = max(SAMPLE_ROWS, SAMPLE_ELEMENTS // max(1, k))
    if wanted >= count:
        yield 0, count
        return
    number = -(-wanted // RUN_ROWS)
    for i in range(number):
        start = i * (count - RUN_ROWS) // max(1, number - 1)
        yield start, start + RUN_ROWS


def sample_bytes(layer: Layer) -> int:
    """How much of a layer is read, as 16-bit numbers."""
    spans = runs(row_count(layer), row_elements(layer))
    return 2 * row_elements(layer) * sum(stop - start for start, stop in spans)


def sample_of(layer: Layer, source: Source, fused: Fused) -> Sample:
    """The sample of a layer, its LoRAs together and each for itself."""
    base = rows_of(layer, source)
    spans = list(runs(row_count(layer), row_elements(layer)))

    def read(reader: RowReader) -> torch.Tensor:
        return torch.cat([reader(start, stop).cpu() for start, stop in spans])

    rows = read(fused.reader(layer, base))
    deltas = tuple(
        (name, read(alone).sub_(read(base))) for name, alone in fused.deltas(layer, base)
    )
    indices = torch.cat([torch.arange(start, stop) for start, stop in spans])
    return Sample(rows, indices, deltas)


def weigh(
    name: str,
    sample: Sample,
    schemes: Sequence[Scheme],
    insight: LayerInsight,
    dtype: str,
    rounding: str = NEAREST,
    kept: str | None = None,
) -> dict[str, Weighed]:
    """{scheme: what it does to the layer}. `dtype`: as in Scheme.pieces.

    `kept` is the scheme whose codes the source holds: there only the activations are rounded.
    The numbers depend on the name, the rows and the insight alone.
    """
    n, k = sample.rows.shape
    x = _tokens(name, k, insight)
    exact = x @ sample.rows.T
    counts, energy = _counts(sample.indices, insight), _energy(insight)
    found = {}
    for scheme in schemes:
        whole = None
        if scheme.survey is not None:
            whole = scheme.survey.run(lambda a, b: sample.rows[a:b], n, k, [(0, n)])
        better = rounder(scheme, k, rounding, dtype, insight)
        ready = sample.rows if better is None else better(sample.rows, whole)
        made = scheme.quantize(ready, whole, dtype)
        settings = {**scheme.config(n, k), **scheme.settings}
        stored = scheme.dequantize(made, settings)
        with registry.use_backend("reference"):  # the same numbers on every machine
            moved = scheme.linear(x, made, settings, None)
        truth = x @ stored.T if scheme.name == kept else exact
        error = _ratio((moved - truth).square().mean(0), exact.square().mean(0), counts)
        if not math.isfinite(error):
            raise _refused(name)
        stored -= sample.rows
        left = tuple((path, _left(delta, stored, sample.rows)) for path, delta in sample.deltas)
        damage = sum(one.energy * (1 - one.cosine**2) for _, one in left)
        found[scheme.name] = Weighed(error**0.5, error * energy, damage * energy, left)
    return found


def _tokens(name: str, k: int, insight: LayerInsight) -> torch.Tensor:
    """(TOKENS, k) normal numbers of the size that the inputs have."""
    x = torch.randn(TOKENS, k, generator=generator(0, f"{name}/tokens"))
    return x if insight.inputs is None else x * insight.inputs.sqrt()


def _counts(indices: torch.Tensor, insight: LayerInsight) -> torch.Tensor:
    """(r) float32: how much each sampled output channel counts."""
    if insight.sensitivity is None or not bool(insight.sensitivity.any()):
        return torch.ones(len(indices))
    return insight.sensitivity[indices]


def _energy(insight: LayerInsight) -> float:
    """What an error as large as the layer's output does to the model's output, squared."""
    if insight.sensitivity is None or insight.outputs is None:
        return 1.0
    return float((insight.sensitivity.double() * insight.outputs.double()).sum())


def _ratio(part: torch.Tensor, whole: torch.Tensor, counts: torch.Tensor) -> float:
    """sum(counts * part) / sum(counts * whole) in float64; 0 where there is nothing."""
    below = float((counts.double() * whole.double()).sum())
    return float((counts.double() * part.double()).sum()) / below if below else 0.0


def _left(delta: torch.Tensor, error: torch.Tensor, weight: torch.Tensor) -> LoraLeft:
    """What is left of a delta that has an error on it."""
    after = delta + error
    before, then = float(delta.double().norm()), float(after.double().norm())
    whole = float(weight.double().norm())
    energy = (before / whole) ** 2 if whole else 0.0
    if before == 0 or then == 0:
        same = 1.0 if before == then else 0.0
        return LoraLeft(same, same, energy)
    dot = float((delta.double() * after.double()).sum())
    return LoraLeft(then / before, dot / before / then, energy)


def _refused(name: str) -> Refused:
    return Refused(
        "non-finite-weights",
        found="NaN or infinity among the weights",
        expected="finite numbers",
        fix="the file (or a LoRA fused into it) is damaged: download it again",
        layer=name,
    )
