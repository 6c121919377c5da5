"""LoHa: W + strength * alpha / r * (w1_a @ w1_b) * (w2_a @ w2_b), two LoRAs elementwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter import Adapter, Misfit, Operands, Shape, Shapes, width

if TYPE_CHECKING:
    import torch

    from ...rows import RowReader


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """w_a (N, r), w_b (r, K); with a core tensor t (r, r, ...): w_a (r, N), w_b (r, C)."""
    for n in "12":
        outer, inner = shapes[f"hada_w{n}_a"], shapes[f"hada_w{n}_b"]
        core = shapes.get(f"hada_t{n}")
        if core:
            ranks = (outer[0], inner[0]) == core[:2]
            found = (outer[1], inner[1] * width(core[1:]))
        else:
            ranks = outer[1] == inner[0]
            found = (outer[0], width(inner))
        if not ranks:
            return Misfit("lora-rank-mismatch", f"hada_w{n}_a and hada_w{n}_b of one rank")
        if found != (shape[0], width(shape)):
            return Misfit("lora-shape-mismatch", f"factors of a product of shape {shape}")
    if ("hada_t1" in shapes) != ("hada_t2" in shapes):
        return Misfit("lora-partner-missing", "hada_t1 and hada_t2, or neither")
    return None


def _factors(operands: Operands, n: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, r) and (r, K) of one of the two products."""
    outer = operands.load(f"hada_w{n}_a")
    inner = operands.load(f"hada_w{n}_b").flatten(1)
    if not operands.has(f"hada_t{n}"):
        return outer, inner
    core = operands.load(f"hada_t{n}")
    return outer.T, core.movedim(1, -1).matmul(inner).movedim(-1, 1).flatten(1)


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """delta[rows] = (a1[rows] @ b1) * (a2[rows] @ b2); alpha is over the rank of the first pair."""
    from ..compose import compose

    (a1, b1), (a2, b2) = _factors(operands, "1"), _factors(operands, "2")

    def delta(start: int, stop: int, base: torch.Tensor) -> torch.Tensor:
        return (a1[start:stop] @ b1).mul_(a2[start:stop] @ b2)

    return compose(operands, reader, shape, delta, operands.scale(operands.shape("hada_w1_b")[0]))


ADAPTER = Adapter(
    name="loha",
    needs=((("hada_w1_a",),), (("hada_w1_b",),), (("hada_w2_a",),), (("hada_w2_b",),)),
    takes=("hada_t1", "hada_t2", "alpha", "dora_scale", "magnitude"),
    fits=fits,
    over=over,
)
