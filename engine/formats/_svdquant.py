"""An `svdquant_w4a4` layer of comfy-quants in, listed out: its weight, and its bias if shifted."""

from __future__ import annotations

from ..layer import Layer, Part
from ..tensors import TensorSpec
from ._layers import Reading
from ._markers import Marker
from ._scales import check_numbers

TILE, GROUP = 128, 64
# role: the tensor that has it, beside the weight and its scale
BESIDE = {"smooth": "smooth_factor", "down": "proj_down", "up": "proj_up"}
BRANCHES = {"raw": False, "post_smoothing": True, None: False}  # comfy-kitchen's own is the raw one


def svdquant(reading: Reading, name: str, marker: Marker) -> None:
    """List 4-bit codes with their smoothing and their low-rank branch."""
    module = reading.modules[name]
    weight, scale = module["weight"], reading.scale(name, module)
    found = {role: module[leaf] for role, leaf in BESIDE.items() if leaf in module}
    found |= {"scale": scale} if scale is not None else {}
    missing = [role for role in ("scale", *BESIDE) if role not in found]
    shape = _shape(weight)
    told = marker.get("lowrank_branch_input_basis")
    branch = told if told is None or isinstance(told, str) else repr(told)
    tensors = {"weight": weight.name} | {role: spec.name for role, spec in found.items()}
    if missing:
        reading.tell("tensor-absent", f"no {', '.join(missing)}", name)
    elif shape is None:
        reading.tell("codes-shape", f"{weight.dtype} {list(weight.shape)}", name)
    elif branch not in BRANCHES:
        reading.tell("branch-unknown", f"a low-rank branch that reads {branch!r}", name)
    else:
        _check(reading, name, shape, found)
        if marker.get("act_unsigned") is True:
            _bias(reading, name, shape[0], tensors)
    settings = {"smoothed_branch": BRANCHES.get(branch, False)}
    part = Part("svdquant_w4a4", tensors, settings, view=shape)
    reading.add(Layer(weight.name, shape or weight.shape, reading.dtype, (part,)))


def _shape(weight: TensorSpec) -> tuple[int, int] | None:
    """(n, k) of tiled or plain codes; None where they are neither."""
    if weight.dtype not in ("I8", "U8"):
        return None
    if len(weight.shape) == 4 and weight.shape[2:] == (TILE // 4, 4 * GROUP // 2):
        return weight.shape[0] * TILE, weight.shape[1] * GROUP
    if len(weight.shape) == 2 and 2 * weight.shape[1] % GROUP == 0:
        return weight.shape[0], 2 * weight.shape[1]
    return None


def _check(
    reading: Reading, name: str, shape: tuple[int, int], found: dict[str, TensorSpec]
) -> None:
    """The shapes that fit the codes, tiled or plain, and finite numbers."""
    (n, k), rank = shape, found["down"].shape[-1] if found["down"].shape else 0
    allowed: dict[str, tuple[tuple[int, ...], ...]] = {
        "scale": ((k // GROUP, n), (n // TILE, k // GROUP, TILE)),
        "smooth": ((k,),),
        "down": ((k, rank),),
        "up": ((n, rank), (n // TILE, rank, TILE)),
    }
    for role, shapes in allowed.items():
        if found[role].shape not in shapes:
            told = f"{found[role].name} {list(found[role].shape)} where {list(shapes[0])} fits"
            reading.tell("scale-shape", told, name)
    reading.problems += check_numbers(reading.source, found["smooth"], name)


def _bias(reading: Reading, name: str, n: int, tensors: dict[str, str]) -> None:
    """The bias of a layer whose 4-bit branch reads a shifted input."""
    bias = reading.modules[name].get("bias")
    if bias is None or bias.shape != (n,):
        reading.tell("tensor-absent", "unsigned activations and no bias of the layer", name)
        return
    roles = {"weight": bias.name, "codes": tensors["weight"]}
    roles |= {role: tensors[role] for role in ("scale", "smooth")}
    reading.add(Layer(bias.name, (n,), bias.dtype, (Part("svdquant_bias", roles, view=(n,)),)))
