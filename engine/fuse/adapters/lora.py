"""LoRA and LoCon: W + strength * alpha / r * up @ down, up (N, r), down (r, K); DoRA on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter import Adapter, Misfit, Operands, Shape, Shapes, width

if TYPE_CHECKING:
    import torch

    from ...rows import RowReader

ENLARGES = (
    "it enlarges the layer (a control LoRA, for depth or edges): convert the full control model, "
    "or load this LoRA in ComfyUI after the model"
)


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """up (N, r), down (r, K) or, with a core tensor, up (N, m), mid (m, r, ...), down (r, C)."""
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    inner = mid[0] if mid else down[0]
    if len(up) < 2 or len(down) < 2 or width(up) != inner or (mid and mid[1] != down[0]):
        return Misfit("lora-rank-mismatch", "up (N, r) and down (r, K) with the same rank r")
    columns = width(down) * (width(mid[1:]) if mid else 1)
    if (up[0], columns) != (shape[0], width(shape)):
        wanted = f"up ({shape[0]}, r) and down (r, {width(shape)}) for {shape}"
        if "reshape" in shapes:
            return Misfit("lora-reshapes-layer", wanted, fix=ENLARGES)
        return Misfit("lora-shape-mismatch", wanted)
    return None


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """rows += strength * scale * up[rows] @ down.

    With a core tensor: down (m, C, h, w) = sum over r of mid (m, r, h, w) * down (r, C).
    """
    from ..compose import decomposed

    up = operands.load("up").flatten(1)
    down = operands.load("down").flatten(1)
    scale = operands.scale(down.shape[0])
    if operands.has("mid"):
        mid = operands.load("mid")
        down = mid.movedim(1, -1).matmul(down).movedim(-1, 1).flatten(1)
    if operands.has("dora_scale") or operands.has("magnitude"):
        return decomposed(operands, reader, shape, lambda a, b, base: up[a:b] @ down, scale)
    factor = operands.strength * scale

    def rows(start: int, stop: int) -> torch.Tensor:
        base = reader(start, stop)
        base.addmm_(up[start:stop], down, alpha=factor)
        return base

    return rows


ADAPTER = Adapter(
    name="lora",
    needs=((("up",),), (("down",),)),
    takes=("mid", "alpha", "dora_scale", "magnitude", "reshape"),
    fits=fits,
    over=over,
)
