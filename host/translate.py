"""A recognised checkpoint in, a state dict under ComfyUI's names and format ids out.

Codes are respelled, never quantized again, wherever a format holds them as they are; a layer put
together from several stored ones keeps their codes too where its scales are per row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection

import torch

from ..engine.layer import Layer, Part
from ..engine.outputs import output_of, quant_json
from ..engine.plan import Choice
from ..engine.repairable import mend_layer
from ..engine.rows import plain_rows, restated, row_count, rows_of
from ..engine.source import Source
from ..engine.tensors import torch_dtype
from .quantize import json_tensor, layer_tensors

State = dict[str, torch.Tensor]

# schemes whose joined parts keep their codes: what the joined layer is called
JOINED = {"fp8": "fp8_row", "fp8_row": "fp8_row", "int8": "int8"}
JOINED |= {name: name for name in ("int8_convrot", "int8_weight_only")}


class Translation:
    """The state dict of a model, layer by layer; `how` counts what became of them."""

    def __init__(self, source: Source, later: Collection[str], plain: bool) -> None:
        self._source, self._later, self._plain = source, later, plain
        self.state: State = {}
        self.how: Counter[str] = Counter()
        self.requantized: list[str] = []

    def add(self, layer: Layer) -> None:
        """Put one layer into the state dict, with its logical shape alone if it comes later."""
        if layer.key in self._later and not _is_plain(layer):
            dtype = torch_dtype(layer.dtype)
            self.state[layer.key] = torch.empty(layer.shape, dtype=dtype, device="meta")
            return
        mended = mend_layer(layer)
        quantized = mended.action in ("respell", "restate", "requantize")
        action = "dequantize" if self._plain and quantized else mended.action
        _WAYS[action](self, layer, mended.scheme)

    def _keep(self, layer: Layer, scheme: str) -> None:
        parts = [_plain_part(self._source, part) for part in layer.parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.state[layer.key] = whole.reshape(layer.shape)
        self.how["plain"] += 1

    def _dequantize(self, layer: Layer, scheme: str) -> None:
        values = rows_of(layer, self._source)(0, row_count(layer))
        self.state[layer.key] = values.reshape(layer.shape).to(torch_dtype(layer.dtype))
        self.how["dequantized"] += 1

    def _respell(self, layer: Layer, scheme: str) -> None:
        """The codes as they lie in the file, scales as float32 in the shape of the format."""
        part = layer.parts[0]
        output = output_of(Choice(layer, scheme, layer.dtype, ""), touched=False)
        for role, spec in output.tensors.items():
            if role in output.known:
                self.state[spec.name] = json_tensor(output.known[role])
                continue
            if role in part.tensors:
                stored = self._source.tensor(part.tensors[role])
            else:  # a bare cast has no scale: it is one
                stored = torch.zeros(()) if role == "zeros" else torch.ones(())
            if role != "weight":
                stored = _shaped(stored.to(torch_dtype(spec.dtype)), spec.shape)
            self.state[spec.name] = stored
        self.how[scheme] += 1

    def _restate(self, layer: Layer, scheme: str) -> None:
        """The codes of another tool in the order of the scheme that holds them."""
        output = output_of(Choice(layer, scheme, layer.dtype, ""), touched=False)
        pieces = restated(self._source, layer.parts[0], 0, row_count(layer))
        for role, spec in output.tensors.items():
            if role in output.known:
                self.state[spec.name] = json_tensor(output.known[role])
            else:
                stored = pieces[role].to(torch_dtype(spec.dtype))
                self.state[spec.name] = _shaped(stored, spec.shape)
        self.how[scheme] += 1

    def _requantize(self, layer: Layer, scheme: str) -> None:
        joined = _joined(layer, self._source)
        if joined is not None:
            self.state |= joined
            self.how[f"{JOINED[layer.scheme]}, joined"] += 1
            return
        values = rows_of(layer, self._source)(0, row_count(layer))
        made = layer_tensors(layer.name, scheme, values, values.device)
        self.state |= {f"{layer.name}.{name}": tensor for name, tensor in made.items()}
        self.how[scheme] += 1
        self.requantized.append(layer.name)


_WAYS: dict[str, Callable[[Translation, Layer, str], None]] = {
    "keep": Translation._keep,
    "respell": Translation._respell,
    "restate": Translation._restate,
    "dequantize": Translation._dequantize,
    "requantize": Translation._requantize,
}


def _is_plain(layer: Layer) -> bool:
    return len(layer.parts) == 1 and layer.scheme == "none"


def _span(source: Source, part: Part) -> tuple[int, int]:
    """(first, last) row of a part in its stored tensor."""
    stored = source.tensors[part.tensors["weight"]].shape
    return part.rows or (0, stored[0] if stored else 1)


def _plain_part(source: Source, part: Part) -> torch.Tensor:
    if part.rows is None:
        return source.tensor(part.tensors["weight"])
    return plain_rows(source, part, *part.rows)


def _shaped(scale: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A scale in the shape of its format: reshaped where the count fits, else spread from one."""
    return (scale.reshape(shape) if scale.numel() == math.prod(shape) else scale).expand(shape)


def _joined(layer: Layer, source: Source) -> State | None:
    """Parts of one scheme below each other, the codes as stored and one scale for each row."""
    schemes = {(part.scheme, str(sorted(part.settings.items()))) for part in layer.parts}
    if len(schemes) > 1 or layer.scheme not in JOINED or not layer.is_matrix:
        return None
    codes, scales = [], []
    for part in layer.parts:
        low, high = _span(source, part)
        stored = source.tensor(part.tensors["weight"])
        name = part.tensors.get("scale")
        scale = torch.ones(()) if name is None else source.tensor(name).to(torch.float32)
        if scale.numel() == 1:
            scale = scale.reshape(1).expand(stored.shape[0])
        codes.append(stored[low:high])
        scales.append(scale.reshape(-1)[low:high])
    scheme, (n, k) = JOINED[layer.scheme], layer.shape
    flat = torch.cat(scales)
    return {
        layer.key: torch.cat(codes),
        f"{layer.name}.weight_scale": flat if scheme == "fp8_row" else flat.reshape(n, 1),
        f"{layer.name}.comfy_quant": json_tensor(quant_json(scheme, n, k, layer.parts[0].settings)),
    }


def translate(
    layers: tuple[Layer, ...], source: Source, later: Collection[str] = (), plain: bool = False
) -> Translation:
    """The state dict of `layers`. Quantized or joined layers in `later` are shapes without data.

    `plain` dequantizes every layer to its logical dtype.
    """
    made = Translation(source, later, plain)
    for layer in layers:
        made.add(layer)
    return made
