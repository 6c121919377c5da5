"""(scheme, written file, its dequantized twin) -> the weights that core holds differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def run(pairs: list[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """Load the file as UNETLoader does and compare every weight with the twin's, bit for bit."""
    import comfy.sd
    import torch
    from comfy.quant_ops import QuantizedTensor
    from safetensors.torch import load_file

    for scheme, made, plain in pairs:
        model = comfy.sd.load_diffusion_model(made).model
        expected = model.model_config.process_unet_state_dict(load_file(plain))
        held = dict(model.diffusion_model.named_parameters())
        different, quantized = [], 0
        for key, value in expected.items():
            weight = held[key].data
            if isinstance(weight, QuantizedTensor):
                quantized += 1
                weight = weight.dequantize()
            if weight.dtype != torch.float32 or not torch.equal(weight, value):
                different.append(key)
        yield {
            "scheme": scheme,
            "compared": len(expected),
            "quantized": quantized,
            "different": different,
        }
