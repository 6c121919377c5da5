"""FQConvert: a model file and LoRA files in, one fused and quantized file out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..engine.lightx2v import FORMAT as LIGHTX2V
from ..engine.rotated import rotation
from ..host import paths
from ..host.convert import Wanted, convert_file
from ._files import stamp
from ._loras import check_loras, loras_input, paths_of, rslora_input, stamps_of
from ._rotated import rotated_input
from ._schemes import check, chosen, scheme_input

DTYPES = ("as in the file", "bf16", "fp16", "fp32")
DEVICES = ("auto", "cpu")
BY_BLOCK = f"{LIGHTX2V}, a file for each block"
FORMATS = ("core", LIGHTX2V, BY_BLOCK)
PREFIX = "diffusion_models/fusequant"


class Convert(io.ComfyNode):
    """Fuse + Quantize + Save."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQConvert",
            display_name="Fuse + Quantize + Save",
            category="FuseQuant",
            description="Reads a model file, adds LoRAs in float32, quantizes each weight once "
            "and writes a file, layer by layer: the model is never in memory as a whole.",
            search_aliases=["convert checkpoint", "quantize file", "merge lora to file"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=paths.names("diffusion_models"),
                    tooltip="A file, or a folder of one model in many files, in "
                    "models/diffusion_models. Best is the 16-bit original.",
                ),
                loras_input(least=0),
                scheme_input(),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    optional=True,
                    advanced=True,
                    tooltip="Name of the file below ComfyUI's output folder; a number is added. "
                    "Load Diffusion Model lists what lies in output/diffusion_models.",
                ),
                *_advanced(),
            ],
            outputs=[
                io.String.Output(display_name="path", tooltip="The file that was written."),
                io.String.Output(
                    display_name="report", tooltip="What became of each layer and each LoRA."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, count: Any = None, scheme: Any = None) -> bool | str:
        """Check what ComfyUI does not; an option that it does not know is not here at all."""
        loras = check_loras("none of the choices" if count is None else count, least=0)
        return check(scheme) if loras is True else loras

    @classmethod
    def fingerprint_inputs(cls, file: str, count: Any = None, **_: Any) -> str:
        """Other bytes under the same names are another input."""
        return stamp("diffusion_models", file) + stamps_of(count)

    @classmethod
    def execute(
        cls, file: str, count: Any, scheme: Any, filename_prefix: str | None = None,
        keep: str | None = None, dtype: str | None = None, device: str | None = None,
        rank_stabilized: bool | None = None, format: str | None = None, rotated: str | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Convert."""
        wanted = Wanted(
            chosen(scheme), tuple((keep or "").split()), None if dtype == DTYPES[0] else dtype,
            bool(rank_stabilized), device == "cpu", rotation(rotated),
            LIGHTX2V if format in FORMATS[1:] else FORMATS[0], format == BY_BLOCK,
        )  # fmt: skip
        source = paths.find("diffusion_models", file)
        path, report = convert_file(
            source, paths_of(count, least=0), wanted, filename_prefix or PREFIX
        )
        return io.NodeOutput(str(path), report.text(), ui=ui.PreviewText(report.text()))


def _advanced() -> list[Any]:
    """The inputs that few need."""
    return [
        io.String.Input(
            "keep",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="Layers that stay unquantized beside the ones the model family keeps: one "
            "name or pattern a line, such as double_blocks.0.*",
        ),
        io.Combo.Input(
            "dtype",
            options=list(DTYPES),
            default=DTYPES[0],
            optional=True,
            advanced=True,
            tooltip="The dtype of what stays unquantized.",
        ),
        io.Combo.Input(
            "device",
            options=list(DEVICES),
            default=DEVICES[0],
            optional=True,
            advanced=True,
            tooltip="Where the arithmetic runs. auto takes ComfyUI's device.",
        ),
        rslora_input(),
        io.Combo.Input(
            "format",
            options=list(FORMATS),
            default=FORMATS[0],
            optional=True,
            advanced=True,
            tooltip="Who the file is for. core: ComfyUI. lightx2v: LightX2V's own layout, int8 or "
            "fp8_row, in one file or in a folder; ComfyUI's own loaders read it wrong.",
        ),
        rotated_input(),
    ]


NODE = Convert
