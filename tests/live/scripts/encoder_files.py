"""What the encoder scripts share: files of every dialect, differences, what a module holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

# dialect: the scheme of its codes
DIALECTS = {
    "bare": "fp8", "legacy": "fp8", "core fp8": "fp8", "core int8": "int8",
    "core int8_convrot": "int8_convrot", "core int4_g128": "int4_g128",
    "core fp8_row": "fp8_row", "core nvfp4": "nvfp4", "core mxfp8": "mxfp8", "core w4a8": "w4a8",
    "core w4a4_convrot": "w4a4_convrot", "lightx2v int8": "int8", "lightx2v fp8": "fp8_row",
}  # fmt: skip


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    found, wanted = found.float(), wanted.float()
    return float((found - wanted).norm() / wanted.norm())


def spelled(dialect: str, tensors: Tensors, layers: list[str]) -> tuple[Tensors, Tensors]:
    """(tensors with the weights of `layers` as a dialect spells them, the numbers they mean)."""
    from fusequant.engine.outputs import quant_json
    from fusequant.engine.rows import all_schemes

    name = DIALECTS[dialect]
    scheme, file, means = all_schemes()[name], dict(tensors), {}
    for layer in layers:
        weight = tensors[f"{layer}.weight"].float()
        n, k = weight.shape
        found = scheme.quantize(weight)
        if dialect == "bare":
            found = {"weight": weight.to(torch.float8_e4m3fn)}
        means[layer] = scheme.dequantize(found, dict(scheme.config(n, k)))
        if dialect.startswith("core"):
            pieces = scheme.pieces(n, k, "BF16")
            for role, tensor in found.items():
                file[layer + pieces[role].suffix] = tensor.reshape(pieces[role].shape)
            marker = quant_json(name, n, k, {})
            file[f"{layer}.comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
            continue
        file[f"{layer}.weight"] = found["weight"]
        if dialect == "legacy":
            file[f"{layer}.scale_weight"] = found["scale"].float().reshape(())
        elif dialect != "bare":
            file[f"{layer}.weight_scale"] = found["scale"].float().reshape(-1, 1)
    if dialect == "legacy":
        file["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return file, means


def rewritten(path: str, folder: Path, dialect: str, inside: str) -> tuple[Path, Tensors]:
    """A plain file whose matrices with `inside` in their names are spelled as a dialect does."""
    tensors = load_file(path)
    layers = [
        key.removesuffix(".weight")
        for key, tensor in tensors.items()
        if tensor.dim() == 2 and key.endswith(".weight") and inside in key and "bias." not in key
    ]
    file, means = spelled(dialect, tensors, layers)
    target = folder / f"{Path(path).stem}-{dialect.replace(' ', '-')}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in file.items()}, str(target))
    return target, means


def weights(module: torch.nn.Module, layers: list[str]) -> Tensors:
    """The numbers of layers by name, whatever stands before it in the module."""
    from fusequant.host.weights import dequantized

    named = dict(module.named_modules())
    found = {}
    for layer in layers:
        full = next(name for name in named if name.endswith(layer))
        found[layer] = dequantized(named[full].weight).float()
    return found


def weight_error(module: torch.nn.Module, tensors: Tensors, inside: str) -> float:
    """The largest distance of a quantized layer's numbers from those of a plain file."""
    names = [
        key.removesuffix(".weight") for key in tensors if inside in key and tensors[key].dim() == 2
    ]
    layers = [x for x in names if any(full.endswith(x) for full in quantized_layers(module))]
    found = weights(module, layers)
    return max(error(found[layer], tensors[f"{layer}.weight"]) for layer in layers)


def quantized_layers(module: torch.nn.Module) -> list[str]:
    """The names of layers whose weight is quantized."""
    from comfy_kitchen.tensor import QuantizedTensor

    return [name for name, inner in module.named_modules()
            if isinstance(getattr(inner, "weight", None), QuantizedTensor)]  # fmt: skip


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of everything in the module's state."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def codes(module: torch.nn.Module) -> Tensors:
    """Codes and scales, not what is plain."""
    state = module.state_dict()
    layers = {name.removesuffix("comfy_quant") for name in state if name.endswith("comfy_quant")}
    return {
        name: tensor
        for name, tensor in state.items()
        if any(name.startswith(layer) for layer in layers) and not name.endswith("bias")
    }


def same(first: Tensors, second: Tensors) -> bool:
    """The same names with the same bits."""
    return first.keys() == second.keys() and all(
        torch.equal(_bits(first[name]), _bits(second[name])) for name in first
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def kind_of(call: Any) -> str | None:
    """The kind of the refusal that a call ends in, None for one that does not."""
    from fusequant.engine.errors import Refused

    try:
        call()
    except Refused as refused:
        return refused.kind
    return None
