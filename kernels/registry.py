"""A call of an op in, the backend that takes it out; if none does, every reason in one error."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import torch

from . import order
from .constraints import Constraint

log = logging.getLogger(__name__)

_forced: ContextVar[str | None] = ContextVar("fusequant_backend", default=None)
_noted: ContextVar[list[tuple[str, str]] | None] = ContextVar("fusequant_noted", default=None)


# how a backend's code was tested, beside what it says of itself
RUN = "run on a CPU"
SIGNATURE = "checked against recorded signatures"


class NoBackend(Exception):  # noqa: N818 - it is an answer, not a fault of ours
    """No backend takes a call of `op`. `reasons` maps each that was asked to why it refused.

    `asked_for` is the backend that was forced, if one was.
    """

    def __init__(self, op: str, reasons: Mapping[str, str], asked_for: str | None = None) -> None:
        self.op, self.reasons, self.asked_for = op, dict(reasons), asked_for
        if asked_for:
            told = (
                f"backend {asked_for}, which was asked for, cannot run {op}: {reasons[asked_for]}"
            )
        else:
            each = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
            told = f"no backend can run {op}: {each}"
        super().__init__(told)


@dataclass(frozen=True)
class Claim:
    """An op that a backend runs, and what it asks of each argument.

    `order` overrides the backend's order per device type. `error` bounds a linear: its relative
    Frobenius error against float64 `x @ dequantize(weight).T + bias`, for x from N(0, 1).
    """

    op: str
    run: Callable[..., Any]
    needs: Mapping[str, tuple[Constraint, ...]] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)
    error: float | None = None

    def check(self, call: Mapping[str, Any]) -> str | None:
        """The first reason why this claim does not take the call's arguments, or None."""
        for name, rules in self.needs.items():
            for rule in rules:
                reason = rule.check(call[name])
                if reason:
                    return f"{name} {reason}"
        return None

    def describe(self) -> str:
        """What the arguments must be, in one line; empty when anything goes."""
        return "; ".join(
            f"{name}: {', '.join(rule.describe() for rule in rules)}"
            for name, rules in self.needs.items()
        )


@dataclass(frozen=True)
class Backend:
    """A set of implementations of ops. A lower `order` is asked first.

    available() -> None, or the reason why nothing of this backend can run in this process.
    Several claims for one op are tried as they are listed. `proven` says how its code was tested
    before it came here; on what device it was measured stands in the results, not here.
    """

    name: str
    title: str
    order: int
    claims: tuple[Claim, ...]
    available: Callable[[], str | None] = lambda: None
    proven: str = RUN


@dataclass(frozen=True)
class BackendFacts:
    """A row of the `fusequant backends` table; `ops` maps an op to its claims' needs in words."""

    name: str
    title: str
    refusal: str | None
    ops: Mapping[str, tuple[str, ...]]
    proven: str


@cache
def backends() -> Mapping[str, Backend]:
    """Every backend in `backends/` by name, each module's constant BACKEND."""
    folder = importlib.import_module(".backends", __package__)
    found: dict[str, Backend] = {}
    for info in sorted(pkgutil.iter_modules(folder.__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            part: Backend = importlib.import_module(f"{folder.__name__}.{info.name}").BACKEND
            found[part.name] = part
    return MappingProxyType(found)


@cache
def refusal(name: str) -> str | None:
    """Why the backend cannot run at all in this process, or None. Asked once."""
    return backends()[name].available()


def describe_backends() -> tuple[BackendFacts, ...]:
    """Every backend, why it is not available if so, and the ops that it claims with their needs."""
    rows = []
    for backend in sorted(backends().values(), key=lambda backend: backend.order):
        ops: dict[str, tuple[str, ...]] = {}
        for claim in backend.claims:
            ops[claim.op] = (*ops.get(claim.op, ()), claim.describe())
        why = refusal(backend.name)
        rows.append(BackendFacts(backend.name, backend.title, why, ops, backend.proven))
    return tuple(rows)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Have `name` run every op inside the block, or refuse; None gives the choice back.

    The choice belongs to this context: threads started inside do not inherit it, unless they run in
    a copy of it (`contextvars.copy_context().run`).
    """
    if name is not None and name not in backends():
        there = f"there are {', '.join(backends())}"
        raise NoBackend("anything", {name: there}, asked_for=name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def noted() -> Iterator[list[tuple[str, str]]]:
    """Inside the block, a list of (op, backend) of every call in the order of the calls."""
    found: list[tuple[str, str]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


@cache
def _candidates(op: str, device: str) -> tuple[tuple[Backend, Claim], ...]:
    claims = [
        (backend, claim)
        for backend in backends().values()
        for claim in backend.claims
        if claim.op == op
    ]
    return tuple(sorted(claims, key=lambda pair: pair[1].order.get(device, pair[0].order)))


@cache
def _ranked(op: str, ranking: tuple[str, ...], device: str) -> tuple[tuple[Backend, Claim], ...]:
    """Those that were measured, fastest first, before the others in their own order."""
    places = {name: place for place, name in enumerate(ranking)}
    last = len(places)
    return tuple(sorted(_candidates(op, device), key=lambda pair: places.get(pair[0].name, last)))


def choose(op: str, call: Mapping[str, Any]) -> Claim:
    """The first claim for `op` that takes the arguments; the first of them gives the device.

    First comes what was measured to be fastest for so many rows on such a device (order.py), then
    the backends' own order. Raises NoBackend with each backend's reason.
    """
    first: torch.Tensor = next(iter(call.values()))
    forced = _forced.get()
    reasons: dict[str, str] = {}
    ranking = order.ranking(op, first.device, first.shape[0] if first.ndim else 1)
    for backend, claim in _ranked(op, ranking, first.device.type):
        if forced is not None and backend.name != forced:
            continue
        reason = refusal(backend.name) or claim.check(call)
        if reason is None:
            log.debug("%s: %s", op, backend.name)
            noted_here = _noted.get()
            if noted_here is not None:
                noted_here.append((op, backend.name))
            return claim
        told = reasons.get(backend.name)
        reasons[backend.name] = f"{told}, or {reason}" if told and told != reason else reason
    asked = [forced] if forced is not None else list(backends())
    missing = {name: f"has no {op}" for name in asked if name not in reasons}
    raise NoBackend(op, reasons | missing, asked_for=forced)


def run(op: str, **call: Any) -> Any:
    """Run `op` on the backend that takes these arguments."""
    return choose(op, call).run(**call)
