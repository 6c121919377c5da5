"""FQLoadClipVision: a vision encoder file of any dialect in, a CLIP_VISION and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import paths
from ..host.clip_vision import load_clip_vision
from ..host.load import AS_STORED
from ._schemes import check, chosen, scheme_input
from ._stages import LOAD

SCHEME_TIP = (
    "as stored keeps the codes of a quantized file. Anything else quantizes each layer while it is "
    "loaded. Images are encoded in full precision with every scheme."
)
ALIASES = [
    "clip vision", "clip vision fp8", "siglip", "redux", "open-clip", "wan i2v",
]  # fmt: skip


class LoadClipVision(io.ComfyNode):
    """Quantized CLIP Vision Loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQLoadClipVision",
            display_name="Quantized CLIP Vision Loader",
            category=LOAD,
            description="Opens vision encoders of any dialect: ViT-H, SigLIP for FLUX Redux, and "
            "LightX2V's CLIP .pth. ComfyUI's own loader reads unquantized ones only.",
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=paths.names("clip_vision"),
                    tooltip="A vision encoder in models/clip_vision.",
                ),
                scheme_input((AS_STORED,), SCHEME_TIP),
            ],
            outputs=[
                io.ClipVision.Output(tooltip="The vision encoder."),
                io.String.Output(
                    display_name="report", tooltip="What the file is and what was done to it."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, scheme: Any = None) -> bool | str:
        """Check the scheme, which ComfyUI does not."""
        return check(scheme, (AS_STORED,))

    @classmethod
    def execute(cls, file: str, scheme: Any) -> io.NodeOutput:
        """Load the file."""
        name = chosen(scheme)
        vision, report = load_clip_vision(
            paths.find("clip_vision", file), None if name == AS_STORED else name
        )
        return io.NodeOutput(vision, report.text(), ui=ui.PreviewText(report.text()))


NODE = LoadClipVision
