"""What the user asks for and a plan in, both together out: what the user set wins.

A field is open where it has one of the values that nodes have by default; a plan fills open ones.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import Refused
from .setup import Setup

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OPEN: tuple[object, ...] = (None, "auto", ())
QUANTIZING = ("scheme", "backend", "keep", "max_bytes")
PLACING = ("mode", "limit_bytes", "buffer_bytes")

Asked = TypeVar("Asked", bound="DataclassInstance")


def setup_of(plan: object) -> Setup | None:
    """The setup that a FQ_PLAN socket carries, None for a socket without a link."""
    if plan is None or isinstance(plan, Setup):
        return plan
    raise Refused(
        "plan-unknown",
        found=f"a {type(plan).__name__} as plan",
        expected="a plan of the GPU Advisor",
        fix="connect the plan output of GPU Advisor, or take the link away",
    )


def filled(asked: Asked, setup: Setup | None, names: tuple[str, ...]) -> tuple[Asked, list[str]]:
    """(`asked`, a dataclass, with its open fields of `names` as `setup` has them; their names)."""
    if setup is None:
        return asked, []
    there = {field.name for field in fields(asked)}
    taken: dict[str, Any] = {
        name: getattr(setup, name)
        for name in names
        if name in there and getattr(asked, name) in OPEN and getattr(setup, name) not in OPEN
    }
    return replace(asked, **taken), list(taken)


def quantizing(asked: Asked, plan: object, text: bool = False) -> tuple[Asked, list[str]]:
    """What is asked of Quantize Model, filled from `plan`; and the names of what came from it.

    The plan's backend goes with its scheme: with another scheme it is left out. A text encoder
    takes the plan's scheme for text encoders and nothing else.
    """
    setup = setup_of(plan)
    if setup is None:
        return asked, []
    if text:
        return filled(asked, replace(setup, scheme=setup.text_scheme), ("scheme",))
    own = getattr(asked, "scheme", "auto")
    alien = own not in (*OPEN, setup.scheme)
    return filled(asked, setup, tuple(n for n in QUANTIZING if n != "backend" or not alien))
