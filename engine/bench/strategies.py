"""The eight ways to run a model with a LoRA, each as one class: load, switch strength, step.

They run the reference transformer on the CPU in float32, as ComfyUI does there. A weight that lives
off the device is copied for each use, as streaming it would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from ..errors import Refused
from ..files.open import open_source
from ..fuse.adapter import Operands
from ..fuse.lora import Change, Fused, LoraFile, match, open_lora
from ..layer import Layer
from ..measure.config import FluxConfig, config_of
from ..measure.quality import Inputs, block_linears, make_inputs, output
from ..measure.transformer import Linear
from ..model import Model, recognise
from ..pipeline import Request, convert, prepare
from ..read import read
from ..rows import all_schemes, row_count, rows_of
from ..source import Source
from ..tensors import dtype_name

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """What every strategy runs: the model, the LoRA, the scheme, a folder for files of its own."""

    model: Path
    lora: Path
    scheme: str
    folder: Path
    grid: tuple[int, int] = (16, 16)
    text_tokens: int = 64


class Opened:
    """A checkpoint: layers by key, their rows, and the LoRA's change of each at any strength."""

    def __init__(self, path: Path, lora: Path | None = None) -> None:
        self.source: Source = open_source(path)
        self.model: Model = recognise(read(self.source))
        self.layers: Mapping[str, Layer] = {layer.key: layer for layer in self.model.layers}
        self._lora = lora

    def fused(self, strength: float) -> Fused:
        """What the LoRA changes at this strength."""
        files: list[LoraFile] = [open_lora(self._lora, strength)] if self._lora else []
        return match(files, self.model) if files else Fused()

    def plain(self, key: str) -> torch.Tensor:
        """A parameter as it is stored, a view of the mapped file."""
        return self.source.tensor(self.layers[key].parts[0].tensors["weight"])

    def whole(self, key: str, fused: Fused | None = None) -> torch.Tensor:
        """A parameter in float32 with the LoRA's change, fresh."""
        layer = self.layers[key]
        rows = rows_of(layer, self.source)
        rows = fused.reader(layer, rows) if fused else rows
        return rows(0, row_count(layer)).reshape(layer.shape)

    def tensors(self, key: str) -> tuple[Tensors, Mapping[str, object]]:
        """The stored tensors of a quantized weight, copied, and its settings."""
        part = self.layers[key].parts[0]
        held = {role: self.source.tensor(name).clone() for role, name in part.tensors.items()}
        return held, part.settings


@dataclass
class Quantized:
    """One quantized weight in memory."""

    scheme: str
    tensors: Tensors
    settings: Mapping[str, object]

    def numbers(self) -> torch.Tensor:
        """The weight in float32."""
        return all_schemes()[self.scheme].dequantize(self.tensors, self.settings)

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x times the weight, plus the bias."""
        return all_schemes()[self.scheme].linear(x, self.tensors, self.settings, bias)


def quantized(scheme: str, weight: torch.Tensor) -> Quantized:
    """A weight quantized in memory, by nearest rounding."""
    found = all_schemes()[scheme]
    settings = {**found.config(*weight.shape), **found.settings}
    return Quantized(scheme, found.quantize(weight, None, dtype_name(weight.dtype)), settings)


class Strategy:
    """The base: the source in bf16 in memory, nothing fused. `names` are the layers of the LoRA."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.source = Opened(task.model, task.lora)
        self.config: FluxConfig = config_of(self.source.model.shapes)
        self.inputs: Inputs = make_inputs(self.config, task.grid, task.text_tokens)
        self.touched = [key for key in self.source.fused(1.0).changes if key.endswith(".weight")]
        self.names = block_linears(self.config)
        self.held: Tensors = {}
        self.codes: dict[str, Quantized] = {}

    def load(self, strength: float) -> None:
        """From files to the first step."""
        self.held = {key: self.source.plain(key).clone() for key in self.source.layers}
        self.switch(strength)

    def switch(self, strength: float) -> None:
        """The LoRA at another strength."""
        raise NotImplementedError

    def get(self, key: str) -> torch.Tensor:
        """A parameter as the transformer asks for it."""
        return self.held[key]

    def linears(self) -> Mapping[str, Linear]:
        """Layers that are more than a plain product."""
        return {name: self._bound(name) for name in self.codes}

    def _bound(self, name: str) -> Linear:
        code, bias = self.codes[name], self.held.get(f"{name}.bias")

        def linear(x: torch.Tensor) -> torch.Tensor:
            return code.linear(x, None if bias is None else bias.to(x.dtype))

        return linear

    def numbers(self, name: str) -> torch.Tensor:
        """What a layer multiplies with, in float32."""
        if name in self.codes:
            return self.codes[name].numbers()
        return self.get(f"{name}.weight").float()

    def step(self) -> torch.Tensor:
        """One call of the transformer."""
        return output(self.config, _Parameters(self), self.inputs, self.linears())

    @property
    def bytes(self) -> int:
        """What its weights take on the device."""
        held = sum(
            t.nbytes for k, t in self.held.items() if k.removesuffix(".weight") not in self.codes
        )
        return held + sum(t.nbytes for c in self.codes.values() for t in c.tensors.values())


class _Parameters(Mapping[str, torch.Tensor]):
    """The parameters of a strategy, one at a time."""

    def __init__(self, of: Strategy) -> None:
        self._of = of

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._of.get(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of.source.layers)

    def __len__(self) -> int:
        return len(self._of.source.layers)


class LoraPatch(Strategy):
    """Stock: the LoRA is added to the 16-bit weights when they are loaded."""

    def switch(self, strength: float) -> None:
        fused = self.source.fused(strength)
        for key in self.touched:
            self.held[key] = self.source.whole(key, fused).to(self.source.plain(key).dtype)


class QuantizeThenLora(Strategy):
    """A quantized model, then a stock LoRA: dequantized, added, quantized a second time."""

    def load(self, strength: float) -> None:
        self._base = Opened(_made(self.task, None))
        self.held = {
            key: self._base.plain(key).clone()
            for key, layer in self._base.layers.items()
            if layer.scheme == "none"
        }
        self.switch(strength)

    def switch(self, strength: float) -> None:
        fused = self.source.fused(strength)
        for key, layer in self._base.layers.items():
            if layer.scheme == "none":
                continue
            if key in self.touched:
                again = self._base.whole(key, fused)
                self.codes[layer.name] = quantized(layer.scheme, again)
            elif layer.name not in self.codes:
                self.codes[layer.name] = Quantized(layer.scheme, *self._base.tensors(key))


class LoraThenQuantize(Strategy):
    """A stock LoRA on the 16-bit weights, then everything quantized from them in memory."""

    def load(self, strength: float) -> None:
        chosen = _chosen(self.task)
        self.held = {
            key: self.source.plain(key).clone()
            for key, layer in self.source.layers.items()
            if layer.name not in chosen or not layer.is_matrix
        }
        self._chosen = chosen
        self.switch(strength)

    def switch(self, strength: float) -> None:
        fused = self.source.fused(strength)
        for key, layer in self.source.layers.items():
            if not layer.is_matrix:
                continue
            dtype = self.source.plain(key).dtype
            if layer.name in self._chosen:
                weight = self.source.whole(key, fused).to(dtype)  # rounded to 16 bits by the patch
                self.codes[layer.name] = quantized(self.task.scheme, weight)
            elif key in self.touched:
                self.held[key] = self.source.whole(key, fused).to(dtype)


class FusedOnly(Strategy):
    """LoRAs fused in float32 into weights of its own, 16 bits, rounded once."""

    def switch(self, strength: float) -> None:
        fused = self.source.fused(strength)
        for key in self.touched:
            self.held[key] = self.source.whole(key, fused).to(self.source.plain(key).dtype)


class FusedQuantized(Strategy):
    """Fused, quantized once, kept in a file: a strength that was used before is a file load."""

    def load(self, strength: float) -> None:
        self.switch(strength)

    def switch(self, strength: float) -> None:
        made = Opened(_made(self.task, strength))
        self.held, self.codes = {}, {}
        for key, layer in made.layers.items():
            if layer.scheme == "none":
                self.held[key] = made.plain(key).clone()
            else:
                self.codes[layer.name] = Quantized(layer.scheme, *made.tensors(key))


class LowVram(Strategy):
    """Nothing stays on the device: each weight is brought in and patched for each use."""

    def load(self, strength: float) -> None:
        self.switch(strength)

    def switch(self, strength: float) -> None:
        self._fused = self.source.fused(strength)

    def get(self, key: str) -> torch.Tensor:
        if key in self.touched:
            return self.source.whole(key, self._fused).to(self.source.plain(key).dtype)
        return self.source.plain(key).clone()

    @property
    def bytes(self) -> int:
        return 0


class LowVramFused(FusedOnly):
    """Fused weights that live off the device: each is brought in for each use, nothing is added."""

    def get(self, key: str) -> torch.Tensor:
        return super().get(key).clone()

    @property
    def bytes(self) -> int:
        return 0


@dataclass
class _Branch:
    """up (N, r) with alpha / r in it, down (r, K)."""

    up: torch.Tensor
    down: torch.Tensor


@dataclass
class _Strength:
    value: float = 0.0
    branches: dict[str, _Branch] = field(default_factory=dict)


class LiveLora(Strategy):
    """A quantized model with the LoRA beside its weights: y += strength (x down.T) up.T."""

    def load(self, strength: float) -> None:
        base = Opened(_made(self.task, None))
        self._live = _Strength()
        for key, layer in base.layers.items():
            if layer.scheme == "none":
                self.held[key] = base.plain(key).clone()
            else:
                self.codes[layer.name] = Quantized(layer.scheme, *base.tensors(key))
        for key, changes in self.source.fused(1.0).changes.items():
            self._live.branches[self.source.layers[key].name] = _branch(changes)
        self.switch(strength)

    def switch(self, strength: float) -> None:
        self._live.value = strength

    def linears(self) -> Mapping[str, Linear]:
        plain = {name: super(LiveLora, self)._bound(name) for name in self.codes}
        return {
            name: self._live_linear(name, plain.get(name) or self._float(name))
            for name in {*plain, *self._live.branches}
        }

    def _float(self, name: str) -> Linear:
        weight, bias = self.held[f"{name}.weight"], self.held[f"{name}.bias"]
        return lambda x: F.linear(x, weight.to(x), bias.to(x))

    def _live_linear(self, name: str, base: Linear) -> Linear:
        branch = self._live.branches.get(name)
        if branch is None:
            return base

        def linear(x: torch.Tensor) -> torch.Tensor:
            side = F.linear(F.linear(x, branch.down.to(x)), branch.up.to(x))
            return base(x).add_(side, alpha=self._live.value)

        return linear

    def numbers(self, name: str) -> torch.Tensor:
        branch = self._live.branches.get(name)
        plain = super().numbers(name)
        return plain if branch is None else plain + self._live.value * branch.up @ branch.down


def _branch(changes: Sequence[Change]) -> _Branch:
    """The factors of a layer's one plain low-rank adapter."""
    change = changes[0]
    if len(changes) > 1 or change.kind != "lora" or change.target.rows is not None:
        raise Refused(
            "live-lora-kind",
            found=f"{len(changes)} adapters of kind {change.kind} on one layer",
            expected="one plain low-rank adapter on each whole layer",
            fix="give a LoRA in kohya's spelling",
        )
    operands = Operands(change.file.source, change.names, 1.0, change.target.key)
    up, down = operands.load("up").float(), operands.load("down").float()
    return _Branch(up * operands.scale(down.shape[0]), down)


def _chosen(task: Task) -> set[str]:
    """The layers that the scheme takes."""
    prepared = prepare(open_source(task.model), (), Request(scheme=task.scheme))
    names = {choice.layer.name for choice in prepared.plan.choices if choice.scheme != "none"}
    prepared.close()
    return names


def _made(task: Task, strength: float | None) -> Path:
    """The converted file, fused at a strength or plain, made when it is first asked for."""
    told = "plain" if strength is None else f"{strength:g}"
    path = task.folder / f"{task.scheme}-{told}.safetensors"
    if not path.exists():
        loras = [] if strength is None else [open_lora(task.lora, strength)]
        convert(prepare(open_source(task.model), loras, Request(scheme=task.scheme)), path)
    return path


STRATEGIES: dict[str, Callable[[Task], Strategy]] = {
    "lora_patch": LoraPatch,
    "quantize_then_lora": QuantizeThenLora,
    "lora_then_quantize": LoraThenQuantize,
    "fused": FusedOnly,
    "fused_quantized": FusedQuantized,
    "low_vram": LowVram,
    "low_vram_fused": LowVramFused,
    "live_lora": LiveLora,
}
# strategies that quantize: the others are the same whatever the scheme
WITH_SCHEME = ("quantize_then_lora", "lora_then_quantize", "fused_quantized", "live_lora")
