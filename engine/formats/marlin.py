"""Marlin int4 files: LightX2V's spelling, and `B` and `s` as AutoGPTQ and Marlin itself write them.

The workspace is scratch memory of the kernel and is left out.
"""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ..tensors import TensorSpec
from ._foreign import detected
from ._layers import Reading
from ._names import Module, modules
from ._stored import check_scales, coded, grouping, needed

TILE, RUN, GROUP = 16, 64, 128
WORKSPACES = ("weight_workspace", "workspace")
SPELLINGS = (("weight", "weight_scale"), ("B", "s"))  # (codes, scales)
FLOATS = ("F16", "BF16", "F32")


def spelling(module: Module) -> tuple[str, str] | None:
    """The names of the codes and the scales where a module holds int32 tiles."""
    for codes, scales in SPELLINGS:
        spec = module.get(codes)
        tiles = spec is not None and spec.dtype == "I32" and len(spec.shape) == 2
        two = scales in module and len(module[scales].shape) == 2
        if tiles and (two or "weight_workspace" in module):
            return codes, scales
    return None


def signs(source: Source) -> bool:
    """Int32 tiles with scales [groups, N] or a workspace."""
    return any(spelling(module) for module in modules(source).values())


def fault(codes: TensorSpec, scales: TensorSpec) -> str | None:
    """Why the tiles and the scales are no weight of 4 bits; None if they are."""
    groups, n = scales.shape if len(scales.shape) == 2 else (0, 0)
    k = codes.shape[0] * TILE
    if codes.shape[1] != 2 * n or n % RUN or not n or not k:
        return f"{codes.name} {list(codes.shape)} with scales {list(scales.shape)}"
    if groups != 1 and groups * GROUP != k:
        return f"{groups} groups for {k} inputs"
    return f"scales of dtype {scales.dtype}" if scales.dtype not in FLOATS else None


def list_weight(reading: Reading, name: str, spelled: tuple[str, str]) -> None:
    """List one weight under the module's plain name."""
    key = f"{name}.weight" if name else "weight"
    found = needed(reading, key, *(f"{name}.{leaf}".lstrip(".") for leaf in spelled))
    if not found:
        return
    codes, scales = found
    wrong = fault(codes, scales)
    if wrong:
        reading.tell("codes-shape", wrong, name)
        return
    check_scales(reading, key, scales)
    (groups, n), k = scales.shape, codes.shape[0] * TILE
    settings = {**grouping(4, k // groups, k, scales), "scale": "F16", "centered": True}
    tensors = {"weight": codes.name, "scale": scales.name}
    coded(reading, key, (n, k), "marlin_int4", tensors, settings, "F16")


def split(source: Source) -> Contents:
    """Packed weights, the rest as it is."""
    reading = Reading(source)
    for name, module in reading.modules.items():
        spelled = spelling(module)
        if spelled:
            list_weight(reading, name, spelled)
            reading.used.update(module[leaf].name for leaf in WORKSPACES if leaf in module)
    return reading.contents("marlin")


FORMAT = Format("marlin", "Marlin int4 checkpoint", detected(signs), split)
