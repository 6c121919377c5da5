"""FQAdvisor: a model and a goal in, how to run it on a machine out, as a plan and as a report."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import advice, paths
from ._files import stamp


class Advisor(io.ComfyNode):
    """GPU Advisor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQAdvisor",
            display_name="GPU Advisor",
            category="FuseQuant",
            description="Says how to run a model on this machine or another one: scheme, VRAM "
            "mode, text encoder, LoRAs, speed options, each with its reason. Reads headers only.",
            search_aliases=["which quantization", "gpu advice", "will it fit", "vram calculator"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model", options=advice.model_names(),
                    tooltip="A file or folder of models/diffusion_models, or a public model by "
                    "name: its header is known, so that the file need not be here.",
                ),
                io.Combo.Input(
                    "goal", options=list(advice.GOALS), default=advice.GOALS[0],
                    tooltip="speed: the original if it fits, else the fastest. memory: the fewest "
                    "bytes. quality: the smallest error, streamed if need be.",
                ),
                *_advanced(),
            ],
            outputs=[
                io.Custom("FQ_PLAN").Output(
                    display_name="plan",
                    tooltip="Connect it to Quantize Model (with scheme auto) and to VRAM Manager.",
                ),
                io.String.Output(
                    display_name="report", tooltip="The setup, its reasons, and the alternatives."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(
        cls, model: str, second_model: str | None = None, text_encoder: str | None = None, **_: Any
    ) -> str:
        """Other bytes under the same names are another input."""
        files = [("diffusion_models", model), ("diffusion_models", second_model)]
        files.append(("text_encoders", text_encoder))
        return ";".join(stamp(kind, name) for kind, name in files if name)

    @classmethod
    def execute(
        cls, model: str, goal: str, distill_lora: bool | None = None,
        style_lora: bool | None = None, width: int | None = None, height: int | None = None,
        frames: int | None = None, batch: int | None = None, gpu: str | None = None,
        vram_gb: float | None = None, ram_gb: float | None = None,
        second_model: str | None = None, text_encoder: str | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Ask the engine."""
        plan, report = advice.advice(
            advice.Asked(
                advice.chosen_models(model, second_model), goal, gpu or advice.AUTO,
                vram_gb or None, ram_gb or None, width or None, height or None, frames or None,
                batch or 1, bool(distill_lora), bool(style_lora), advice.chosen_text(text_encoder),
            )
        )  # fmt: skip
        return io.NodeOutput(plan, report, ui=ui.PreviewText(report))


def _advanced() -> list[Any]:
    """What few need; 0, auto and none are the defaults."""
    return [
        *_loras(),
        *_picture(),
        io.Combo.Input(
            "gpu", options=advice.gpu_names(), default=advice.AUTO, optional=True, advanced=True,
            tooltip="auto: this machine. Another name: advice for that card.",
        ),
        io.Float.Input(
            "vram_gb", default=0.0, min=0.0, max=1024.0, step=1.0, optional=True, advanced=True,
            tooltip="Memory of the GPU in GB. 0: what is there, or the card's smallest variant.",
        ),
        io.Float.Input(
            "ram_gb", default=0.0, min=0.0, max=4096.0, step=1.0, optional=True, advanced=True,
            tooltip="Main memory in GB. 0: what is there; of another machine it is not limited.",
        ),
        io.Combo.Input(
            "second_model", options=[advice.NONE, *paths.names(advice.MODELS)],
            default=advice.NONE, optional=True, advanced=True,
            tooltip="A model of the same shape that takes turns with the first: Wan 2.2's low "
            "noise file. Public models that come as a pair count as two by themselves.",
        ),
        io.Combo.Input(
            "text_encoder", options=[advice.AUTO, *paths.names("text_encoders")],
            default=advice.AUTO, optional=True, advanced=True,
            tooltip="auto: what the model's users load beside it.",
        ),
    ]  # fmt: skip


def _loras() -> list[Any]:
    return [
        io.Boolean.Input(
            "distill_lora", default=False, optional=True, advanced=True,
            tooltip="A LoRA that stays on at one strength, such as Lightning: it is fused, and "
            "guidance is taken to be off.",
        ),
        io.Boolean.Input(
            "style_lora", default=False, optional=True, advanced=True,
            tooltip="A LoRA whose strength you change: it stays beside the weights.",
        ),
    ]  # fmt: skip


def _picture() -> list[Any]:
    sizes = [
        io.Int.Input(
            name, default=0, min=0, max=16384, step=8, optional=True, advanced=True,
            tooltip=f"{name.capitalize()} of what you sample. 0: what the model's users ask for.",
        )
        for name in ("width", "height")
    ]  # fmt: skip
    return [
        *sizes,
        io.Int.Input(
            "frames", default=0, min=0, max=4096, optional=True, advanced=True,
            tooltip="Frames of a video; models for pictures do not read it. 0: as above.",
        ),
        io.Int.Input(
            "batch", default=1, min=1, max=4096, optional=True, advanced=True,
            tooltip="Pictures at once.",
        ),
    ]  # fmt: skip


NODE = Advisor
