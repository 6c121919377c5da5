"""FQFreeMemory: anything in, the same out, with the memory of models freed in between."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host.free import free_memory
from ._stages import RUN

ALIASES = [
    "unload models", "clear vram", "free vram", "empty cache", "purge vram",
]  # fmt: skip


class FreeMemory(io.ComfyNode):
    """Free Memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        kind = io.MatchType.Template("T")
        return io.Schema(
            node_id="FQFreeMemory",
            display_name="Free Memory",
            category=RUN,
            description="Takes every model off the GPU and empties the caches at this point of "
            "the graph. What goes through is not changed.",
            search_aliases=ALIASES,
            inputs=[
                io.MatchType.Input(
                    "any", template=kind, tooltip="Anything. Memory is freed once it is there."
                ),
                io.Boolean.Input(
                    "unload_models", default=True, optional=True, advanced=True,
                    tooltip="Off: only caches are emptied, models stay on the GPU.",
                ),
                io.Model.Input(
                    "model", optional=True, advanced=True,
                    tooltip="A model of the VRAM Manager: its measured peak goes into the report.",
                ),
            ],
            outputs=[
                io.MatchType.Output(template=kind, display_name="any", tooltip="What came in."),
                io.String.Output(display_name="report", tooltip="What was freed."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, any: Any, unload_models: bool | None = None, model: Any = None
    ) -> io.NodeOutput:  # fmt: skip
        """Free, then hand on."""
        report = free_memory(unload_models is not False, model)
        return io.NodeOutput(any, report, ui=ui.PreviewText(report))


NODE = FreeMemory
