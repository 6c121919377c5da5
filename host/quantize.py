"""A weight and a scheme in, what the scheme stores out, computed in row chunks on a device."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from ..engine.errors import Refused
from ..engine.outputs import quant_json
from ..engine.rows import all_schemes
from ..engine.scheme import Scheme

log = logging.getLogger(__name__)

# elements of a chunk: a few float32 copies of it fit beside a model
CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 25}
_HALVES = {torch.float16: "F16", torch.bfloat16: "BF16"}


def _spans(rows: int, k: int, device: torch.device, step: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each chunk, whole steps of rows; the last takes less than a step with it."""
    size = CHUNK_ELEMENTS.get(device.type, 1 << 24) // max(1, k)
    size = max(step, size - size % step)
    start = 0
    while start < rows:
        stop = rows if rows - start < size + step else start + size
        yield start, stop
        start = stop


def quantize_weight(
    name: str, weight: torch.Tensor, device: torch.device, dtype: str | None = None
) -> dict[str, torch.Tensor]:
    """{role: tensor} on `weight`'s device: what scheme `name` stores for `weight` (n, k).

    Arithmetic is float32 on `device`, a run of rows at a time. `dtype` is the storage dtype of the
    source (F16, BF16, ...), by default the weight's. Numbers that are not finite are refused.
    """
    scheme = all_schemes()[name]
    dtype = dtype or _HALVES.get(weight.dtype, "BF16")
    rows, k = weight.shape
    spans = list(_spans(rows, k, device, scheme.row_step))
    whole = None
    if scheme.survey is not None:

        def read(start: int, stop: int) -> torch.Tensor:
            return _floats(weight[start:stop].to(device))

        whole = scheme.survey.run(read, rows, k, spans)
    chunks = []
    for start, stop in spans:
        chunk = weight[start:stop].to(device, torch.float32)
        pieces = scheme.quantize(chunk, whole, dtype)
        if not scheme.finite(pieces):
            raise _not_finite()
        chunks.append({role: piece.to(weight.device) for role, piece in pieces.items()})
    return {role: _stack(scheme, role, [c[role] for c in chunks]) for role in chunks[0]}


def _floats(chunk: torch.Tensor) -> torch.Tensor:
    """A bare fp8 weight as float32, any other as it is."""
    return chunk if chunk.dtype in (*_HALVES, torch.float32) else chunk.to(torch.float32)


def _stack(scheme: Scheme, role: str, found: list[torch.Tensor]) -> torch.Tensor:
    axis = scheme.row_axis.get(role)
    return found[0] if axis is None or len(found) == 1 else torch.cat(found, axis)


def _not_finite() -> Refused:
    return Refused(
        "non-finite-weights",
        found="NaN or infinity among the weights",
        expected="finite numbers",
        fix="the file (or a LoRA fused into it) is damaged: download it again",
    )


def layer_tensors(
    layer: str, name: str, weight: torch.Tensor, device: torch.device
) -> dict[str, torch.Tensor]:
    """{"weight", "weight_scale", ..., "comfy_quant"}: `layer` in scheme `name`, as in a file."""
    n, k = weight.shape
    source = _HALVES.get(weight.dtype, "BF16")
    tensors = quantize_weight(name, weight, device, source)
    pieces = all_schemes()[name].pieces(n, k, source)
    spelled = {
        piece.suffix.removeprefix("."): tensors[role].reshape(piece.shape)
        for role, piece in pieces.items()
    }
    log.debug("quantized %s to %s", layer, name)
    return spelled | {"comfy_quant": json_tensor(quant_json(name, n, k, {}))}


def json_tensor(data: bytes) -> torch.Tensor:
    """Bytes of a JSON text as the uint8 tensor that `comfy_quant` is."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
