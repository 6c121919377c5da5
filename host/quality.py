"""A reference and a MODEL (or two pictures) in, how far apart they are and whether that passes out.

Layers are read one at a time in float32. LoRAs that the model has fused or carries, and that the
reference has not, are added to the reference first: the measure is of rounding, not of the LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..engine.errors import Refused
from ..engine.measure.delta import LayerDelta, LoraLeft, delta_left, lora_left
from ..engine.measure.errors import LayerError, layer_error
from ..engine.measure.heatmap import heatmap
from ..engine.measure.images import ImageLikeness, likeness
from ..engine.measure.picture import blank, pixels
from ..engine.measure.verdict import Measured, Thresholds, Verdict, judge
from .effective import effective, ideal, linear_weights
from .end_to_end import EndToEnd, Sampling, end_to_end, with_patches
from .lora import ATTACHMENT
from .model import merged, quantizing_device
from .pristine import recipe_of
from .progress import host_progress
from .report import shown

ROOT = "diffusion_model."
WORST_SHOWN = 5
SAMPLE_ROWS = 512  # rows of a layer that are read, evenly spread, unless every row is asked for
Patches = Mapping[str, list[Any]]


@dataclass
class Quality:
    """Everything that was measured, with what it was measured on in `notes`."""

    verdict: Verdict
    measured: Measured
    run: EndToEnd | None = None
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The lines of the report: the verdict and its reasons first."""
        said = "passed" if self.verdict.passed else "not passed"
        lines = [f"Quality Meter: {said}", *(f"- {why}" for why in self.verdict.failures)]
        lines += [*self.notes, *_layer_lines(self.measured.layers)]
        lines += [_lora_line(lora) for lora in self.measured.loras]
        if self.run is not None:
            lines.append(
                f"end to end, {self.run.steps} steps at seed {self.run.seed}: latent error "
                f"{self.run.latent_error:.4f}"
            )
        lines += _image_lines(self.measured.image)
        return "\n".join(lines)

    def chart(self) -> torch.Tensor:
        """A heat map over the blocks as a picture; a white pixel where there is nothing to draw."""
        named = [layer for layer in self.measured.layers if layer.name]
        figure = heatmap(named, "Weight error by block", _chart_note(named)) if named else ""
        if isinstance(figure, str):
            self.notes += [figure] if figure else []
            return blank()
        return pixels(figure)


def measure(
    models: tuple[Any, Any] | None, pictures: tuple[torch.Tensor, torch.Tensor] | None,
    allowed: Thresholds, sampling: Sampling | None = None, every_row: bool = False,
) -> Quality:  # fmt: skip
    """Judge a pair of models, a pair of pictures or both."""
    if models is None and pictures is None:
        raise Refused(
            "nothing-to-measure",
            found="no pair of models and no pair of pictures",
            expected="reference and model, or image_reference and image",
            fix="connect both of a pair",
        )
    quality = Quality(Verdict(()), Measured())
    layers: list[LayerError] = []
    loras: list[LoraLeft] = []
    image = likeness(*pictures) if pictures is not None else None
    if models is not None:
        wanted = _wanted(*models, quality.notes)
        layers, loras = compare_weights(*models, wanted, every_row)
        quality.notes.append(_rows_note(every_row))
        if sampling is not None:
            quality.run = end_to_end(with_patches(models[0], dict(wanted)), models[1], sampling)
            image = image or quality.run.image
    error = quality.run.latent_error if quality.run else None
    quality.measured = Measured(layers, loras, error, image)
    quality.verdict = judge(quality.measured, allowed)
    return quality


def _wanted(reference: Any, patcher: Any, notes: list[str]) -> Patches:
    """The patches that the reference should have: its own, or those that went into the model."""
    if reference.patches:
        return dict(reference.patches)
    recipe = recipe_of(patcher)
    found = merged(recipe.patches if recipe else {}, patcher.patches)
    if found:
        notes.append(
            "the LoRAs of the model are added to the reference, in float32, before they are "
            "compared"
        )
    return found


def compare_weights(
    reference: Any, patcher: Any, wanted: Patches, every_row: bool = False
) -> tuple[list[LayerError], list[LoraLeft]]:
    """Every Linear that both have, worst first; what is left of the LoRAs together."""
    shapes, others = linear_weights(reference), linear_weights(patcher)
    common = [key for key, shape in shapes.items() if others.get(key) == shape]
    if not common:
        raise Refused(
            "nothing-to-compare",
            found=f"no layer of one name and shape among {len(shapes)} and {len(others)}",
            expected="two versions of one model",
            fix="connect the model before Quantize Model as the reference",
        )
    device, progress = quantizing_device(patcher.load_device), host_progress()
    layers, deltas = [], []
    for at, key in enumerate(common):
        progress(at, len(common))
        rows = _rows(shapes[key][0], every_row)
        fused = ideal(reference, key, dict(wanted), device)[rows]
        stored = effective(patcher, key, device)[rows]
        name = key.removeprefix(ROOT).removesuffix(".weight")
        layers.append(layer_error(name, fused, stored))
        if key in wanted:
            plain = ideal(reference, key, {}, device)[rows]
            deltas.append(LayerDelta(name, delta_left(plain, fused, stored, tuple(plain.shape))))
    progress(len(common), len(common))
    layers.sort(key=_badness)
    named = _lora_names(patcher) or _lora_names(reference) or "the LoRAs"
    return layers, [lora_left(named, deltas)] if deltas else []


def _badness(layer: LayerError) -> tuple[bool, float]:
    """Broken layers first, then by error."""
    broken = layer.relative_error != layer.relative_error
    return not broken, -layer.relative_error


def _rows(count: int, every_row: bool) -> Any:
    """All rows, or a fixed number of them, evenly spread."""
    if every_row or count <= SAMPLE_ROWS:
        return slice(None)
    return torch.linspace(0, count - 1, SAMPLE_ROWS, dtype=torch.float64).round().long()


def _rows_note(every_row: bool) -> str:
    said = "every row" if every_row else f"{SAMPLE_ROWS} rows, evenly spread, of each layer"
    return f"weights: {said} compared"


def _lora_names(patcher: Any) -> str:
    uses = patcher.get_attachment(ATTACHMENT) or ()
    return ", ".join(Path(use.file).name for use in uses)


def _layer_lines(layers: Sequence[LayerError]) -> list[str]:
    if not layers:
        return []
    mean = sum(layer.relative_error for layer in layers) / len(layers)
    lines = [f"{len(layers)} layers, mean weight error {mean:.4f}; the worst:"]
    for layer in layers[:WORST_SHOWN]:
        lines.append(
            f"  {layer.name}: {layer.relative_error:.4f}, worst row {layer.worst_row:.4f}, "
            f"cosine {layer.cosine:.5f}"
        )
    return lines


def _lora_line(lora: LoraLeft) -> str:
    total = lora.sums
    least = shown([layer.name for layer in lora.layers])
    return (
        f"{lora.lora}: {100 * total.kept:.1f} % of the effect is left on {len(lora.layers)} layers "
        f"(norm ratio {total.norm_ratio:.2f}, cosine {total.cosine:.3f}); least on {least}"
    )


def _image_lines(image: ImageLikeness | None) -> list[str]:
    if image is None:
        return []
    lpips = image.lpips_refusal if image.lpips is None else f"LPIPS {image.lpips:.3f}"
    return [
        f"picture: PSNR {image.psnr:.1f} dB, SSIM {image.ssim:.3f}, luminosity "
        f"{image.luminosity:.1f} of 255 (reference {image.luminosity_reference:.1f}); {lpips}"
    ]


def _chart_note(layers: Sequence[LayerError]) -> str:
    return f"worst: {layers[0].name}, {100 * layers[0].relative_error:.2f} %" if layers else ""
