"""LoKr: W + strength * scale * kron(w1, w2), each factor whole or as a product of two.

scale = alpha / r where a factor is a product of rank r (the second one's, if both are), else 1.
The product runs over rows and channels, and the kernel stays as it is, in any number of dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter import READ_STEP_BYTES, Adapter, Misfit, Operands, Shape, Shapes, width

if TYPE_CHECKING:
    import torch

    from ...rows import RowReader


def _product_shape(shapes: Shapes, n: str) -> Shape | None:
    """Shape of a factor as rows and columns, or None where its parts have different ranks."""
    whole = shapes.get(f"lokr_w{n}")
    if whole:
        return whole[0], width(whole)
    outer, inner = shapes[f"lokr_w{n}_a"], shapes[f"lokr_w{n}_b"]
    core = shapes.get("lokr_t2") if n == "2" else None
    if core:
        ranks = (outer[0], inner[0]) == core[:2]
        return (outer[1], inner[1] * width(core[1:])) if ranks else None
    return (outer[0], width(inner)) if outer[1] == inner[0] else None


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """w1 (a, b), w2 (N / a, K / b) or (N / a, C / b, h, w)."""
    first, second = _product_shape(shapes, "1"), _product_shape(shapes, "2")
    if first is None or second is None:
        return Misfit("lora-rank-mismatch", "lokr_w_a and lokr_w_b of one rank")
    if (first[0] * second[0], first[1] * second[1]) != (shape[0], width(shape)):
        return Misfit("lora-shape-mismatch", f"factors of a Kronecker product of shape {shape}")
    return None


def _product(operands: Operands, n: str) -> torch.Tensor:
    """A factor from its two parts: a @ b, or with a core tensor t (r, r, ...) as in LoHa."""
    outer, inner = operands.load(f"lokr_w{n}_a"), operands.load(f"lokr_w{n}_b").flatten(1)
    if n == "2" and operands.has("lokr_t2"):
        core = operands.load("lokr_t2")
        return outer.T @ core.movedim(1, -1).matmul(inner).movedim(-1, 1).flatten(1)
    return outer @ inner


def _rows_of_second(operands: Operands) -> RowReader:
    """Rows of w2; it can be as large as the layer itself, and is then read as it is needed."""
    if not operands.has("lokr_w2"):
        product = _product(operands, "2")
        return lambda start, stop: product[start:stop]
    shape = operands.shape("lokr_w2")
    if 4 * shape[0] * width(shape) > READ_STEP_BYTES:
        return lambda start, stop: operands.rows("lokr_w2", start, stop).flatten(1)
    whole = operands.load("lokr_w2").flatten(1)
    return lambda start, stop: whole[start:stop]


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """Row i * p + j of kron(w1 (a, b), w2 (p, q)) is w1[i] x w2[j], (b, q) in one line."""
    import torch

    from ..compose import compose

    first = operands.load("lokr_w1") if operands.has("lokr_w1") else _product(operands, "1")
    second = _rows_of_second(operands)
    p = shape[0] // first.shape[0]

    def delta(start: int, stop: int, base: torch.Tensor) -> torch.Tensor:
        found = []
        for i in range(start // p, -(-stop // p)):
            low, high = max(start, i * p), min(stop, (i + 1) * p)
            part = second(low - i * p, high - i * p)
            found.append((first[i].reshape(1, -1, 1) * part[:, None]).flatten(1))
        return found[0] if len(found) == 1 else torch.cat(found)

    ranked = next((n for n in "21" if not operands.has(f"lokr_w{n}")), None)
    scale = operands.scale(operands.shape(f"lokr_w{ranked}_b")[0]) if ranked else 1.0
    return compose(operands, reader, shape, delta, scale)


ADAPTER = Adapter(
    name="lokr",
    needs=(
        (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")),
        (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b")),
    ),
    takes=("lokr_t2", "alpha", "dora_scale", "magnitude"),
    fits=fits,
    over=over,
)
