"""FQQuality: a reference and a MODEL, or two pictures, in; pass, a chart and a report out."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from ..engine.measure.verdict import LEVELS, thresholds
from ..host import quality
from ..host.end_to_end import Sampling

LEVEL_TIP = (
    "What is allowed. strict: a picture that the eye takes for the same. normal: a good 8-bit "
    "model. loose: a good 4-bit model. NaN and a black picture never pass."
)
# advanced number: (the threshold it replaces, what it is)
LIMITS = {
    "max_weight_error": ("layer_error", "Largest relative weight error of any layer."),
    "min_lora_kept": ("lora_kept", "Least share of the LoRAs' effect that must be left."),
    "max_latent_error": ("latent_error", "Largest relative difference of the two latents."),
    "min_psnr": ("psnr", "Least PSNR of the two pictures in dB."),
    "min_ssim": ("ssim", "Least structural similarity of the two pictures."),
}


class QualityMeter(io.ComfyNode):
    """Quality Meter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQQuality",
            display_name="Quality Meter",
            category="FuseQuant",
            description="Measures what quantizing cost: weights layer by layer, what is left of "
            "the LoRAs, and both models sampled from one seed. Says whether that passes.",
            search_aliases=["quality", "compare models", "psnr", "ssim", "black image", "error"],
            is_output_node=True,
            inputs=[*_models(), *_pictures(), *_sampling(), *_limits()],
            outputs=[
                io.Boolean.Output(display_name="pass", tooltip="Whether nothing failed."),
                io.Image.Output(
                    display_name="chart", tooltip="Weight error by block, as a heat map."
                ),
                io.String.Output(
                    display_name="report", tooltip="The verdict, its reasons and every number."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, reference: Any = None, model: Any = None, level: str | None = None, **more: Any
    ) -> io.NodeOutput:
        """Measure what is connected."""
        own = {name: more.get(asked) for asked, (name, _) in LIMITS.items()}
        found = quality.measure(
            pair(reference, model), pair(more.get("image_reference"), more.get("image")),
            thresholds(level, **own), sampling_of(more), bool(more.get("every_row")),
        )  # fmt: skip
        chart, text = found.chart(), found.text()
        return io.NodeOutput(found.verdict.passed, chart, text, ui=ui.PreviewText(text))


def pair(first: Any, second: Any) -> tuple[Any, Any] | None:
    """Both of a pair, or nothing."""
    return None if first is None or second is None else (first, second)


def sampling_of(given: dict[str, Any]) -> Sampling | None:
    """How to sample, where a prompt and a latent are connected; what is None keeps its default."""
    positive, latent = given.get("positive"), given.get("latent_image")
    if positive is None or latent is None:
        return None
    negative = given.get("negative")
    names = ("seed", "steps", "cfg", "sampler", "scheduler", "vae")
    said = {name: given[name] for name in names if given.get(name) is not None}
    return Sampling(positive, positive if negative is None else negative, latent, **said)


def _models() -> list[Any]:
    return [
        io.Model.Input(
            "reference",
            optional=True,
            tooltip="The model before it was quantized: the output of Fuse LoRA or of the loader.",
        ),
        io.Model.Input("model", optional=True, tooltip="The model to judge."),
        io.Combo.Input(
            "level", options=list(LEVELS), default="normal", optional=True, tooltip=LEVEL_TIP
        ),
    ]


def _pictures() -> list[Any]:
    return [
        io.Image.Input(
            name, optional=True, advanced=True, tooltip=f"{what}; a pair of pictures is judged "
            "too, with models or without.",
        )
        for name, what in (
            ("image_reference", "The picture of the reference"),
            ("image", "The picture to judge"),
        )
    ]  # fmt: skip


def _sampling() -> list[Any]:
    """What it takes to sample both models; all of it optional."""
    more: dict[str, Any] = {"optional": True, "advanced": True}
    return [
        io.Conditioning.Input(
            "positive", **more,
            tooltip="With a prompt and a latent both models are sampled from one seed.",
        ),
        io.Conditioning.Input("negative", **more, tooltip="The negative prompt, for cfg above 1."),
        io.Latent.Input("latent_image", **more, tooltip="What both samplings start from."),
        io.Vae.Input("vae", **more, tooltip="Decodes both latents, to compare the pictures."),
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, **more, tooltip="Seed of the noise of both."
        ),
        io.Int.Input(
            "steps", default=4, min=1, max=1000, **more,
            tooltip="Steps of each sampling. A few are enough; many drift apart by chance.",
        ),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=100.0, step=0.1, **more, tooltip="As in KSampler."
        ),
        io.Combo.Input(
            "sampler", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler", **more,
            tooltip="As in KSampler.",
        ),
        io.Combo.Input(
            "scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), default="simple",
            **more, tooltip="As in KSampler.",
        ),
    ]  # fmt: skip


def _limits() -> list[Any]:
    more: dict[str, Any] = {"optional": True, "advanced": True}
    return [
        *(
            io.Float.Input(
                name, min=0.0, max=1000.0, step=0.001, **more,
                tooltip=f"{what} Empty: as the level says.",
            )
            for name, (_, what) in LIMITS.items()
        ),
        io.Boolean.Input(
            "every_row", default=False, **more,
            tooltip="Read every row of every layer, not an even sample of 512 of each.",
        ),
    ]  # fmt: skip


NODE = QualityMeter
