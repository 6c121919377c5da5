"""A recognised checkpoint in, a state dict under ComfyUI's names and format ids out.

Codes are respelled, never quantized again, wherever a format holds them as they are; a layer put
together from several stored ones keeps their codes too where a scheme holds them joined.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection

import torch

from ..engine.layer import Layer, Part
from ..engine.outputs import output_of
from ..engine.plan import Choice
from ..engine.repairable import mend_layer
from ..engine.respell import respelled
from ..engine.rows import plain_rows, restated_rows, row_count, rows_of
from ..engine.source import Source
from ..engine.tensors import torch_dtype
from .quantize import json_tensor, layer_tensors

State = dict[str, torch.Tensor]


class Translation:
    """The state dict of a model, layer by layer; `how` counts what became of them."""

    def __init__(self, source: Source, later: Collection[str], plain: bool) -> None:
        self._source, self._later, self._plain = source, later, plain
        self.state: State = {}
        self.how: Counter[str] = Counter()
        self.requantized: list[str] = []
        self.dequantized: list[str] = []  # codes that no format holds
        self.dequantized_bytes = 0

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
        if layer.is_matrix and not self._plain:
            self.dequantized.append(layer.name)
            self.dequantized_bytes += self.state[layer.key].nbytes

    def _respell(self, layer: Layer, scheme: str) -> None:
        """The codes as they lie in the file, scales in the dtype and shape of the format."""
        part = layer.parts[0]
        output = output_of(Choice(layer, scheme, layer.dtype, ""), touched=False)
        for role, spec in output.tensors.items():
            if role in output.known:
                self.state[spec.name] = json_tensor(output.known[role])
                continue
            self.state[spec.name] = respelled(self._source, part, role, spec)
        self.how[scheme] += 1

    def _restate(self, layer: Layer, scheme: str) -> None:
        """The codes of another tool, or of several stored weights, as one scheme has them."""
        output = output_of(Choice(layer, scheme, layer.dtype, ""), touched=False)
        pieces = restated_rows(layer, self._source, scheme)(0, row_count(layer))
        for role, spec in output.tensors.items():
            if role in output.known:
                self.state[spec.name] = json_tensor(output.known[role])
            else:
                stored = pieces[role].to(torch_dtype(spec.dtype))
                self.state[spec.name] = _shaped(stored, spec.shape)
        self.how[scheme] += 1

    def _requantize(self, layer: Layer, scheme: str) -> None:
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


def _plain_part(source: Source, part: Part) -> torch.Tensor:
    if part.rows is None:
        return source.tensor(part.tensors["weight"])
    return plain_rows(source, part, *part.rows)


def _shaped(scale: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A scale in the shape of its format: reshaped where the count fits, else spread from one."""
    return (scale.reshape(shape) if scale.numel() == math.prod(shape) else scale).expand(shape)


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
