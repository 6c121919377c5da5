"""OFT and BOFT: rows of W turned among themselves by blocks R = (I + Q) (I - Q)^-1, Q = B - B^T.

oft_blocks B (k, b, b) is OFT, (m, k, b, b) is BOFT with m butterfly stages; alpha limits |Q|.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter import READ_STEP_BYTES, Adapter, Misfit, Operands, Shape, Shapes, read_step, width

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ...rows import RowReader


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """k * b = N; in BOFT a group of 2^(m-1) * b rows must divide N, and b is even."""
    blocks = shapes["oft_blocks"]
    good = len(blocks) in (3, 4) and blocks[-1] == blocks[-2]
    good = good and blocks[-3] * blocks[-1] == shape[0]
    if good and len(blocks) == 4:
        good = blocks[-1] % 2 == 0 and shape[0] % (2 ** (blocks[0] - 1) * blocks[-1]) == 0
    if good and "rescale" in shapes:
        good = shapes["rescale"][0] in (1, shape[0]) and width(shapes["rescale"]) == 1
    return None if good else Misfit("lora-shape-mismatch", f"blocks that cover {shape[0]} rows")


def _rotations(operands: Operands, alpha: float) -> torch.Tensor:
    """R of every block, float32, the shape of oft_blocks."""
    import torch

    blocks = operands.load("oft_blocks")
    q = blocks - blocks.transpose(-1, -2)
    norm = float(torch.linalg.vector_norm(q)) + 1e-8
    if 0 < alpha < norm:
        q *= alpha / norm
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    inverse: torch.Tensor = torch.linalg.inv(eye - q)
    return (eye + q) @ inverse


def _mixed(
    reader: RowReader, coefficients: torch.Tensor, first: int, start: int, base: torch.Tensor
) -> torch.Tensor:
    """coefficients (c, g) @ rows [first, first + g); `base` holds the rows from `start`."""
    count = coefficients.shape[1]
    if start <= first and first + count <= start + base.shape[0]:
        return coefficients @ base[first - start : first - start + count]
    total = base.new_zeros(coefficients.shape[0], base.shape[1])
    step = read_step(base.shape[1])
    for low in range(0, count, step):
        high = min(count, low + step)
        total.addmm_(coefficients[:, low:high], reader(first + low, first + high))
    return total


def _oft(operands: Operands, rotations: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
    """Rows of strength * (R^T - I) within one block; strength goes in twice, as in ComfyUI."""
    import torch

    size = rotations.shape[-1]
    eye = torch.eye(size, device=rotations.device)

    def coefficients(low: int, high: int) -> torch.Tensor:
        within = slice(low % size, low % size + high - low)
        return operands.strength * (rotations[low // size] - eye)[:, within].T

    return coefficients


def _boft(operands: Operands, rotations: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
    """Coefficients of rows within one butterfly group: rescale * S_m ... S_1 - I, rows [low, high).

    S_i = P_i^T D_i P_i with D_i the blocks strength * R + (1 - strength) * I and P_i the
    interleaving of halves of 2^i * b rows. Built from the left: rows of I, S_m, ..., S_1.
    """
    import torch

    stages, _, size, _ = rotations.shape
    group = 2 ** (stages - 1) * size
    eye = torch.eye(size, device=rotations.device)
    turned = operands.strength * rotations + (1 - operands.strength) * eye
    rescale = operands.load("rescale").reshape(-1) if operands.has("rescale") else None

    def coefficients(low: int, high: int) -> torch.Tensor:
        at = low % group
        unit = torch.zeros(group, high - low, device=rotations.device)
        unit[torch.arange(at, at + high - low), torch.arange(high - low)] = 1.0
        blocks = slice(low // group * group // size, (low // group + 1) * group // size)
        x = unit
        for stage in reversed(range(stages)):
            half = 2**stage * size // 2
            x = x.reshape(-1, 2, half, high - low).transpose(1, 2).reshape(-1, size, high - low)
            x = torch.einsum("bji,bjc->bic", turned[stage][blocks], x)
            x = x.reshape(-1, half, 2, high - low).transpose(1, 2).reshape(group, high - low)
        if rescale is not None:
            x = x * (rescale if rescale.numel() == 1 else rescale[low:high])
        return (x - unit).T

    return coefficients


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """rows += strength * coefficients @ (the rows of their block or butterfly group)."""
    import torch

    from ..compose import compose

    alpha = operands.number("alpha") or 0.0
    rotations = _rotations(operands, alpha)
    butterfly = rotations.dim() == 4
    coefficients = (_boft if butterfly else _oft)(operands, rotations)
    group = rotations.shape[-1] * (2 ** (rotations.shape[0] - 1) if butterfly else 1)
    step = max(1, READ_STEP_BYTES // (4 * group))

    def delta(start: int, stop: int, base: torch.Tensor) -> torch.Tensor:
        found, low = [], start
        while low < stop:
            high = min(stop, low + step, (low // group + 1) * group)
            found.append(_mixed(reader, coefficients(low, high), low // group * group, start, base))
            low = high
        return found[0] if len(found) == 1 else torch.cat(found)

    # beside a DoRA vector ComfyUI multiplies the delta by alpha, which limits Q here
    return compose(operands, reader, shape, delta, alpha if operands.has("dora_scale") else 1.0)


ADAPTER = Adapter(
    name="oft",
    needs=((("oft_blocks",),),),
    takes=("rescale", "alpha", "dora_scale"),
    fits=fits,
    over=over,
)
