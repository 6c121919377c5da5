"""A quantized MODEL and LoRA files in, the MODEL with a low-rank branch on its weights out.

Nothing is quantized and no code is rewritten: the branch is a part of the weight, see
live_layouts.py. A layer that is not quantized gets an ordinary patch.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.lora
import comfy.quant_ops
import comfy.utils
import torch
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.errors import Refused
from ..engine.fuse.adapter import Operands
from .compiled import compile_again
from .live_layouts import branch_of, is_live, live_format, live_layout, params_of, spell
from .load import AS_STORED
from .lora import add_loras, add_report, note_use, tensor_of
from .lora_match import Lora, Placed, match_loras
from .model import merged
from .ops import compute_dtype_of
from .pristine import Init, Recipe, Request, build, recipe_of
from .report import Report, shown, size
from .tree import as_parameter, copied_tree
from .weights import is_linear

log = logging.getLogger(__name__)

# roles of an adapter that is up @ down and nothing else
PLAIN = frozenset(("up", "down", "alpha", "up:scale", "down:scale"))


@dataclass(frozen=True)
class Branch:
    """y += ((x a.T) * strength) b.T with a (R, K), b (N, R), strength (R) in float32."""

    a: torch.Tensor
    b: torch.Tensor
    strength: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """Bytes that it holds."""
        return self.a.nbytes + self.b.nbytes + self.strength.nbytes


@dataclass(frozen=True)
class LiveRecipe(Recipe):
    """How a live model was made: `base` makes the quantized model, `branches` go onto its layers.

    As a Recipe it says how to make the same model with everything fused: `patches` are what was
    fused before and the branches as patches.
    """

    base: Init | None = None
    branches: Mapping[str, Branch] | None = None


def add_live_loras(patcher: Any, loras: Sequence[Lora]) -> tuple[Any, Report]:
    """(new patcher, report). The weights of `patcher` are shared; nothing upstream is changed."""
    report = Report("Live LoRA")
    matched = match_loras(patcher.model, loras)
    add_report(report, matched)
    live = [placed for placed in matched.placed if _on_quantized(patcher.model, placed)]
    chosen = {id(placed) for placed in live}
    rest = [placed for placed in matched.placed if id(placed) not in chosen]
    _refuse_others(live)
    result = _owned(patcher, branches(live, patcher.model)) if live else patcher.clone()
    add_loras(result, matched, rest)
    _tell(report, result, live, rest)
    note_use(result, matched, loras)
    log.info("%s", report.text().replace("\n", "; "))
    return result, report


def live_patches(patcher: Any) -> dict[str, list[Any]]:
    """The branches of a model as the host's patches, {} where it has none: what to fuse instead.

    {key: [(strength, adapter, strength of the model, offset, function)]}, as in `patcher.patches`.
    """
    found = {}
    for name, module in patcher.model.named_modules():
        weight = getattr(module, "weight", None)
        if is_live(weight):
            found[f"{name}.weight"] = _as_patches(Branch(**_fields(branch_of(weight))))
    return found


def rebuild_live(recipe: LiveRecipe, disable_dynamic: bool = False) -> Any:
    """The factory of a live model, for the host's own fresh copies."""
    fresh = build(recipe.base or (), disable_dynamic)
    for name, branch in (recipe.branches or {}).items():
        install(comfy.utils.get_attr(fresh.model, name), branch)
    fresh.size = 0
    fresh.cached_patcher_init = (rebuild_live, (recipe,))
    return fresh


def branches(placed: Sequence[Placed], model: Any) -> dict[str, Branch]:
    """{layer: branch}: the plain low-rank adapters of each layer, joined along their ranks."""
    groups: dict[str, list[Placed]] = {}
    for one in placed:
        groups.setdefault(one.layer, []).append(one)
    made = {}
    for name, group in groups.items():
        a, b = _factors(group, comfy.utils.get_attr(model, name))
        made[name] = Branch(a, b, torch.cat([_strength(one) for one in group]))
    return made


def joined(found: Sequence[Branch]) -> Branch:
    """Branches of one layer as one: ranks below each other."""
    if len(found) == 1:
        return found[0]
    return Branch(
        torch.cat([one.a for one in found]),
        torch.cat([one.b for one in found], 1),
        torch.cat([one.strength for one in found]),
    )


def install(module: Any, branch: Branch) -> None:
    """Put a branch onto a quantized layer that is ours, beside the one that it may have."""
    weight, first = module.weight, not is_live(module.weight)
    base = module.quant_format if first else None
    device = weight._qdata.device
    branch = Branch(branch.a.to(device), branch.b.to(device), branch.strength.to(device))
    if first:
        name = live_layout(weight._layout_cls)
        params = params_of(comfy.quant_ops.get_layout_class(name), weight._params)
        if _quantizes_input(module, base):
            scale = getattr(module, "input_scale", None)
            params = replace(params, quantize_input=True, input_scale=scale)
        module.quant_format, module.layout_type = live_format(base), name
        module.__class__ = _live_class(type(module))
    else:
        name, params = weight._layout_cls, weight._params
        branch = joined([Branch(**_fields(branch_of(weight))), branch])
    params = replace(params, lora_a=branch.a, lora_b=branch.b, strength=branch.strength)
    module.weight = as_parameter(QuantizedTensor(weight._qdata, name, params))


def _fields(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"a": found["lora_a"], "b": found["lora_b"], "strength": found["strength"]}


def _quantizes_input(module: Any, base: str) -> bool:
    """Whether the host quantizes the input of this layer before it multiplies."""
    entry = comfy.quant_ops.QUANT_ALGOS[base]
    return bool(entry.get("quantize_input", True)) and not module._full_precision_mm


def _live_class(base: type) -> type:
    """The class of a layer with a branch: the host's own, whose saved format id is the base's.

    One for each class while a model uses it, so that a compiler sees the same class again.
    """
    for known in (base, *base.__subclasses__()):
        if "fusequant_live" in vars(known):
            return known

    def state_dict(
        self: Any, *args: Any, destination: Any = None, prefix: str = "", **kwargs: Any
    ) -> Any:
        found = base.state_dict(self, *args, destination=destination, prefix=prefix, **kwargs)
        spell(found, prefix)
        return found

    space = {"state_dict": state_dict, "fusequant_live": True, "__doc__": "With a branch."}
    return type(f"Live{base.__name__}", (base,), space)


def _owned(patcher: Any, added: Mapping[str, Branch]) -> Any:
    """A clone over a tree of its own with the branches installed, and the factory of the same."""
    model = copied_tree(patcher)
    for name, branch in added.items():
        install(comfy.utils.get_attr(model, name), branch)
    empty = tuple(type(held)() for held in patcher.get_clone_model_override()[1])
    result = patcher.clone(model_override=(model, empty))
    result.size = 0
    result.parent = None  # the parent holds another module: it must never take this one's place
    result.hook_backup = {}
    result.clone_base_uuid, result.patches_uuid = uuid.uuid4(), uuid.uuid4()
    if patcher.cached_patcher_init is not None:
        result.cached_patcher_init = (rebuild_live, (_recipe(patcher, added),))
    compile_again(result)
    return result


def _recipe(patcher: Any, added: Mapping[str, Branch]) -> LiveRecipe:
    """The recipe of a live model made from `patcher`, which may be live itself."""
    before = recipe_of(patcher)
    init: Init = patcher.cached_patcher_init
    base, have = init, {}
    if isinstance(before, LiveRecipe):
        base, have = before.base or (), dict(before.branches or {})
    added_patches = {f"{name}.weight": _as_patches(one) for name, one in added.items()}
    patches = merged(before.patches if before else {}, added_patches)
    total = {name: joined([have[name], b]) if name in have else b for name, b in added.items()}
    made = before or Recipe(init, Request(AS_STORED), compute_dtype_of(patcher))
    return LiveRecipe(
        init=made.init,
        request=made.request,
        compute_dtype=compute_dtype_of(patcher),
        patches=patches,
        assigned=made.assigned,
        insight=made.insight,
        told=made.told,
        base=base,
        branches={**have, **total},
    )


def _as_patches(branch: Branch) -> list[tuple[Any, ...]]:
    """A branch as the host's patches, through the host's own adapter: one for each strength.

    The adapters look at the branch's own tensors.
    """
    found, start = [], 0
    values, counts = torch.unique_consecutive(branch.strength, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        up, down = branch.b[:, start : start + count], branch.a[start : start + count]
        spelled = {"m.lora_up.weight": up, "m.lora_down.weight": down}
        adapter = comfy.lora.load_lora(spelled, {"m": "m"}, log_missing=False)["m"]
        found.append((value, adapter, 1.0, None, None))
        start += count
    return found


def _on_quantized(model: Any, placed: Placed) -> bool:
    """Whether an adapter is for the weight of a quantized linear layer."""
    if not placed.key.endswith(".weight"):
        return False
    module = comfy.utils.get_attr(model, placed.layer)
    return is_linear(module) and isinstance(module.weight, QuantizedTensor)


def _refuse_others(live: Sequence[Placed]) -> None:
    """Refuse what is more than up @ down, before anything is made."""
    for placed in live:
        change = placed.change
        odd = sorted(set(change.names) - PLAIN)
        if change.kind != "lora" or odd:
            kind = "DoRA" if {"dora_scale", "magnitude"} & set(odd) else change.kind
            raise Refused(
                "live-lora-kind",
                found=f"a {kind} adapter ({', '.join(odd or change.names)}) in "
                f"{change.file.path.name}",
                expected="plain low-rank adapters, up and down, on quantized layers",
                fix="use Fuse LoRA for this file",
                layer=placed.key,
            )


def _factors(group: Sequence[Placed], module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """a (R, K) and b (N, R) of adapters on one layer, R the sum of their ranks.

    They do not depend on strengths, and are kept for the next time the same files are used.
    """
    same = tuple(id(one.kept) for one in group)
    kept = group[0].kept.get("factors")
    if kept is None or kept[0] != same:
        kept = group[0].kept["factors"] = (same, _made_factors(group, module))
    found: tuple[torch.Tensor, torch.Tensor] = kept[1]
    return found


def _made_factors(group: Sequence[Placed], module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The file's own tensors where that is all; rows that an adapter does not mean are 0 in b."""
    downs = [tensor_of(one.change, "down").flatten(1) for one in group]
    ups = [tensor_of(one.change, "up").flatten(1) for one in group]
    ups = [one.function(up) if one.function else up for one, up in zip(group, ups, strict=True)]
    a = downs[0] if len(group) == 1 else torch.cat(downs)
    if len(group) == 1 and group[0].rows is None:
        b = ups[0]
    else:
        dtype = ups[0].dtype if len({up.dtype for up in ups}) == 1 else torch.float32
        b, at = torch.zeros(module.weight.shape[0], a.shape[0], dtype=dtype), 0
        for one, up in zip(group, ups, strict=True):
            first, last = one.rows or (0, b.shape[0])
            b[first:last, at : at + up.shape[1]] = up
            at += up.shape[1]
    smooth = getattr(module, "pre_quant_scale", None)
    if smooth is not None:  # the layer multiplies its input with it before the branch sees it
        scale = smooth.to(torch.float32).cpu()
        a = torch.where(scale == 0, 0.0, a.to(torch.float32) / scale)
    return a, b


def _strength(placed: Placed) -> torch.Tensor:
    """(R): strength * alpha / R, or over the square root of R, for each rank of one adapter."""
    change = placed.change
    rank = change.file.source.tensors[change.names["down"]].shape[0]
    operands = Operands(change.file.source, change.names, 1.0, placed.key, change.file.rslora)
    return torch.full((rank,), placed.strength * operands.scale(rank), dtype=torch.float32)


def _tell(report: Report, patcher: Any, live: Sequence[Placed], rest: Sequence[Placed]) -> None:
    """Say on how many layers it is live and what that costs, and what became of the others."""
    layers = dict.fromkeys(placed.layer for placed in live)
    if layers:
        held = [branch_of(comfy.utils.get_attr(patcher.model, n).weight) for n in layers]
        ranks = sum(branch["strength"].numel() for branch in held) / len(held)
        bytes_ = sum(tensor.nbytes for branch in held for tensor in branch.values())
        report.notes.append(
            f"live on {len(layers)} quantized layers, {size(bytes_)} beside the codes, mean rank "
            f"{ranks:.0f}; nothing was quantized"
        )
    others = list(dict.fromkeys(placed.layer for placed in rest))
    if not others:
        return
    if layers:
        report.notes.append(
            f"ordinary patches on {len(others)} parameters that have no codes ({shown(others)})"
        )
    else:
        report.warn(
            "no layer that these LoRAs change is quantized: they are ordinary patches, as of "
            "ComfyUI's own loader; put Live LoRA after Quantize Model"
        )
