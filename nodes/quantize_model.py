"""FQQuantizeModel: a MODEL or CLIP in, the same quantized and a report out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..engine.rounding_names import NEAREST
from ..host import planned
from ..host.backends import backend_names
from ..host.cached import POLICIES
from ..host.pristine import Request
from ._quality import bytes_of, max_gb_input, rounding_input
from ._schemes import check, chosen, scheme_input
from ._stages import QUANTIZE

ON_FAILURE = ("full precision", "refuse")
TAKES = ("MODEL", "CLIP", "COMFY_MATCHTYPE_V3")
PLAN = "FQ_PLAN"
ALIASES = [
    "quantize", "quantization", "fp8", "int8", "int4", "nvfp4", "mxfp8", "4 bit", "8 bit", "w4a8",
    "convrot", "low vram",
]  # fmt: skip


class QuantizeModel(io.ComfyNode):
    """Quantize Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        kind = io.MatchType.Template("T", [io.Model, io.Clip])
        return io.Schema(
            node_id="FQQuantizeModel",
            display_name="Quantize Model",
            category=QUANTIZE,
            description="Fuses the LoRAs that the model carries into the weights in float32, then "
            "quantizes each weight once. What comes in is not changed.",
            search_aliases=ALIASES,
            inputs=[
                io.MatchType.Input(
                    "model", template=kind, tooltip="A MODEL or CLIP, LoRAs before this node."
                ),
                scheme_input(),
                io.Custom(PLAN).Input(
                    "plan",
                    optional=True,
                    tooltip="A plan of the GPU Advisor: its scheme is used in the place of auto, "
                    "its backend and its list of kept layers where these are left open here.",
                ),
                *_advanced(),
            ],
            outputs=[
                io.MatchType.Output(template=kind, display_name="model", tooltip="Quantized."),
                io.String.Output(
                    display_name="report", tooltip="What became of each layer and what it saves."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, model: Any = None, scheme: Any = None, input_types: Any = None
    ) -> bool | str:
        """Check the scheme and, because `input_types` turns ComfyUI's own check off, the link."""
        links = input_types or {}
        found, plan = links.get("model", "MODEL"), links.get("plan", PLAN)
        if found not in TAKES:
            return f"model: found {found}; expected a MODEL or CLIP; connect one"
        if plan != PLAN:
            return f"plan: found {plan}; expected {PLAN}; connect the plan of GPU Advisor"
        return check(scheme)

    @classmethod
    def execute(
        cls, model: Any, scheme: Any, plan: Any = None, backend: str | None = None,
        keep: str | None = None, on_failure: str | None = None, cache: str | None = None,
        max_gb: float | None = None, rounding: str | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Quantize a copy."""
        layers, failure = tuple((keep or "").split()), on_failure or ON_FAILURE[0]
        request = Request(
            chosen(scheme), backend, layers, failure, cache or POLICIES[0], bytes_of(max_gb),
            rounding=rounding or NEAREST,
        )  # fmt: skip
        quantized, report = planned.quantize(model, request, plan)
        return io.NodeOutput(quantized, report.text(), ui=ui.PreviewText(report.text()))


def _advanced() -> list[Any]:
    return [
        io.Combo.Input(
            "backend",
            options=backend_names(),
            default="auto",
            optional=True,
            advanced=True,
            tooltip="Who multiplies. auto takes the fastest backend that can; kitchen is "
            "ComfyUI's own.",
        ),
        io.String.Input(
            "keep",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="Layers that stay unquantized beside the ones the model family keeps: "
            "one name or pattern a line, such as double_blocks.0.*",
        ),
        io.Combo.Input(
            "on_failure",
            options=list(ON_FAILURE),
            default=ON_FAILURE[0],
            optional=True,
            advanced=True,
            tooltip="A layer that cannot be quantized stays in full precision with a "
            "warning, or the node refuses.",
        ),
        io.Combo.Input(
            "cache",
            options=list(POLICIES),
            default=POLICIES[0],
            optional=True,
            advanced=True,
            tooltip="Keep the result in a file, so that the same recipe is a file load "
            "the next time. auto keeps models whose file has 2 GB or more. The files lie "
            "in user/fusequant/cache, at most 60 GB or a fifth of the free disk.",
        ),
        max_gb_input("of the quantized weights"),
        rounding_input(),
    ]


NODE = QuantizeModel
