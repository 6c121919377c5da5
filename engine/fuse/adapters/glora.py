"""GLoRA: W + strength * alpha / r * (W @ a1 @ a2 + b1 @ b2); older files swap 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter import Adapter, Misfit, Operands, Shape, Shapes, width

if TYPE_CHECKING:
    import torch

    from ...rows import RowReader


def _rank(shapes: Shapes, shape: Shape) -> tuple[int, bool] | None:
    """(rank, older form), or None where the four tensors have no common rank.

    Today's: a1 (C, r), a2 (r, C), b1 (N, r), b2 (r, K).
    Older: a1 (r, K), a2 (K, r), b1 (r, K), b2 (N, r).
    """
    a1, a2, b1, b2 = (shapes[role] for role in ("a1", "a2", "b1", "b2"))
    older = b2[1] == b1[0] == a1[0] == a2[1]
    today = b2[0] == b1[1] == a1[1] == a2[0]
    if today and not (older and a2[0] == shape[0] == shape[1]):
        return a2[0], False
    return (a1[0], True) if older else None


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """Both products have the layer's shape; a1 and a2 act on its input channels."""
    if any(len(shapes[role]) < 2 for role in ("a1", "a2", "b1", "b2")) or len(shape) < 2:
        return Misfit("lora-shape-mismatch", "matrices a1, a2, b1, b2 and a layer with inputs")
    found = _rank(shapes, shape)
    if found is None:
        return Misfit("lora-rank-mismatch", "a1, a2, b1 and b2 of one rank")
    rank, older = found
    n, k, channels = shape[0], width(shape), shape[1]
    wanted = (
        {"a1": (rank, k), "a2": (k, rank), "b1": (rank, k), "b2": (n, rank)}
        if older
        else {"a1": (channels, rank), "a2": (rank, channels), "b1": (n, rank), "b2": (rank, k)}
    )
    if any((shapes[role][0], width(shapes[role])) != wanted[role] for role in wanted):
        return Misfit("lora-shape-mismatch", ", ".join(f"{r} {s}" for r, s in wanted.items()))
    return None


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """delta[rows] = W[rows] @ a1 @ a2 + b1[rows] @ b2, W[rows] as they are before this adapter."""
    import torch

    from ..compose import compose

    shapes = {role: operands.shape(role) for role in ("a1", "a2", "b1", "b2")}
    rank, older = _rank(shapes, shape) or (1, False)
    a1, a2, b1, b2 = (operands.load(role).flatten(1) for role in ("a1", "a2", "b1", "b2"))
    if older:
        a1, a2, b1, b2 = a2, a1, b2, b1
    channels = a1.shape[0]

    def delta(start: int, stop: int, base: torch.Tensor) -> torch.Tensor:
        by_channel = base.reshape(stop - start, channels, -1).movedim(1, -1)
        turned = (by_channel @ a1 @ a2).movedim(-1, 1).flatten(1)
        return torch.addmm(turned, b1[start:stop], b2)

    return compose(operands, reader, shape, delta, operands.scale(rank))


ADAPTER = Adapter(
    name="glora",
    needs=((("a1",),), (("a2",),), (("b1",),), (("b2",),)),
    takes=("alpha", "dora_scale", "magnitude"),
    fits=fits,
    over=over,
)
