"""A quantized weight and a low-rank branch in, one weight whose product has both out.

y = x W.T + ((x A.T) * strength) B.T, W quantized (N, K), A (R, K), B (N, R), strength (R).
The branch is part of the weight's parameters, so the host moves, clones and compiles it with the
codes, and changing it touches no code. Importing this module registers nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from comfy_kitchen.tensor import (
    QuantizedLayout,
    QuantizedTensor,
    get_layout_class,
    register_layout_class,
)

from ..engine.errors import Refused
from .layouts import registered
from .products import answer_products
from .quantize import json_tensor
from .weights import LIVE_FORMAT

# field of the params: what follows `weight` in a state dict
SAVED = {"lora_a": "_lora_a", "lora_b": "_lora_b", "strength": "_lora_strength"}
BRANCH = tuple(SAVED)
PREFIX = "FuseQuantLive"
# what the params have beside the base's own; the base may have some of them already
_TENSOR = (torch.Tensor | None, None)
_FIELDS = {
    "lora_a": _TENSOR, "lora_b": _TENSOR, "strength": _TENSOR, "input_scale": _TENSOR,
    "quantize_input": (bool, False), "transposed": (bool, False),
}  # fmt: skip


class LiveLayout(QuantizedLayout):
    """A layout with a branch over the layout named BASE; `live_layout` makes one for each base."""

    BASE: ClassVar[str]

    @classmethod
    def base_tensor(cls, qdata: torch.Tensor, params: Any) -> QuantizedTensor:
        """The quantized weight (N, K) without its branch, over the same codes."""
        base = get_layout_class(cls.BASE).Params
        said = {f.name: getattr(params, f.name) for f in dataclasses.fields(base)}
        if params.transposed:
            said["orig_shape"] = tuple(reversed(params.orig_shape))
        if "transposed" in said:
            said["transposed"] = False
        return QuantizedTensor(qdata, cls.BASE, base(**said))

    @classmethod
    def delta(cls, params: Any, device: torch.device) -> torch.Tensor:
        """(N, K) = (B * strength) A, float32."""
        a, b, strength = (getattr(params, name).to(device, torch.float32) for name in BRANCH)
        return (b * strength) @ a

    @classmethod
    def quantize(
        cls, tensor: torch.Tensor, live: Any = None, **more: Any
    ) -> tuple[torch.Tensor, Any]:
        """Codes of `tensor` less the branch, and params with the branch: what it dequantizes to.

        The host asks for it where it adds a LoRA of its own to such a weight.
        """
        if live is None:
            raise Refused(
                "live-layout-alone",
                found="numbers to be quantized into a layout that carries a LoRA",
                expected="a weight that has the LoRA already",
                fix="quantize with Quantize Model first, then add Live LoRA",
            )
        rest = tensor.to(torch.float32) - cls.delta(live, tensor.device)
        qdata, params = get_layout_class(cls.BASE).quantize(rest.to(tensor.dtype), **more)
        branch = {name: getattr(live, name).to(tensor.device) for name in BRANCH}
        kept = dataclasses.replace(params_of(cls, params), quantize_input=live.quantize_input)
        scale = live.input_scale
        if scale is not None:
            branch["input_scale"] = scale.to(tensor.device)
        return qdata, dataclasses.replace(kept, **branch)

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: Any) -> torch.Tensor:
        """(N, K) in the logical dtype: base and branch summed in float32, rounded once."""
        base = cls.base_tensor(qdata, dataclasses.replace(params, orig_dtype=torch.float32))
        summed = base.dequantize() + cls.delta(params, qdata.device)
        return summed.to(params.orig_dtype)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[torch.Tensor, ...]:
        """The codes, then every tensor of the params."""
        params = qtensor.params
        return qtensor._qdata, *(getattr(params, name) for name in params._tensor_fields())

    @classmethod
    def state_dict_tensors(cls, qdata: torch.Tensor, params: Any) -> dict[str, torch.Tensor]:
        """The base's tensors under the host's names, and the branch beside them."""
        found = dict(cls.base_tensor(qdata, params).state_dict())
        return found | {end: getattr(params, name) for name, end in SAVED.items()}

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, Any]:
        """The branch, and what the base keeps."""
        base = cls.base_tensor(qtensor._qdata, qtensor.params)
        return {**base.layout_cls.requantize_kwargs(base), "live": qtensor.params}

    @classmethod
    def linear(
        cls, x: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """(..., K) -> (..., N): the base as its own layout multiplies it, plus the branch.

        The branch is computed in x's dtype on the input as it came; strength is float32.
        """
        params, base = weight.params, get_layout_class(cls.BASE)
        if hasattr(base, "linear_of"):  # ours: it knows where both are one kernel
            up = params.lora_b.to(torch.float32) * params.strength
            return base.linear_of(x, weight._qdata, params, bias, (params.lora_a, up))
        flat = x.reshape(-1, x.shape[-1])
        given = flat
        if params.quantize_input:  # as the host would, had it seen the base
            given = QuantizedTensor.from_float(flat, cls.BASE, scale=params.input_scale)
        y = torch.nn.functional.linear(given, cls.base_tensor(weight._qdata, params), bias)
        a, b = params.lora_a.to(x.dtype), params.lora_b.to(x.dtype)
        low = (torch.nn.functional.linear(flat, a) * params.strength).to(x.dtype)
        return torch.addmm(y, low, b.t()).reshape(*x.shape[:-1], b.shape[0])


def _params_class(base: Any) -> Any:
    """The params of a live layout: the base's fields, then the branch's."""
    have = {f.name for f in dataclasses.fields(base)}
    extra = [
        (name, kind, dataclasses.field(default=default))
        for name, (kind, default) in _FIELDS.items()
        if name not in have
    ]

    def tensor_fields(self: Any) -> list[str]:
        found = list(base._tensor_fields(self))
        more = (*BRANCH, "input_scale")
        return found + [n for n in more if n not in found and getattr(self, n) is not None]

    def clone(self: Any) -> Any:
        """Own copies of what belongs to the codes; the branch is shared, nothing writes into it."""
        owned = {n: getattr(self, n).clone() for n in base._tensor_fields(self)}
        return dataclasses.replace(self, **owned)

    space = {"_tensor_fields": tensor_fields, "clone": clone, "__doc__": "Base and branch."}
    return dataclasses.make_dataclass("Params", extra, bases=(base,), frozen=True, namespace=space)


def params_of(layout: Any, base: Any) -> Any:
    """A live layout's params, without a branch yet, from the base's."""
    said = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    return layout.Params(**said)


@cache
def live_layout(base: str) -> str:
    """The name of the layout with a branch over `base`, made and registered when first asked for.

    Where another copy of the pack was first, its layout is used.
    """
    name = PREFIX + base
    if registered(name) is None:
        answer_products(LiveLayout)
        below = get_layout_class(base)
        space = {"BASE": base, "Params": _params_class(below.Params), "__doc__": f"Over {base}."}
        if hasattr(below, "SCHEME"):
            space["SCHEME"] = below.SCHEME
        register_layout_class(name, type(name, (LiveLayout,), space))
    return name


def live_format(base: str) -> str:
    """The format id of a layer with a branch, as the host looks it up.

    Where the host would quantize the input for this format, its own product would win over ours
    and lose the branch: those layers point to an entry of ours that leaves the input alone.
    """
    import comfy.quant_ops

    algos = comfy.quant_ops.QUANT_ALGOS
    if not algos[base].get("quantize_input", True):
        return base
    name = LIVE_FORMAT + base
    layout = live_layout(algos[base]["comfy_tensor_layout"])
    entry = {**algos[base], "comfy_tensor_layout": layout, "quantize_input": False}
    algos.setdefault(name, entry)
    return name


def spell(state: dict[str, Any], prefix: str) -> None:
    """Give a saved layer the host's own format id again: stock loaders know no other."""
    key = f"{prefix}comfy_quant"
    if key not in state:
        return
    facts = json.loads(state[key].cpu().numpy().tobytes())
    if str(facts.get("format")).startswith(LIVE_FORMAT):
        facts["format"] = facts["format"].removeprefix(LIVE_FORMAT)
        state[key] = json_tensor(json.dumps(facts).encode())


def is_live(value: object) -> bool:
    """Whether a weight carries a branch."""
    return isinstance(value, QuantizedTensor) and hasattr(value.layout_cls, "BASE")


def branch_of(value: QuantizedTensor) -> Mapping[str, torch.Tensor]:
    """{lora_a, lora_b, strength} of a live weight."""
    return {name: getattr(value.params, name) for name in BRANCH}
