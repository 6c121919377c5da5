"""ComfyUI's awq_w4a16 with groups of any size in, float32 rows out.

w = (q - 8) * s[k // g, n] + z[k // g, n]; q 4 bits, two to a byte, the even column low: int8
(n, k / 2); s and z (k / g, n), z may be absent. Groups of 128 themselves are the scheme int4_g128;
it also holds wider ones that are a multiple of 128, their scales repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

HOME_GROUP = 128


def _group(settings: Settings) -> int:
    return int(str(settings["group_size"]))


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop), in groups of their scale and zero."""
    import torch

    packed = tensors["weight"][start:stop].view(torch.uint8)
    codes = torch.stack((packed & 15, packed >> 4), -1).reshape(stop - start, -1)
    grouped = (codes.to(torch.float32) - 8).view(stop - start, -1, _group(settings))
    grouped *= tensors["scale"][:, start:stop].t().to(torch.float32).unsqueeze(-1)
    if "zeros" in tensors:
        grouped += tensors["zeros"][:, start:stop].t().to(torch.float32).unsqueeze(-1)
    return grouped.view(stop - start, -1)


def home(settings: Settings) -> str | None:
    """int4_g128 where its groups divide these and its 16 bits hold the scales."""
    return "int4_g128" if settings["halves"] and _group(settings) % HOME_GROUP == 0 else None


def restate(tensors: Tensors, settings: Settings, start: int, stop: int) -> dict[str, torch.Tensor]:
    """The same codes; scales and zeros once for each 128 inputs: (k / 128, rows)."""
    import torch

    times = _group(settings) // HOME_GROUP
    scale = tensors["scale"][:, start:stop].repeat_interleave(times, 0)
    zeros = torch.zeros_like(scale)
    if "zeros" in tensors:
        zeros = tensors["zeros"][:, start:stop].repeat_interleave(times, 0)
    codes = tensors["weight"][start:stop].view(torch.int8)
    return {"weight": codes, "scale": scale, "zeros": zeros}


CODEC = Codec(
    name="awq_w4a16",
    title="INT4, a scale and a zero per group",
    whose="ComfyUI 0.38, comfy-quants",
    bits=4.5,
    rows=rows,
    home=home,
    restate=restate,
    core_reads="0.38 and later, and our loader",
)
