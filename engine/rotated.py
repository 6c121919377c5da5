"""Contents of a file in, the same with int8 rows taken as Hadamard-rotated out.

INT8-Fast saves rotated weights and nothing in its file says so: only the user knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .errors import Refused
from .format import Contents
from .layer import Layer, Part

GROUPS = (4, 16, 64, 256, 1024, 4096)
GROUP = 256  # what tools rotate by unless they are told otherwise
AS_STORED = "as in the file"
TELLS = frozenset(("maybe-rotated",))  # problems that the user's word answers


def rotation(said: object) -> int | None:
    """What a user said of a file's rotation: None for nothing, else the group; refuses others."""
    if said in (None, "", AS_STORED, 0, "0"):
        return None
    text = str(said)
    if text.isdecimal() and int(text) in GROUPS:
        return int(text)
    raise Refused(
        "rotation-group",
        found=repr(said),
        expected=f"one of {', '.join(map(str, GROUPS))}",
        fix=f"give the group that the weights were rotated by: {GROUP} unless it was changed",
    )


def as_rotated(contents: Contents, group: int = GROUP) -> Contents:
    """The same contents with int8 rows taken as rotated in groups of `group` inputs.

    Layers whose inputs do not divide stay, as the tools leave them.
    """

    def rotated(layer: Layer) -> Layer:
        part = layer.parts[0]
        if layer.scheme != "int8" or len(layer.shape) != 2 or layer.shape[1] % group:
            return layer
        settings = {**part.settings, "convrot_groupsize": group}
        return replace(layer, parts=(Part("int8_convrot", part.tensors, settings, part.rows),))

    kept = tuple(problem for problem in contents.problems if problem.kind not in TELLS)
    return replace(contents, layers=tuple(map(rotated, contents.layers)), problems=kept)


def all_rotated(found: Sequence[Contents], group: int | None) -> list[Contents]:
    """Several files taken so; None leaves them. Refused where none has rows to be turned."""
    if group is None:
        return list(found)
    turned = [as_rotated(contents, group) for contents in found]
    if all(new.layers == old.layers for new, old in zip(turned, found, strict=True)):
        raise Refused(
            "nothing-rotated",
            found=f"no int8 rows of a multiple of {group} inputs without a rotation of their own",
            expected="int8 rows that a tool has rotated without saying so",
            fix="leave the rotation out, or give the group that was used",
        )
    return turned
