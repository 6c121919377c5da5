"""FQInspect: a file of any kind in, what it is and what is wrong with it out; mends it if asked."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..engine.rotated import rotation
from ..host import doctor
from ._files import stamp
from ._rotated import rotated_input


class Inspect(io.ComfyNode):
    """Checkpoint Doctor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQInspect",
            display_name="Checkpoint Doctor",
            category="FuseQuant",
            description="Tells what a file is, which nodes open it with the right numbers and "
            "what is wrong with it. Can write a mended copy; the file itself is never changed.",
            search_aliases=["inspect checkpoint", "repair checkpoint", "what is this file"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=doctor.file_names(),
                    tooltip="A file or a folder of one model, from models/diffusion_models, "
                    "text_encoders, clip_vision or loras.",
                ),
                io.Boolean.Input(
                    "repair",
                    default=False,
                    tooltip="Write a mended copy where there is something to mend: the same codes "
                    "under ComfyUI's names and formats.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Name of the mended copy below ComfyUI's output folder; a number is "
                    "added. Empty: the file's own name with _repaired.",
                ),
                rotated_input(),
            ],
            outputs=[
                io.String.Output(
                    display_name="report", tooltip="What the file is and what is wrong."
                ),
                io.String.Output(
                    display_name="path", tooltip="The mended copy; empty where none was written."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, file: str, repair: bool = False, filename_prefix: str | None = None,
        rotated: str | None = None,
    ) -> str:  # fmt: skip
        """Other bytes under the same name are another input."""
        return stamp(*doctor.split_name(file))

    @classmethod
    def execute(
        cls, file: str, repair: bool, filename_prefix: str | None = None, rotated: str | None = None
    ) -> io.NodeOutput:
        """Look at the file, and mend it if asked."""
        path, group = doctor.find_file(file), rotation(rotated)
        prefix = filename_prefix or doctor.repaired_name(file)
        found = doctor.repair(path, prefix, group) if repair else doctor.examine(path, group)
        mended = "" if found.repaired is None else str(found.repaired)
        return io.NodeOutput(found.text(), mended, ui=ui.PreviewText(found.text()))


NODE = Inspect
