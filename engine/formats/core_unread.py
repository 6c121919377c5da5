"""ComfyUI markers that name a format not read here: recognised and refused by that name."""

from __future__ import annotations

from collections import Counter

from ..errors import Refused
from ..format import Contents, Format
from ..source import Source
from ._foreign import FROM_ORIGINAL
from ._markers import DAMAGED, ids, markers
from ._names import has_marker
from .core import READ


def detect(source: Source) -> bool:
    """Some marker names a format that is not read."""
    return has_marker(source) and not ids(source) <= READ | {None, DAMAGED}


def split(source: Source) -> Contents:
    """Refuse, naming the commonest such format and its first layer."""
    counts = Counter(
        marker.id for marker in markers(source).values() if marker.id and marker.id not in READ
    )
    name = counts.most_common(1)[0][0]
    scales = {spec.dtype for key, spec in source.tensors.items() if key.endswith(".weight_scale")}
    note = "; its F8_E8M0 scales stop stock ComfyUI too" if "F8_E8M0" in scales else ""
    raise Refused(
        f"format-{name.replace('_', '-')}",
        found=f"{counts[name]} layers in {name} (an unknown tool's format){note}",
        expected=f"one of {', '.join(sorted(READ))}",
        fix=FROM_ORIGINAL,
        layer=next(key for key, marker in markers(source).items() if marker.id == name),
    )


FORMAT = Format(
    "core_unread", "ComfyUI quantized checkpoint in a format not read here", detect, split
)
