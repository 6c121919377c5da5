"""FQSpeed: a MODEL and ways to make it faster in, a MODEL that uses them and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import speed


class SpeedOptions(io.ComfyNode):
    """Speed Options."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQSpeed",
            display_name="Speed Options",
            category="FuseQuant",
            description="Attention backend, torch.compile and TF32 for this model alone, by "
            "ComfyUI's own mechanisms. Nothing stays set after sampling.",
            search_aliases=["sage attention", "torch compile", "tf32", "fp8 attention"],
            inputs=[
                io.Model.Input("model", tooltip="The model. Quantize it before this node."),
                io.Combo.Input(
                    "attention", options=speed.attention_names(), default=speed.AUTO,
                    tooltip="Who computes attention: ComfyUI's registered functions. auto leaves "
                    "it as it is. fp8 is listed only where a backend computes in fp8.",
                ),
                io.Combo.Input(
                    "compile", options=list(speed.COMPILERS), default=speed.OFF, optional=True,
                    tooltip="torch.compile of the diffusion model: the first step takes much "
                    "longer, and every new size or model compiles again.",
                ),
                io.Combo.Input(
                    "tf32", options=list(speed.TF32), default=speed.UNCHANGED, optional=True,
                    advanced=True,
                    tooltip="Whether float32 products may be rounded to TF32 while this model is "
                    "sampled. NVIDIA from sm_80 on.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The same model with these options."),
                io.String.Output(
                    display_name="report", tooltip="What is set and what is not offered here."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, attention: Any = None) -> bool | str:
        """Say why a backend that a workflow asks for is not here."""
        return speed.check_attention(attention)

    @classmethod
    def execute(
        cls, model: Any, attention: str, compile: str | None = None, tf32: str | None = None
    ) -> io.NodeOutput:
        """Set the options on a clone."""
        faster, report = speed.speed_up(model, attention, compile, tf32)
        return io.NodeOutput(faster, report.text(), ui=ui.PreviewText(report.text()))


NODE = SpeedOptions
