"""The input that says of a file what the file itself cannot: its int8 rows are rotated."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..engine.rotated import AS_STORED, GROUP, GROUPS

TIP = (
    "INT8-Fast can save int8 weights that are Hadamard-rotated (QuaRot) without a word of it in "
    "the file: read as they are, every number is wrong. If you know that this is such a file, "
    f"choose the group it was rotated by, {GROUP} unless it was changed."
)


def rotated_input() -> Any:
    """`as in the file`, or a group of rotated inputs; engine.rotated.rotation reads it."""
    others = [str(group) for group in GROUPS if group != GROUP]
    return io.Combo.Input(
        "rotated",
        options=[AS_STORED, str(GROUP), *others],
        default=AS_STORED,
        optional=True,
        advanced=True,
        tooltip=TIP,
    )
