"""FQVRAMManager: a MODEL and what it may use in, a MODEL that keeps to it and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host import memory
from ._stages import RUN

MODE_TIP = (
    "auto (also called auto_offload): as ComfyUI decides, the peak is only measured. limit: see "
    "limit_gb. low VRAM: no weight stays on the GPU. keep resident: all of them do, if they fit."
)
LIMIT_TIP = (
    "For mode limit: all the VRAM that ComfyUI's process may use while this model is sampled, "
    "weights, activations and other models together. ComfyUI may evict other models to keep it."
)
ALIASES = [
    "offload", "cpu offload", "low vram", "lowvram", "block swap", "blockswap", "memory limit",
    "reserve vram", "out of memory", "oom", "auto_offload",
]  # fmt: skip


class Vram(io.ComfyNode):
    """VRAM Manager."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQVRAMManager",
            display_name="VRAM Manager",
            category=RUN,
            description="Sets how much VRAM may be used while this model is sampled, and puts "
            "everything back afterwards. Shows the predicted beside the measured peak.",
            search_aliases=ALIASES,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample."),
                io.Combo.Input(
                    "mode", options=list(memory.MODES), default=memory.AUTO, tooltip=MODE_TIP
                ),
                io.Float.Input(
                    "limit_gb", default=0.0, min=0.0, max=1024.0, step=0.5, optional=True,
                    tooltip=LIMIT_TIP,
                ),
                io.Float.Input(
                    "buffer_gb", default=0.0, min=0.0, max=1024.0, step=0.5, optional=True,
                    advanced=True,
                    tooltip="VRAM that stays free for other programs, in every mode. 0: none.",
                ),
                io.Custom("FQ_PLAN").Input(
                    "plan", optional=True, advanced=True,
                    tooltip="A plan of the GPU Advisor: mode auto, and a limit or buffer of 0, "
                    "mean what it proposes. What is set here wins.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The same model; connect it to the sampler."),
                io.String.Output(
                    display_name="report", tooltip="What is set and whether it can act here."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, mode: str, limit_gb: float | None = None,
        buffer_gb: float | None = None, plan: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Wrap a clone."""
        wanted = memory.asked(mode, limit_gb, buffer_gb, plan)
        managed, report = memory.manage(model, wanted, plan, cls.hidden.unique_id)
        return io.NodeOutput(managed, report.text(), ui=ui.PreviewText(report.text()))


NODE = Vram
