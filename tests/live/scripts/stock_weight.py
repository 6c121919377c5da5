"""Quantized files -> whether stock ComfyUI gets the weight that our reading gets, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def stock_weight(path: str, layer: str, shape: tuple[int, ...]) -> Any:
    """The dequantized weight of one layer as core's quantized linear loads it."""
    import comfy.ops
    import comfy.utils
    import torch

    tensors, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    nested = [name for name in tensors if name.endswith(".scaled_fp8")]
    prefix = nested[0].removesuffix("scaled_fp8") if nested else ""
    tensors, _ = comfy.utils.convert_old_quants(tensors, prefix, metadata=metadata)
    ops = comfy.ops.mixed_precision_ops({"mixed_ops": True}, torch.float32)
    linear = ops.Linear(shape[1], shape[0], bias=True, device="cpu", dtype=torch.float32)
    own = {name[len(layer) + 1 :]: x for name, x in tensors.items() if name.startswith(f"{layer}.")}
    linear.load_state_dict(own, strict=False)
    if linear.weight is None:  # the file has no tensor of this name
        raise KeyError(f"{layer}.weight")
    weight = linear.weight.detach()
    return (weight.dequantize() if hasattr(weight, "dequantize") else weight).float()


def run(folder: str, name: str) -> Iterator[dict[str, Any]]:
    """Every file of a folder: does stock ComfyUI read layer `name` right, and do we say so."""
    import pickle
    from pathlib import Path

    import torch

    from fusequant.engine.files.open import open_source
    from fusequant.engine.inspect import stock_reads, storage_problems, tool_problems
    from fusequant.engine.model import recognise
    from fusequant.engine.read import read
    from fusequant.engine.rows import rows_of

    for path in sorted(Path(folder).iterdir()):
        source = open_source(path)
        contents = read(source)
        layer = next(x for x in contents.layers if x.key.endswith(f"{name}.weight"))
        problems = (
            *contents.problems,
            *storage_problems(contents, recognise(contents)),
            *tool_problems(contents),
        )
        told = stock_reads(contents, problems)
        ours = rows_of(layer, source)(0, layer.shape[0])
        try:
            stock = stock_weight(str(path), layer.name, layer.shape)
            right = torch.equal(stock, ours)
        except (KeyError, ValueError, RuntimeError, pickle.UnpicklingError):
            right = False
        yield {"file": path.stem, "told": told, "right": right, "scheme": layer.scheme}
        source.close()
