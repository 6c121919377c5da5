"""A planned file in, what its user should know of the numbers before they are written out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from .fuse.lora import Fused
from .model import Model
from .outputs import Output

SHOWN = 3  # names of tensors in a line


def warnings_of(outputs: Sequence[Output], fused: Fused, model: Model) -> Iterator[str]:
    """Numbers that are rounded twice, that are lost, that nobody uses."""
    changed = [o for o in outputs if o.choice.layer.scheme != "none" and not o.as_stored]
    twice = Counter(o.choice.layer.scheme for o in changed if o.choice.scheme != "none")
    for scheme, count in twice.items():
        yield (
            f"{count} layers are stored as {scheme}: they are dequantized"
            f"{', fused' if fused.changes else ''} and quantized again, which rounds them twice; "
            "a 16-bit source gives a better file"
        )
    lost = sum("input_scale" not in o.tensors and _calibrated(o) for o in outputs)
    if lost:
        yield f"{lost} layers lose their calibrated input_scale"
    if model.unused:
        named = ", ".join(layer.key for layer in model.unused[:SHOWN])
        yield f"{len(model.unused)} tensors have no place in this model: {named}"


def warnings_of_format(name: str, model: Model) -> Iterator[str]:
    """What a file for others is not."""
    yield (f"a file for {name}: ComfyUI's own loaders ignore its scales, FuseQuant's open it")
    if model.others:
        yield f"{len(model.others)} tensors beside the model are left out"


def _calibrated(output: Output) -> bool:
    return any("input_scale" in part.tensors for part in output.choice.layer.parts)
