"""Rows of a weight and a scheme in, rows that the scheme rounds with a smaller error out.

Nothing here knows how a scheme stores numbers: the rows are changed before they are quantized, and
judged by what quantizing and dequantizing makes of them. Everything is float32. With the second
moment H = diag(d) + sum of u u.T of a layer's inputs x, an error e (k) of a row of the weight moves
that output by e.T H e on average, squared; that is what gets smaller.

search   Numbers beyond a share of the largest one of their unit (row, group, tile, tensor) are cut
         off, so that the scale of the others is finer; the best of a few shares for each unit.
         Codes of 8 bits gain nothing from it and are left as they are.
learned  After the search, the inputs of each group are rounded in four runs (160, 64, 24 and 8 of
         256). After each run the numbers that are still free take up the errors e_done so far, as
         far as H couples them: e_free = -H_ff^-1 H_fd e_done. In a rotated scheme H is rotated
         too, and inputs that stand out couple everything in their group; without a rotation only
         the u couple.

Each row is taken in the form with the smallest e.T H e, the plain one included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..kernels import ops
from ..kernels.hadamard import hadamard
from .insight import LayerInsight
from .rounding_names import LEARNED, NEAREST, SEARCH
from .scheme import Block, Group, Row, Scheme, Tensor

GROUP = 256  # inputs that are rounded in one order, where no rotation says otherwise
RUNS = (160, 64, 24, 8)  # of GROUP
DAMPING = 0.01  # of the mean of d, added to d: no input counts nothing
# shares of the largest number that are tried for codes of 4 bits; those of 8 gain nothing, measured
SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)


class Moment:
    """H = diag(d) + sum of u u.T of the inputs of a layer, seen as the scheme rounds them."""

    def __init__(self, insight: LayerInsight, k: int, device: torch.device) -> None:
        inputs, directions = insight.inputs, insight.directions
        inputs = torch.ones(k) if inputs is None else inputs.float()
        self.u = torch.zeros(0, k) if directions is None else directions.float()
        self.d = (inputs - self.u.square().sum(0)).clamp_(min=0).add_(DAMPING * inputs.mean())
        self.u, self.d = self.u.to(device), self.d.to(device)

    def of(self, error: torch.Tensor) -> torch.Tensor:
        """e.T H e of each row of errors (rows, k)."""
        return error.square() @ self.d + (error @ self.u.T).square().sum(1)


@dataclass(frozen=True)
class _Run:
    """How free numbers take up errors once columns [0, done) of each group are rounded.

    `own` (groups, done, free) = H_df H_ff^-1 of the part of H within a group, None where that is a
    diagonal; `reach` (r, groups, free) = u H_ff^-1; `inner` (r, r) = (1 + u H_ff^-1 u.T)^-1, which
    joins both (Woodbury).
    """

    done: int
    own: torch.Tensor | None
    reach: torch.Tensor
    inner: torch.Tensor


class Coupling:
    """What H couples, prepared for every run of roundings; `size` inputs are a group."""

    def __init__(self, moment: Moment, rotation: int | None) -> None:
        k = len(moment.d)
        self.size = rotation or max(size for size in range(1, GROUP + 1) if k % size == 0)
        u = ops.rotate_groups(moment.u, rotation) if rotation and len(moment.u) else moment.u
        self._u = u.reshape(len(u), -1, self.size)
        groups = moment.d.reshape(-1, self.size)
        self.runs = [self._run(groups, done, bool(rotation)) for done in self._ends()]

    def _ends(self) -> list[int]:
        """The columns of a group that are rounded after each run but the last."""
        ends = [sum(RUNS[: i + 1]) * self.size // GROUP for i in range(len(RUNS) - 1)]
        return [end for end in dict.fromkeys(ends) if 0 < end < self.size]

    def _run(self, groups: torch.Tensor, done: int, rotated: bool) -> _Run:
        u, own = self._u[..., done:], None
        if rotated:
            turn = hadamard(self.size, groups.device)
            whole = torch.matmul(turn * groups[:, None], turn)
            inverse = torch.linalg.inv(whole[:, done:, done:])
            own = torch.matmul(whole[:, :done, done:], inverse)
            reach = torch.einsum("rgf,gfh->rgh", u, inverse)
        else:
            reach = u / groups[:, done:]
        inner = torch.eye(len(u), device=groups.device) + torch.einsum("rgf,sgf->rs", reach, u)
        return _Run(done, own, reach, torch.linalg.inv(inner))

    def taken_up(self, run: _Run, error: torch.Tensor) -> torch.Tensor:
        """H_ff^-1 H_fd e of errors (groups, rows, done) -> (groups, rows, free)."""
        along = torch.einsum("rgd,gnd->nr", self._u[..., : run.done], error)
        moved = torch.einsum("nr,rgf->gnf", along, run.reach)
        if run.own is not None:
            moved += torch.matmul(error, run.own)
        left = torch.einsum("rgf,gnf->nr", self._u[..., run.done :], moved)
        return moved.sub_(torch.einsum("nr,rgf->gnf", left @ run.inner, run.reach))


class Rounder:
    """How the rows of one layer with `k` inputs are rounded; threads may share it.

    `dtype`: as in Scheme.pieces. What is not in the insight counts alike and couples nothing.
    """

    def __init__(
        self,
        scheme: Scheme,
        k: int,
        how: str,
        dtype: str,
        insight: LayerInsight,
        device: torch.device | str = "cpu",
    ) -> None:
        self._scheme, self._dtype, self._device = scheme, dtype, torch.device(device)
        self._rotation = scheme.rotated(k)
        self._moment = Moment(insight, k, self._device)
        self._shares: tuple[float, ...] = SHARES if scheme.bits < 8 else ()
        self._one_scale = isinstance(scheme.granularity, Tensor)
        self._tied = scheme.granularity.size if isinstance(scheme.granularity, Block) else 1
        coupled = how == LEARNED and (insight.inputs is not None or insight.directions is not None)
        self._coupling = Coupling(self._moment, self._rotation) if coupled else None

    def __call__(self, rows: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        """rows (r, k) -> float32 rows for `scheme.quantize(rows, whole, dtype)`."""
        rows = rows.to(self._device, torch.float32)
        if not bool(torch.isfinite(rows).all()):
            return rows  # whoever sees the scale refuses them
        turned = self._turn(rows)
        if self._one_scale and whole is not None:
            limit = whole.to(turned)
        else:
            limit = self._over_units(turned.abs(), torch.amax)
        forms: list[Callable[[], torch.Tensor]] = []
        if self._shares:
            limit = self._searched(turned, limit, whole)
            forms.append(lambda: torch.clamp(turned, -limit, limit))
        if self._coupling is not None:
            forms.append(lambda: self._learned(turned, limit, whole))
        best, error = rows, self._error(turned, turned, whole)
        for form in forms:
            other = form()
            found = self._error(other, turned, whole)
            better = self._together(found) < self._together(error)
            better = better.repeat_interleave(self._tied)[: len(rows)]
            best = torch.where(better[:, None], self._turn(other), best)
            error = torch.where(better, found, error)
        return best

    def _turn(self, rows: torch.Tensor) -> torch.Tensor:
        """To the numbers that are rounded, or back."""
        return ops.rotate_groups(rows, self._rotation) if self._rotation else rows

    def _stored(self, turned: torch.Tensor, whole: torch.Tensor | None) -> torch.Tensor:
        """What quantizing makes of rows that are turned, turned."""
        rows, scheme = self._turn(turned), self._scheme
        made = scheme.quantize(rows, whole, self._dtype)
        settings = {**scheme.config(*rows.shape), **scheme.settings}
        if scheme.turned is not None and self._rotation:
            return scheme.turned(made, settings)
        return self._turn(scheme.dequantize(made, settings))

    def _error(
        self, turned: torch.Tensor, truth: torch.Tensor, whole: torch.Tensor | None
    ) -> torch.Tensor:
        """e.T H e of each row of what quantizing makes of `turned` against `truth`, both turned."""
        return self._moment.of(self._turn(self._stored(turned, whole) - truth))

    def _together(self, errors: torch.Tensor) -> torch.Tensor:
        """(rows) -> sums over the rows that share a scale."""
        padded = torch.nn.functional.pad(errors, (0, -len(errors) % self._tied))
        return padded.reshape(-1, self._tied).sum(1)

    def _over_units(
        self, values: torch.Tensor, reduce: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        """`reduce` over each unit that has a scale, in a shape that fits `values` (rows, k)."""
        (rows, k), unit = values.shape, self._scheme.granularity
        if isinstance(unit, Row):
            return reduce(values, 1, keepdim=True)
        if isinstance(unit, Group):
            groups = torch.nn.functional.pad(values, (0, -k % unit.size))
            found = reduce(groups.reshape(rows, -1, unit.size), 2)
            return found.repeat_interleave(unit.size, 1)[:, :k]
        if isinstance(unit, Block):
            pad = (0, -k % unit.size, 0, -rows % unit.size)
            tiles = torch.nn.functional.pad(values, pad)
            tiles = tiles.reshape(tiles.shape[0] // unit.size, unit.size, -1, unit.size)
            found = reduce(tiles, (1, 3)).repeat_interleave(unit.size, 0)[:rows]
            return found.repeat_interleave(unit.size, 1)[:, :k]
        return reduce(values, (0, 1), keepdim=True)

    def _searched(
        self, turned: torch.Tensor, limit: torch.Tensor, whole: torch.Tensor | None
    ) -> torch.Tensor:
        """The limit of each unit whose error is smallest, coupling left out."""
        counts = self._moment.d + self._moment.u.square().sum(0)
        if self._rotation:  # a rotation spreads over a group what its inputs count
            means = counts.reshape(-1, self._rotation).mean(1)
            counts = means.repeat_interleave(self._rotation)

        def error_of(cut: torch.Tensor) -> torch.Tensor:
            stored = self._stored(torch.clamp(turned, -cut, cut), whole)
            return self._over_units((stored - turned).square() * counts, torch.sum)

        best, error = limit, error_of(limit)
        for share in self._shares:
            found = error_of(share * limit)
            best = torch.where(found < error, share * limit, best)
            error = torch.minimum(found, error)
        return best

    def _learned(
        self, turned: torch.Tensor, limit: torch.Tensor, whole: torch.Tensor | None
    ) -> torch.Tensor:
        """Turned rows whose numbers lie where the scheme puts them, errors taken up by others."""
        coupling = self._coupling
        if coupling is None:
            return turned
        rows = len(turned)

        def grouped(values: torch.Tensor) -> torch.Tensor:
            """(rows, k) -> (groups, rows, size)."""
            return values.reshape(rows, -1, coupling.size).transpose(0, 1)

        def flat(values: torch.Tensor) -> torch.Tensor:
            return values.transpose(0, 1).reshape(rows, -1)

        goal, top = grouped(turned), grouped(limit.expand_as(turned))
        # the largest number of a unit stays, because its scale comes from it
        held = (goal.abs() >= top) & (not self._one_scale)
        start, now = 0, torch.clamp(goal, -top, top)
        for run in coupling.runs:
            stored = grouped(self._stored(flat(now), whole))
            done, fresh = slice(run.done), slice(start, run.done)
            free = slice(run.done, None)
            now[..., fresh] = stored[..., fresh]
            wanted = goal[..., free] - coupling.taken_up(run, now[..., done] - goal[..., done])
            wanted = torch.clamp(wanted, -top[..., free], top[..., free])
            now[..., free] = torch.where(held[..., free], now[..., free], wanted)
            start = run.done
        return flat(now)


def rounder(
    scheme: Scheme,
    k: int,
    how: str,
    dtype: str,
    insight: LayerInsight | None,
    device: torch.device | str = "cpu",
) -> Rounder | None:
    """The rounder of a layer, or None: to the nearest, as `scheme.quantize` does by itself."""
    if how == NEAREST or scheme.name == "none" or (how == SEARCH and scheme.bits >= 8):
        return None
    return Rounder(scheme, k, how, dtype, insight or LayerInsight(), device)
