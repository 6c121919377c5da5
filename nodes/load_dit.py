"""FQLoadDiT: a diffusion model file of any dialect in, a MODEL and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..engine.rotated import rotation
from ..host import load, paths
from ..host.backends import backend_names
from ._rotated import rotated_input
from ._schemes import check, chosen, scheme_input

AS_STORED = (load.AS_STORED,)
SCHEME_TIP = (
    "as stored hands the weights on as they are in the file: choose it when a LoRA is fused later. "
    "Anything else quantizes each layer while it is loaded, so the whole model never needs 16 bits."
)


class LoadDiT(io.ComfyNode):
    """Load FP8 DiT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQLoadDiT",
            display_name="Load FP8 DiT",
            category="FuseQuant",
            description="Opens a diffusion model of any dialect: ComfyUI's own, LightX2V, "
            "Diffusers, scaled FP8 and others. Codes are used as they are stored.",
            search_aliases=["fp8 loader", "quantized model loader", "lightx2v"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=paths.names("diffusion_models"),
                    tooltip="A file, or a folder of one model in many files, in "
                    "models/diffusion_models.",
                ),
                scheme_input(AS_STORED, SCHEME_TIP),
                io.Combo.Input(
                    "backend",
                    options=backend_names(),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Who multiplies. auto takes the fastest backend that can; kitchen is "
                    "ComfyUI's own.",
                ),
                rotated_input(),
            ],
            outputs=[
                io.Model.Output(tooltip="The model."),
                io.String.Output(
                    display_name="report", tooltip="What the file is and what was done to it."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, scheme: Any = None) -> bool | str:
        """Check the scheme, which ComfyUI does not."""
        return check(scheme, AS_STORED)

    @classmethod
    def execute(
        cls, file: str, scheme: Any, backend: str | None = None, rotated: str | None = None
    ) -> io.NodeOutput:
        """Load the file."""
        name = chosen(scheme)
        model, report = load.load_diffusion_model(
            paths.find("diffusion_models", file),
            None if name == load.AS_STORED else name,
            backend,
            rotated=rotation(rotated),
        )
        return io.NodeOutput(model, report.text(), ui=ui.PreviewText(report.text()))


NODE = LoadDiT
