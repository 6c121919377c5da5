"""FQSaveModel: a MODEL in, a checkpoint that stock loaders open out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host.save import save_model
from ._stages import SAVE

ALIASES = [
    "save checkpoint", "model save", "export model", "save fp8", "save int8", "save quantized",
]  # fmt: skip


class SaveModel(io.ComfyNode):
    """Save Quantized Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQSaveModel",
            display_name="Save Quantized Model",
            category=SAVE,
            description="Writes the model as it is quantized into one file in ComfyUI's own "
            "formats. LoRAs on it are fused into the source before it is quantized.",
            search_aliases=ALIASES,
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to save, best after Quantize Model."),
                io.String.Input(
                    "filename_prefix",
                    default="diffusion_models/fusequant",
                    tooltip="Name of the file below ComfyUI's output folder; a number is added. "
                    "Load Diffusion Model lists what lies in output/diffusion_models.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="path", tooltip="The file that was written."),
                io.String.Output(
                    display_name="report", tooltip="What is in the file and who opens it."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, filename_prefix: str) -> io.NodeOutput:
        """Write the file."""
        path, report = save_model(model, filename_prefix)
        return io.NodeOutput(str(path), report.text(), ui=ui.PreviewText(report.text()))


NODE = SaveModel
