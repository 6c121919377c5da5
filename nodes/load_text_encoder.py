"""FQLoadTextEncoder: one to three text encoder files of any dialect in, a CLIP and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import paths
from ..host.load import AS_STORED
from ..host.text_encoder import DEVICES, LOADERS, THREE, clip_types, load_text_encoder
from ._schemes import check, chosen, scheme_input
from ._stages import LOAD

COUNTS = ("1", "2", "3")
FILE_TIP = "A text encoder, or a folder of one in many files, in models/text_encoders."
TYPE_TIP = "What the encoders are for: the same types as in ComfyUI's own loader."
SCHEME_TIP = (
    "as stored keeps the codes of a quantized file. Anything else quantizes each layer while it is "
    "loaded: 8-bit halves the memory of a 16-bit file, 4-bit quarters it and costs more of the "
    "prompt. Encoders multiply in full precision with every scheme."
)


def _option(count: str) -> Any:
    """The inputs that so many files bring."""
    inputs = [
        io.Combo.Input(f"file_{n}", options=paths.names("text_encoders"), tooltip=FILE_TIP)
        for n in range(1, int(count) + 1)
    ]
    if int(count) in LOADERS:
        inputs.append(io.Combo.Input("type", options=clip_types(int(count)), tooltip=TYPE_TIP))
    return io.DynamicCombo.Option(count, inputs)


ALIASES = [
    "clip loader fp8", "quantized clip loader", "text encoder loader", "dual clip loader", "fp8 t5",
    "t5xxl fp8", "int8 t5", "umt5", "qwen2.5-vl",
]  # fmt: skip


class LoadTextEncoder(io.ComfyNode):
    """Quantized T5/CLIP Loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQLoadTextEncoder",
            display_name="Quantized T5/CLIP Loader",
            category=LOAD,
            description="Opens text encoders of any dialect, LightX2V's .pth too: T5, UMT5, CLIP, "
            "Qwen-VL and others. Uses the codes as they are stored, or quantizes while loading.",
            search_aliases=ALIASES,
            inputs=[
                io.DynamicCombo.Input(
                    "files",
                    options=[_option(count) for count in COUNTS],
                    tooltip="How many files: FLUX and SDXL take 2, SD3 up to 3, most others 1.",
                ),
                scheme_input((AS_STORED,), SCHEME_TIP),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default=DEVICES[0],
                    optional=True,
                    advanced=True,
                    tooltip="cpu keeps the encoders off the GPU: slower, and no VRAM is used.",
                ),
            ],
            outputs=[
                io.Clip.Output(tooltip="The text encoders."),
                io.String.Output(
                    display_name="report", tooltip="What the files are and what was done to them."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, files: Any = None, scheme: Any = None) -> bool | str:
        """Check the two drop-downs that ComfyUI does not."""
        said = files.get("files") if isinstance(files, dict) else files
        if said not in COUNTS:
            return f"files: found {said!r}; expected '1', '2' or '3'; choose how many files"
        return check(scheme, (AS_STORED,))

    @classmethod
    def execute(cls, files: Any, scheme: Any, device: str | None = None) -> io.NodeOutput:
        """Load the files."""
        name = chosen(scheme)
        wanted = [files[f"file_{n}"] for n in range(1, int(files["files"]) + 1)]
        clip, report = load_text_encoder(
            [paths.find("text_encoders", file) for file in wanted],
            files.get("type") or THREE[0],
            None if name == AS_STORED else name,
            device or DEVICES[0],
        )
        return io.NodeOutput(clip, report.text(), ui=ui.PreviewText(report.text()))


NODE = LoadTextEncoder
