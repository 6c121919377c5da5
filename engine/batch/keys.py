"""The keys of a recipe, one row each: how the value is read and which field of Request it fills.

An option that `pipeline.Request` gains becomes one more row of KEYS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..choose import dtype_of
from ..errors import Refused
from ..fuse.strength import with_strength
from ..rotated import GROUP, rotation
from ..rounding_names import ROUNDINGS, known_rounding
from .entry import Trouble


@dataclass(frozen=True)
class Key:
    """`read(value)` raises ValueError for what is not `expected`."""

    name: str
    expected: str
    read: Callable[[Any], Any]
    field: str | None = None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError
    return value


def _line(value: object) -> str:
    if not _text(value).isprintable():
        raise ValueError
    return _text(value)


def _texts(value: object) -> tuple[str, ...]:
    """One text or a list of them."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError
    return tuple(_text(one) for one in values)


def _patterns(value: object) -> tuple[str, ...]:
    return () if value == [] else _texts(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _strength(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _dtype(value: object) -> str:
    return dtype_of(_text(value))


def _rotated(value: object) -> int | None:
    """The group of inputs that int8 rows were rotated in; `true` is the usual one."""
    return rotation(GROUP if value is True else None if value is False else value)


def _rounding(value: object) -> str:
    known_rounding(_text(value))
    return _text(value)


def _loras(value: object) -> tuple[Mapping[str, Any], ...]:
    """Texts `FILE[:STRENGTH]` or tables -> tables with `file` and what else was said."""
    values = value if isinstance(value, list) else [value]
    found = []
    for one in values:
        if isinstance(one, dict):
            found.append(_table(one))
        else:
            path, strength = with_strength(_text(one))
            found.append({"file": path, "strength": strength})
    return tuple(found)


def _table(lora: Mapping[str, object]) -> Mapping[str, Any]:
    troubles: list[Trouble] = []
    found = read_table(lora, LORA_KEYS, "", "a LoRA", troubles)
    if troubles:
        raise troubles[0].refusal
    if "file" not in found:
        raise ValueError
    return found


LORA_KEYS = (
    Key("file", "the path of a LoRA", _text),
    Key("strength", "a number such as 0.8", _strength),
    Key("rslora", "true or false", _flag),
)
NAME = Key("name", "a text; {stem} and {scheme} may stand in it", _line)
# what each file of a recipe may have for itself
KEYS = (
    Key("source", "a path or pattern, or a list of them", _texts),
    Key("loras", 'a list of "FILE[:STRENGTH]" or { file = "FILE", strength = 0.8 }', _loras),
    Key("rslora", "true or false", _flag),
    Key("out", "a path; {stem}, {name}, {scheme} and {part} may stand in it", _text),
    Key("scheme", "a name or a list of names, see `fusequant backends`", _texts, "scheme"),
    Key("keep", "a list of patterns such as final_layer*", _patterns, "keep"),
    Key("dtype", "a dtype such as bf16", _dtype, "dtype"),
    Key("device", "a device such as cpu or cuda", _text, "device"),
    Key("rotated", "true, or the group of the rotation: 256", _rotated, "rotated"),
    Key("format", "who the file is for: core or lightx2v", _text, "format"),
    Key("by_block", "true or false", _flag, "by_block"),
    Key("rounding", f"one of {', '.join(ROUNDINGS)}", _rounding, "rounding"),
)
PARTS = ("high", "low")  # a part under its own name; any other under [recipe.parts.NAME]


def read_table(
    table: Mapping[str, object],
    keys: Sequence[Key],
    recipe: str,
    where: str,
    troubles: list[Trouble],
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """The values of a table by key; `others` are keys that the caller reads itself."""
    known = {key.name: key for key in keys}
    found = {}
    for name, value in table.items():
        if name in others:
            continue
        if name not in known:
            troubles.append(Trouble(recipe, _unknown(name, where, (*known, *others))))
            continue
        try:
            found[name] = known[name].read(value)
        except ValueError:
            troubles.append(Trouble(recipe, _not_a(known[name], value, where)))
        except Refused as refusal:
            troubles.append(Trouble(recipe, refusal))
    return found


def _unknown(name: str, where: str, known: Sequence[str]) -> Refused:
    near = get_close_matches(name, known, n=2, cutoff=0.5)
    return Refused(
        "unknown-key",
        found=f"`{name}` in {where}",
        expected=f"one of {', '.join(known)}",
        fix=f"write {' or '.join(near)}" if near else "take it out",
    )


def _not_a(key: Key, value: object, where: str) -> Refused:
    shown = repr(value)
    return Refused(
        "recipe-value",
        found=f"{key.name} = {shown if len(shown) < 80 else shown[:77] + '...'} in {where}",
        expected=key.expected,
        fix=f"correct {key.name}",
    )
