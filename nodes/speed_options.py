"""FQSpeed: a MODEL and ways to make it faster in, a MODEL that uses them and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import speed
from ._stages import RUN

ALIASES = [
    "sage attention", "sageattention", "flash attention", "fp8 attention", "torch compile", "tf32",
    "speed up", "faster", "compute dtype", "bf16",
]  # fmt: skip
ATTENTION_TIP = (
    "Who computes attention: ComfyUI's registered functions. auto leaves it as it is: ComfyUI uses "
    "torch's flash attention, which is exact, where the device has it. sage rounds to int8: it "
    "pays in video and is not exact. fp8 is listed only where a backend computes in fp8."
)


class SpeedOptions(io.ComfyNode):
    """Speed Options."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQSpeed",
            display_name="Speed Options",
            category=RUN,
            description="Attention backend, torch.compile, TF32 and compute dtype for this model "
            "alone, by ComfyUI's own mechanisms. Nothing stays set after sampling.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model. Quantize it before this node."),
                io.Combo.Input(
                    "attention", options=speed.attention_names(), default=speed.AUTO,
                    tooltip=ATTENTION_TIP,
                ),
                io.Combo.Input(
                    "compile", options=list(speed.COMPILERS), default=speed.OFF, optional=True,
                    tooltip="torch.compile of the diffusion model: joins what quantizing adds "
                    "around each product. The first step takes long, and every new size or model "
                    "compiles again; not worth it for one picture.",
                ),
                io.Combo.Input(
                    "tf32", options=list(speed.TF32), default=speed.UNCHANGED, optional=True,
                    advanced=True,
                    tooltip="Whether float32 products may be rounded to TF32 while this model is "
                    "sampled. NVIDIA from sm_80 on. A model in bf16, fp16 or 8 bits gains nothing.",
                ),
                io.Combo.Input(
                    "compute", options=list(speed.COMPUTE), default=speed.UNCHANGED, optional=True,
                    advanced=True,
                    tooltip="What is not quantized, and the activations, in this dtype. bf16 is "
                    "for CPUs with AVX-512 or AMX, where ComfyUI computes in fp32. Quantized "
                    "layers stay quantized.",
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
        cls, model: Any, attention: str, compile: str | None = None, tf32: str | None = None,
        compute: str | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Set the options on a clone."""
        faster, report = speed.speed_up(model, attention, compile, tf32, compute)
        return io.NodeOutput(faster, report.text(), ui=ui.PreviewText(report.text()))


NODE = SpeedOptions
