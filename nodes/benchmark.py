"""FQBenchmark: a MODEL and what to measure in, a chart, a report and the path of a JSON out."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from ..engine.errors import Refused
from ..host import benchmark, paths
from ..host.end_to_end import Sampling
from ..host.lora_match import Lora
from ._schemes import scheme_names

ORDER, KERNELS = "order", "kernels"
WHAT_TIP = (
    "order: eight ways to bring a LoRA and a scheme together, sampled in turns: time, memory, "
    "error. kernels: every scheme and backend on this model's layers, in seconds."
)


class BenchmarkNode(io.ComfyNode):
    """Benchmark."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="FQBenchmark",
            display_name="Benchmark",
            category="FuseQuant",
            description="Measures on this machine what guides disagree about: which order of "
            "fusing, quantizing and offloading is fast, small and exact; which kernels are fast.",
            search_aliases=["benchmark", "speed test", "which scheme is fastest", "order"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model as loaded, with no LoRA on it."),
                io.DynamicCombo.Input(
                    "what",
                    options=[
                        io.DynamicCombo.Option(ORDER, _order()),
                        io.DynamicCombo.Option(KERNELS, _kernels()),
                    ],
                    tooltip=WHAT_TIP,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="chart", tooltip="Times and errors as bars."),
                io.String.Output(display_name="report", tooltip="Every number as a table."),
                io.String.Output(
                    display_name="path", tooltip="The result file; the GPU Advisor takes it."
                ),
            ],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model: Any, what: Any) -> io.NodeOutput:
        """Measure, write the result file, draw."""
        run = {ORDER: _run_order, KERNELS: _run_kernels}[what["what"]]
        found = run(model, {k: v for k, v in what.items() if v is not None})
        found.save()
        chart, text = found.chart(), found.text()
        return io.NodeOutput(chart, text, found.path, ui=ui.PreviewText(text))


def _run_order(model: Any, given: dict[str, Any]) -> benchmark.Benchmark:
    """The eight orders."""
    missing = [name for name in ("positive", "latent_image") if name not in given]
    if missing:
        raise Refused(
            "benchmark-input-missing",
            found=f"no {' and no '.join(missing)}",
            expected="a prompt and an empty latent of the size that you sample",
            fix="connect them, or choose kernels",
        )
    names = ("seed", "steps", "cfg", "sampler", "scheduler")
    sampling = Sampling(
        given["positive"], given.get("negative", given["positive"]), given["latent_image"],
        **{name: given[name] for name in names if name in given},
    )  # fmt: skip
    lora = Lora(paths.find("loras", given["lora"]), float(given.get("strength", 1.0)))
    return benchmark.bench_order(
        model, lora, given.get("scheme", "auto"), sampling, int(given.get("rounds", 3))
    )


def _run_kernels(model: Any, given: dict[str, Any]) -> benchmark.Benchmark:
    """The layers alone."""
    return benchmark.bench_kernels(model, int(given.get("tokens", 4096)))


def _order() -> list[Any]:
    """What `order` brings."""
    more: dict[str, Any] = {"optional": True}
    return [
        io.Combo.Input("lora", options=paths.names("loras"), tooltip="The LoRA that is added."),
        io.Conditioning.Input("positive", **more, tooltip="The prompt."),
        io.Conditioning.Input("negative", **more, tooltip="The negative prompt, for cfg above 1."),
        io.Latent.Input("latent_image", **more, tooltip="An empty latent of the size you sample."),
        io.Float.Input(
            "strength", default=1.0, min=-10.0, max=10.0, step=0.05, **more,
            tooltip="Strength of the LoRA.",
        ),
        io.Combo.Input(
            "scheme", options=scheme_names(), default="auto", **more,
            tooltip="What the orders that quantize use.",
        ),
        io.Int.Input("rounds", default=3, min=1, max=50, **more, tooltip="Samplings of each."),
        io.Int.Input("steps", default=3, min=2, max=100, **more, tooltip="Steps of a sampling."),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=100.0, step=0.1, **more, tooltip="As in KSampler."
        ),
        io.Combo.Input(
            "sampler", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler", **more,
            tooltip="As in KSampler.",
        ),
        io.Combo.Input(
            "scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), default="simple",
            **more, tooltip="As in KSampler.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, **more, tooltip="Seed of every sampling."
        ),
    ]  # fmt: skip


def _kernels() -> list[Any]:
    """What `kernels` brings."""
    return [
        io.Int.Input(
            "tokens", default=4096, min=16, max=1_000_000, optional=True,
            tooltip="Tokens of a step: 4096 for a picture of 1024 x 1024, plus the text.",
        )
    ]  # fmt: skip


NODE = BenchmarkNode
