"""A plan fills what the user left open and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fusequant.engine.errors import Refused
from fusequant.engine.planned import PLACING, filled, quantizing, setup_of
from fusequant.engine.setup import LIMIT, LOW, Needs, Setup

GIB = 2**30
NEEDS = Needs(vram_bytes=7 * GIB, ram_bytes=GIB, disk_bytes=0, file_bytes=12 * GIB)
PLAN = Setup(
    "fp8_row", NEEDS, backend="torch", keep=("img_in",), max_bytes=9 * GIB,
    mode=LIMIT, limit_bytes=7 * GIB, buffer_bytes=GIB, text_scheme="int8",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The fields of the host's request that a plan knows, and one that it does not."""

    scheme: str = "auto"
    backend: str | None = None
    keep: tuple[str, ...] = ()
    on_failure: str = "full precision"


@dataclass(frozen=True)
class Budgeted(Request):
    """A request that takes a budget too."""

    max_bytes: int | None = None


@dataclass(frozen=True)
class Place:
    """What the VRAM Manager is asked for."""

    mode: str = "auto"
    limit_bytes: int | None = None
    buffer_bytes: int | None = None


def test_what_is_open_comes_from_the_plan() -> None:
    found, names = quantizing(Request(backend="auto"), PLAN)
    assert found == Request("fp8_row", "torch", ("img_in",))
    assert names == ["scheme", "backend", "keep"]


def test_a_budget_is_taken_by_a_request_that_has_one() -> None:
    found, names = quantizing(Budgeted(), PLAN)
    assert found.max_bytes == 9 * GIB and names[-1] == "max_bytes"
    assert quantizing(Budgeted(max_bytes=5), PLAN)[0].max_bytes == 5


def test_what_the_user_set_wins() -> None:
    asked = Request("fp8_row", "kitchen", ("txt_in",))
    assert quantizing(asked, PLAN) == (asked, [])


def test_the_backend_goes_with_the_scheme_of_the_plan() -> None:
    found, names = quantizing(Request("int8"), PLAN)
    assert found == Request("int8", None, ("img_in",)) and names == ["keep"]
    assert quantizing(Request("fp8_row"), PLAN)[0].backend == "torch"


def test_a_text_encoder_takes_its_own_scheme_alone() -> None:
    assert quantizing(Request(), PLAN, text=True) == (Request("int8"), ["scheme"])
    assert quantizing(Request("fp8"), PLAN, text=True) == (Request("fp8"), [])


def test_without_a_plan_nothing_changes() -> None:
    assert quantizing(Request(), None) == (Request(), [])
    assert filled(Place(), None, PLACING) == (Place(), [])


@pytest.mark.parametrize(
    ("asked", "found", "names"),
    [
        (Place(), Place(LIMIT, 7 * GIB, GIB), ["mode", "limit_bytes", "buffer_bytes"]),
        (Place(limit_bytes=5), Place(LIMIT, 5, GIB), ["mode", "buffer_bytes"]),
        (Place(LOW), Place(LOW, 7 * GIB, GIB), ["limit_bytes", "buffer_bytes"]),
        (Place(LOW, 3, 2), Place(LOW, 3, 2), []),
    ],
)
def test_placing_is_filled_field_by_field(asked: Place, found: Place, names: list[str]) -> None:
    assert filled(asked, PLAN, PLACING) == (found, names)


def test_a_plan_that_leaves_something_open_leaves_it_open() -> None:
    open_plan = Setup("int8", NEEDS)
    assert filled(Place(), open_plan, PLACING) == (Place(), [])
    assert quantizing(Request(), open_plan) == (Request("int8"), ["scheme"])


@pytest.mark.parametrize("other", ["int8", {"scheme": "int8"}, object()])
def test_what_is_no_plan_is_refused(other: object) -> None:
    with pytest.raises(Refused) as refused:
        setup_of(other)
    assert refused.value.kind == "plan-unknown"
    with pytest.raises(Refused):
        quantizing(Request(), other)
