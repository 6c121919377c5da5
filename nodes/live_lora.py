"""FQLiveLoRA: a quantized MODEL and LoRA files in, the MODEL with LoRAs beside its codes out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import live_lora as host
from ..host.lora_match import Lora
from ._loras import loras_input, paths_of, rslora_input, stamps_of
from ._stages import RUN

ALIASES = [
    "lora", "bypass lora", "lora strength", "lora stack", "lora loader", "lora after quantization",
    "lora fp8", "lora int8",
]  # fmt: skip


class LiveLoRA(io.ComfyNode):
    """Live LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQLiveLoRA",
            display_name="Live LoRA",
            category=RUN,
            description="Runs LoRAs beside the quantized weights. Changing a strength quantizes "
            "nothing and rewrites no weight; each step computes a little more.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="A quantized model: after Quantize Model."),
                loras_input(),
                rslora_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRAs beside its weights."),
                io.String.Output(
                    display_name="report",
                    tooltip="What matched, what did not, and on how many layers it is live.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, count: Any = None, **_: Any) -> str:
        """Other bytes under the same names are another input."""
        return stamps_of(count)

    @classmethod
    def execute(
        cls, model: Any, count: Any = None, rank_stabilized: bool | None = None
    ) -> io.NodeOutput:
        """Add the branches to a copy."""
        loras = [Lora(path, strength, bool(rank_stabilized)) for path, strength in paths_of(count)]
        result, report = host.add_live_loras(model, loras)
        return io.NodeOutput(result, report.text(), ui=ui.PreviewText(report.text()))


NODE = LiveLoRA
