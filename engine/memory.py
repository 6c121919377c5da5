"""Outputs and workers in, the private memory that converting them needs out, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence

from .fuse.lora import Fused
from .outputs import Output
from .rows import all_schemes, row_count, row_elements
from .stored import row_step

CHUNK_ELEMENTS = 1 << 19  # float32 of it about fits a core's cache; measured
# of one chunk at once: float32 rows, their rotated or scaled copy, codes, codes on the way out
COPIES_OF_A_CHUNK = 5
# of the numbers that a survey keeps: float32 of them and a rotated copy
COPIES_OF_A_SURVEY = 2
# of one LoRA tensor at once: float32 of it and a transposed or scaled copy
COPIES_OF_AN_ADAPTER = 2
ALLOCATOR_BYTES = 16 << 20  # what the C library keeps of a worker's freed chunks, measured
FIXED_BYTES = 24 << 20  # header, plan, thread stacks


def _working_bytes(output: Output, fused: Fused) -> int:
    """What one worker holds while it is at this layer."""
    choice, scheme = output.choice, all_schemes()[output.choice.scheme]
    step, k = max(scheme.row_step, row_step(choice.layer)), row_elements(choice.layer)
    # the last chunk takes what is less than a step with it
    chunk = 4 * (max(CHUNK_ELEMENTS, step * k) + (step - 1) * k)
    surveyed = 0
    if scheme.survey is not None and not output.as_stored:
        surveyed = 4 * scheme.survey.held(row_count(choice.layer), k)
    scales = sum(t.size_bytes for role, t in output.tensors.items() if role != "weight")
    adapters = sum(
        4 * change.file.source.tensors[name].elements
        for change in fused.changes.get(output.changed.key, ())
        for name in change.names.values()
    )
    return (
        COPIES_OF_A_CHUNK * chunk
        + COPIES_OF_A_SURVEY * surveyed
        + 2 * scales
        + COPIES_OF_AN_ADAPTER * adapters
    )


def predicted_peak_bytes(outputs: Sequence[Output], fused: Fused, workers: int) -> int:
    """Private memory over the process's baseline: the `workers` hungriest layers at once."""
    working = sorted((_working_bytes(output, fused) for output in outputs), reverse=True)
    return FIXED_BYTES + workers * ALLOCATOR_BYTES + sum(working[:workers])
