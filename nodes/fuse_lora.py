"""FQFuseLoRA: a MODEL and LoRA files in, the MODEL with them fused before quantizing out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import fuse_lora as host
from ..host.lora_match import Lora
from ._loras import loras_input, paths_of, rslora_input, stamps_of
from ._stages import FUSE

ALIASES = [
    "lora", "merge lora", "bake lora", "lora bake", "lora stack", "lora loader", "lightning lora",
    "lora before quantize",
]  # fmt: skip


class FuseLoRA(io.ComfyNode):
    """Fuse LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQFuseLoRA",
            display_name="Fuse LoRA",
            category=FUSE,
            description="Adds LoRAs to the weights in full precision, before Quantize Model "
            "quantizes them. After Quantize Model it quantizes again from the source.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model, best straight from its loader."),
                loras_input(),
                io.Boolean.Input(
                    "bake_now",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Write the LoRAs into a copy of the weights at once. For a model that "
                    "stays unquantized and is run many times; Quantize Model needs no bake.",
                ),
                rslora_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRAs."),
                io.String.Output(
                    display_name="report",
                    tooltip="What matched, what did not, and when it is fused.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, count: Any = None, **_: Any) -> str:
        """Other bytes under the same names are another input."""
        return stamps_of(count)

    @classmethod
    def execute(
        cls, model: Any, count: Any = None, bake_now: bool | None = None,
        rank_stabilized: bool | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Fuse into a copy."""
        loras = [Lora(path, strength, bool(rank_stabilized)) for path, strength in paths_of(count)]
        fused, report = host.fuse_loras(model, loras, bool(bake_now))
        return io.NodeOutput(fused, report.text(), ui=ui.PreviewText(report.text()))


NODE = FuseLoRA
