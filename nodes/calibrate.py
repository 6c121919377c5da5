"""FQCalibrate: a MODEL and prompts in, the MODEL with measured scales and a report out."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from ..host.calibrate import Sampling, calibrate, save_scales
from ..host.pristine import recipe_of
from ._stages import QUANTIZE


class Calibrate(io.ComfyNode):
    """Calibrate FP8."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQCalibrate",
            display_name="Calibrate FP8",
            category=QUANTIZE,
            description="Samples the model for a few steps, measures what goes into each layer and "
            "sets the input_scale of its fp8 layers. Before Quantize Model it measures for it.",
            search_aliases=["input_scale", "activation scale", "fp8 static", "calibration"],
            inputs=[
                io.Model.Input("model", tooltip="A MODEL, quantized to fp8 or still to be."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="Prompts as they will be used. Several conditionings in one list are "
                    "sampled one after the other.",
                ),
                io.Latent.Input("latent", tooltip="A latent of the size that will be sampled."),
                *_advanced(),
            ],
            outputs=[
                io.Model.Output(tooltip="The same model with measured scales."),
                io.String.Output(
                    display_name="report", tooltip="Which layers, which scales, what they prevent."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, positive: Any, latent: Any, steps: int | None = None,
        negative: Any = None, seed: int | None = None, cfg: float | None = None,
        sampler: str | None = None, scheduler: str | None = None, margin: float | None = None,
        percentile: float | None = None, save_scales_as: str | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Sample and measure."""
        usual = Sampling()
        sampling = Sampling(
            steps or usual.steps, seed or 0, usual.cfg if cfg is None else cfg,
            sampler or usual.sampler, scheduler or usual.scheduler,
        )  # fmt: skip
        made, report = calibrate(
            model, positive, negative, latent, sampling, margin or 1.1, percentile or 100.0
        )
        recipe = recipe_of(made)
        if save_scales_as and recipe is not None:
            file = save_scales(recipe.request.input_scales, save_scales_as)
            report.notes.append(f"scales written to {file}")
        return io.NodeOutput(made, report.text(), ui=ui.PreviewText(report.text()))


def _advanced() -> list[Any]:
    more: dict[str, Any] = {"optional": True, "advanced": True}
    return [
        io.Int.Input(
            "steps", default=4, min=1, max=100, **more,
            tooltip="Steps for each prompt. The first and the last step of a schedule differ most; "
            "four see both.",
        ),
        io.Conditioning.Input(
            "negative", **more, tooltip="Used where cfg is not 1; zeros where it is left out."
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, **more,
            tooltip="Of the noise; each further prompt takes the next one.",
        ),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=100.0, step=0.1, **more,
            tooltip="As it will be used.",
        ),
        io.Combo.Input(
            "sampler", options=list(comfy.samplers.SAMPLER_NAMES), default="euler", **more,
            tooltip="As it will be used.",
        ),
        io.Combo.Input(
            "scheduler", options=list(comfy.samplers.SCHEDULER_NAMES), default="simple", **more,
            tooltip="As it will be used.",
        ),
        io.Float.Input(
            "margin", default=1.1, min=0.1, max=10.0, step=0.05, **more,
            tooltip="The scale is this much larger than what was measured needs: room for prompts "
            "that were not.",
        ),
        io.Float.Input(
            "percentile", default=100.0, min=50.0, max=100.0, step=0.001, **more,
            tooltip="100 holds the largest input. 99.99 cuts off one input of 10000, so that the "
            "others may be rounded more finely.",
        ),
        io.String.Input(
            "save_scales_as", default="", **more,
            tooltip="Also write the scales as JSON below ComfyUI's output folder, for fusequant "
            "convert --input-scales. Empty: no file.",
        ),
    ]  # fmt: skip


NODE = Calibrate
