"""int4 with groups of 128 beside float16 x by Marlin; the weight is put into its order per call."""

from __future__ import annotations

import torch

from ..constraints import Among, Capability, Constraint, Dtypes, MultipleOf
from ..registry import SIGNATURE, Backend, Claim
from ._library import Library
from ._trial import tried

Tensor = torch.Tensor
MARLIN = Library("marlin", "marlin")
GROUP = 128


def int4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zeros: Tensor | None,
    group_size: int,
) -> Tensor:
    """(M, K), (N, K / 2) -> (M, N).

    It knows no zeros: their part is each group's sum of x times its zero.
    """
    outputs = weight.shape[0]
    result = torch.empty((x.shape[0], outputs), dtype=torch.float16, device=x.device)
    # counters of its blocks, at most 8 for each 128 outputs, zero before and after
    workspace = torch.zeros(outputs // 128 * 8, dtype=torch.int32, device=x.device)
    MARLIN.get("mul")(x, packed(weight), result, ordered(scale), workspace)
    if zeros is None and bias is None:
        return result
    values = result.to(torch.float32)
    if zeros is not None:
        sums = x.to(torch.float32).view(x.shape[0], -1, group_size).sum(dim=-1)
        values += sums @ zeros.to(torch.float32)
    if bias is not None:
        values += bias.to(torch.float32)
    return values.to(x.dtype)


def packed(weight: Tensor) -> Tensor:
    """Our bytes (N, K / 2) -> Marlin's words (K / 16, 2 N) int32, eight codes a word.

    Tiles of 16 inputs by 16 outputs, four of them side by side. A word belongs to a column c of 8
    and a pair of inputs r of 4 inside a tile; its codes are, from the lowest bits on, the two row
    halves of the first column half, those of the second, then the same of the odd inputs.
    """
    outputs, half = weight.shape
    # n = 64 run + 16 tile + 8 column half + c; k / 2 = 8 k-tile + 4 row half + r
    parts = weight.view(torch.uint8).view(outputs // 64, 4, 2, 8, half // 8, 2, 4)
    words = torch.zeros(
        (half // 8, outputs // 64, 8, 4, 4), dtype=torch.int32, device=weight.device
    )
    for column in (0, 1):
        for row in (0, 1):
            pair = parts[:, :, column, :, :, row].permute(3, 0, 2, 4, 1).to(torch.int32)
            words |= ((pair & 15) | (pair >> 4 << 16)) << (8 * column + 4 * row)
    return words.view(half // 8, 2 * outputs)


def ordered(scale: Tensor) -> Tensor:
    """Scales (groups, N) -> float16, each run of 64 transposed as 8 x 8, of one group as 32s."""
    groups, outputs = scale.shape
    runs = scale.view(1, -1, 4, 4, 2) if groups == 1 else scale.view(groups, -1, 8, 8)
    return runs.transpose(2, 3).reshape(groups, outputs).to(torch.float16).contiguous()


_NEEDS: dict[str, tuple[Constraint, ...]] = {
    "group_size": (Among((GROUP,)),),
    "weight": (MultipleOf(0, 256), MultipleOf(1, 64)),
    "x": (
        Capability((8, 0)),
        Dtypes((torch.float16,)),
        tried("int4_linear", int4_linear, 0.006, torch.float16),
    ),
}

BACKEND = Backend(
    name="marlin",
    title="Marlin",
    order=78,
    available=MARLIN.refusal,
    proven=SIGNATURE,
    claims=(Claim("int4_linear", int4_linear, _NEEDS, error=0.006),),
)
