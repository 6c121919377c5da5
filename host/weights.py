"""One of the host's Linears in, its full-precision numbers with LoRAs added out, in float32."""

from __future__ import annotations

from typing import Any

import comfy.lora
import torch
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.errors import Refused
from ..engine.rows import all_schemes

LIVE_FORMAT = "fusequant_live_"  # before the format id of a layer that carries a Live LoRA


def is_linear(module: Any) -> bool:
    """One of the host's Linears, whose weight is cast when it is used; no bank of experts."""
    sized = hasattr(module, "in_features") and hasattr(module, "out_features")
    return sized and hasattr(module, "comfy_cast_weights") and not hasattr(module, "num_experts")


def stored_scheme(module: Any) -> str | None:
    """The scheme that a layer is stored in already, None where it is none of ours."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, QuantizedTensor):
        return None
    own = getattr(weight.layout_cls, "SCHEME", None)
    if own is not None:
        return str(own)
    if module.quant_format == "int8_tensorwise":
        if getattr(weight.params, "convrot", False):
            return "int8_convrot"
        full = getattr(module, "_full_precision_mm_config", False)
        return "int8_weight_only" if full else "int8"
    ids = {scheme.format_id: name for name, scheme in all_schemes().items() if scheme.format_id}
    return ids.get(module.quant_format.removeprefix(LIVE_FORMAT))


def dequantized(weight: torch.Tensor) -> torch.Tensor:
    """The numbers of a weight: float32 for a quantized one, its own dtype for a plain one."""
    if not isinstance(weight, QuantizedTensor):
        return weight.detach()
    # the logical dtype is the compute dtype: asked for float32 first, nothing is rounded on the way
    return weight.detach().to(torch.float32).dequantize()


def patched(
    tensor: torch.Tensor, patches: list[Any] | None, key: str, device: torch.device
) -> torch.Tensor:
    """`tensor` with the host's patches, summed in float32 on `device`; itself without patches.

    Never a quantized tensor: the host's sum would drop the patch of one without a word.
    """
    plain = dequantized(tensor)
    if not patches:
        return plain
    return summed(plain.to(device, torch.float32, copy=True), patches, key)


def summed(values: torch.Tensor, patches: list[Any], key: str) -> torch.Tensor:
    """`values`, float32 and the caller's own to lose, with the host's patches added to them."""
    shape = values.shape
    result: torch.Tensor = comfy.lora.calculate_weight(patches, values, key)
    if result.shape != shape:
        raise Refused(
            "lora-resizes-layer",
            found=f"a LoRA that makes {list(shape)} into {list(result.shape)}",
            expected="a LoRA of the layer's own shape",
            fix="keep this layer, or fuse the LoRA into a file of its own first",
            layer=key,
        )
    return result


def fused_weight(
    module: Any, patches: list[Any] | None, key: str, device: torch.device
) -> torch.Tensor:
    """(n, k): what the layer multiplies its input with, in float32 or the source's own dtype.

    A smoothing scale that the layer would multiply its input with is multiplied in.
    """
    weight = patched(module.weight, patches, key, device)
    smooth = getattr(module, "pre_quant_scale", None)
    if smooth is None:
        return weight
    return weight.to(torch.float32) * smooth.to(weight.device, torch.float32)


def stored_bytes(module: Any) -> int:
    """Bytes of a layer as it is held: codes, scales and bias, or the plain weight."""
    return sum(
        value.nbytes
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor) and not key.endswith("comfy_quant")
    )


def hold_narrow(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Hold plain weights of Linears in `dtype` where nothing is lost by it.

    The host's operations for quantized models widen them to the dtype that is computed in, which
    without a GPU doubles their memory and their size in saved files. They are cast when used.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not is_linear(module) or weight is None or isinstance(weight, QuantizedTensor):
            continue
        narrow = weight.detach().to(dtype)
        if weight.dtype != dtype and torch.equal(narrow.to(weight.dtype), weight.detach()):
            module.weight = torch.nn.Parameter(narrow, requires_grad=False)
