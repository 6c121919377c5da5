"""A compute dtype and a device in, host operations that load our quantized layers too out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import signature
from types import SimpleNamespace
from typing import Any

import comfy.ops
import torch
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.errors import Refused
from ..engine.outputs import quant_json
from .backends import KITCHEN
from .layouts import OwnFormat, own_format, register, registered
from .mapped import fitted, mapped_operations
from .packed import held
from .quantize import json_tensor

FULL_PRECISION = "full_precision_matrix_mult"
TAKEN = ("weight", "input_scale", "pre_quant_scale")  # parameters that torch's loader need not find


def ignores_full_precision() -> bool:
    """Hosts before 0.38 quantize the activations of int8 layers whatever the file says."""
    return not hasattr(comfy.ops, "MixedPrecisionOp")


# what to do with one layer's tensors just before the host reads them: (state dict, prefix)
Rewrite = Callable[[dict[str, Any], str], None]


def compute_dtype_of(patcher: Any) -> torch.dtype:
    """The dtype that the model computes in."""
    dtype: torch.dtype = patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()
    return dtype


def layer_facts(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What a layer's `comfy_quant` says, {} where there is none."""
    conf = state.get(prefix + "comfy_quant")
    return {} if conf is None else dict(json.loads(conf.cpu().numpy().tobytes()))


def plain_operations(held_dtype: torch.dtype, compute_dtype: torch.dtype) -> Any:
    """The host's operations for unquantized weights, with layers that keep a file's tensors."""
    cast = None if held_dtype == compute_dtype else compute_dtype
    return mapped_operations(comfy.ops.pick_operations(held_dtype, cast))


class KeepsCodes:
    """A layer whose codes go to the product as they are, whatever dtype is computed in.

    The host dequantizes a whole layer at each call where x has another dtype than the layer was
    loaded for, as in encoders on a CPU (twice the time, and the layer in float32), and where a
    MODEL is told another compute dtype.
    """

    can_keep_codes = False  # whether the host's Linear can be told so

    def forward_comfy_cast_weights(self, *args: Any, **kwargs: Any) -> Any:
        """The host's, told to keep the codes."""
        if self.can_keep_codes and _holds_codes_of_ours(self):
            kwargs["weight_only_quant"] = True
        return super().forward_comfy_cast_weights(*args, **kwargs)  # type: ignore[misc]

    @property
    def comfy_force_cast_weights(self) -> bool:
        """Never."""
        return False

    @comfy_force_cast_weights.setter
    def comfy_force_cast_weights(self, forced: bool) -> None:
        pass


def quantized_operations(
    compute_dtype: torch.dtype,
    load_device: torch.device,
    backend: str | None = None,
    rewrite: Rewrite | None = None,
    full_precision: bool = False,
    held_dtype: torch.dtype | None = None,
) -> Any:
    """The host's own operations for quantized models, with our formats added to its Linear.

    A `backend` other than the host's is forced on every quantized layer. `rewrite` sees each
    Linear's tensors first.
    `full_precision` leaves activations as they are, as the host does in text encoders.
    Plain weights of `held_dtype`, where it is narrower than the compute dtype, are kept as they
    are and cast when they are used; the host would widen them all.
    """
    register()
    quant = {"mixed_ops": True}
    if full_precision:
        base = comfy.ops.mixed_precision_ops(quant, compute_dtype, full_precision_mm=True)
    else:
        told = SimpleNamespace(quant_config=quant)
        base = comfy.ops.pick_operations(None, compute_dtype, load_device, model_config=told)
    base = mapped_operations(base)
    narrow = held_dtype if held_dtype and held_dtype.itemsize < compute_dtype.itemsize else None

    class QuantizedOperations(base):  # type: ignore[misc, valid-type]
        """The host's operations; Linear reads and writes our format ids too."""

        class Linear(KeepsCodes, base.Linear):  # type: ignore[misc, name-defined]
            """The host's Linear. The forward pass is its own."""

            can_keep_codes = _can_keep_codes(base.Linear)

            def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
                if rewrite is not None:
                    rewrite(state, prefix)
                facts = layer_facts(state, prefix)
                full = bool(facts.get(FULL_PRECISION)) or self._full_precision_mm
                own = own_format(facts, backend, full and ignores_full_precision())
                if own is not None:
                    forced = None if backend == KITCHEN else backend
                    packs = load_device.type == "cpu"
                    _load_own(self, own, facts, forced, packs, state, prefix, *more)
                elif narrow is not None and _plain_dtype(state, prefix) == narrow:
                    _load_plain(self, state, prefix, *more)
                else:
                    super()._load_from_state_dict(state, prefix, *more)

            def state_dict(
                self, *args: Any, destination: Any = None, prefix: str = "", **kwargs: Any
            ) -> Any:
                found = super().state_dict(*args, destination=destination, prefix=prefix, **kwargs)
                _spell_own(self, found, prefix)
                return found

    return QuantizedOperations


def _can_keep_codes(linear: Any) -> bool:
    found = getattr(linear, "forward_comfy_cast_weights", None)
    return found is not None and "weight_only_quant" in signature(found).parameters


def _holds_codes_of_ours(module: Any) -> bool:
    """A layer that our own code multiplies, with no patch of the host's to be added first."""
    weight = module.weight
    ours = isinstance(weight, QuantizedTensor) and hasattr(weight.layout_cls, "linear")
    waiting = (*module.weight_function, *module.bias_function)
    return ours and not waiting and getattr(module, "weight_lowvram_function", None) is None


def _plain_dtype(state: Mapping[str, Any], prefix: str) -> torch.dtype | None:
    """The dtype of a layer's weight; None where there is none, or it is quantized."""
    weight = state.get(prefix + "weight")
    return None if weight is None or prefix + "comfy_quant" in state else weight.dtype


def _load_plain(module: Any, state: dict[str, Any], prefix: str, *more: Any) -> None:
    """Take the weight of a plain layer as it is; the bias is loaded by torch."""
    weight = state.pop(prefix + "weight")
    like = torch.empty(
        module._orig_shape, dtype=weight.dtype, device=module.factory_kwargs["device"]
    )
    module.weight = torch.nn.Parameter(fitted(weight, like), requires_grad=False)
    _load_rest(module, state, prefix, *more)


def _load_rest(
    module: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any], strict: bool,
    missing: list[str], *more: Any,
) -> None:  # fmt: skip
    """Load what was not taken already."""
    load = torch.nn.Module._load_from_state_dict
    load(module, state, prefix, metadata, strict, missing, *more)
    there = [prefix + name for name in TAKEN]
    missing[:] = [name for name in missing if name not in there]


def _load_own(
    module: Any,
    own: OwnFormat,
    facts: dict[str, Any],
    backend: str | None,
    packs: bool,
    state: dict[str, Any],
    prefix: str,
    *more: Any,
) -> None:
    """Take one layer of an own format out of `state` into `module`; the bias is loaded by torch.

    `packs`: it computes on the CPU, where its first product may put the codes into another order.
    """
    layout: Any = registered(own.layout_name) or own.layout
    device, dtype = module.factory_kwargs["device"], module.factory_kwargs["dtype"]
    pieces = _take_pieces(layout, state, prefix, own.codes, device)
    state.pop(prefix + "comfy_quant")
    if "weight" not in pieces or "scale" not in pieces:
        raise Refused(
            "scale-missing",
            found=f"a {own.entry} layer with nothing but {', '.join(pieces) or 'its marker'}",
            expected="codes and their scale",
            fix="write the file again with the tool that made it",
            layer=prefix.removesuffix("."),
        )
    wanted = bool(facts.get(FULL_PRECISION))  # by the file; in text encoders the host wants it
    said = facts | ({FULL_PRECISION: True} if module._full_precision_mm else {})
    smooth = state.pop(prefix + "pre_quant_scale", None)
    if smooth is not None:  # the host multiplies the input with it
        smooth = torch.nn.Parameter(smooth.to(device=device), requires_grad=False)
        module.register_parameter("pre_quant_scale", smooth)
    params = layout.params_of(pieces, module._orig_shape, dtype, said, backend)
    module.quant_format, module.layout_type = own.entry, own.layout_name
    module._full_precision_mm_config = wanted
    codes = pieces["weight"]
    if packs:
        codes = held(layout.SCHEME, codes, params)
    weight = QuantizedTensor(codes, own.layout_name, params)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    if params.input_scale is not None:  # where the host looks for it when it saves
        module.input_scale = torch.nn.Parameter(params.input_scale, requires_grad=False)
    _load_rest(module, state, prefix, *more)


def _take_pieces(
    layout: Any, state: dict[str, Any], prefix: str, codes: torch.dtype, device: Any
) -> dict[str, torch.Tensor]:
    """{role: tensor} of a layer, popped from `state`."""
    found = {}
    for role, piece in layout.scheme().pieces(128, 128, "BF16").items():
        tensor = state.pop(prefix + piece.suffix.removeprefix("."), None)
        if tensor is not None:
            found[role] = tensor.to(device=device)
    input_scale = state.pop(prefix + "input_scale", None)
    if input_scale is not None:
        found["input_scale"] = input_scale.to(device=device, dtype=torch.float32)
    if "weight" in found and found["weight"].dtype != codes:
        found["weight"] = found["weight"].view(codes)
    return found


def _spell_own(module: Any, state: dict[str, Any], prefix: str) -> None:
    """Complete `comfy_quant` of a layer in an own format: its group size and the like."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, QuantizedTensor):
        return
    scheme = getattr(weight.layout_cls, "SCHEME", None)
    if scheme is not None:
        n, k = module._orig_shape
        settings = dict(weight.params.settings)
        if not module._full_precision_mm_config:
            settings.pop(FULL_PRECISION, None)
        state[prefix + "comfy_quant"] = json_tensor(quant_json(scheme, n, k, settings))
