"""Nodes that measure and advise: Benchmark, Quality Meter, GPU Advisor, Checkpoint Doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import parts
from ..graph import Graph, Node
from ..models import file
from ..tiers import DISTILL, TIERS, Wanted, choose
from ..workflow import Workflow, dashed
from .flux1 import DEV, HYPER, PROMPT, TEXTS, VAE, empty, prompt, sample

TIER = TIERS["24gb"]
ANY = "any; the needs are those of the tier below"


def loaded(graph: Graph) -> tuple[Node, Node, Node]:
    """FLUX.1 dev as it is: (model, text encoders, VAE)."""
    model = parts.load(graph, DEV)
    text = parts.text_encoder(graph, TEXTS, "flux")
    return model, text, parts.vae(graph, VAE)


def report(graph: Graph, source: Node, title: str = "Report") -> None:
    """Its text."""
    graph.add("PreviewAny", title, source=source.out("report"))


def benchmark() -> Workflow:
    """Which order of fusing, quantizing and offloading is fast and exact here."""
    choice = choose(TIER, Wanted("flux1-dev", (DISTILL,), schemes=("int8_convrot",)))
    graph = Graph()
    model = parts.load(graph, DEV)
    text = parts.text_encoder(graph, TEXTS, "flux")
    positive, negative = prompt(graph, text, PROMPT, guidance=3.5)
    latent = empty(graph)
    lora, strength = HYPER[0]
    order: dict[str, Any] = {
        "what.lora": lora, "what.positive": positive, "what.negative": negative,
        "what.latent_image": latent, "what.strength": strength, "what.scheme": choice.scheme,
        "what.sampler": "euler", "what.scheduler": "simple",
    }  # fmt: skip
    with graph.step("Measure"):
        made = graph.add("FQBenchmark", model=model, what="order", **order)
        graph.add("PreviewImage", "Chart", images=made.out("chart"))
        report(graph, made)
    return Workflow(
        name=f"tool_flux1-dev_benchmark-order_{dashed(choice.scheme)}_any",
        purpose="Benchmark: eight orders of fusing, quantizing and offloading FLUX.1 dev, sampled "
        "in turns on your machine: time, memory, error. The GPU Advisor takes the result.",
        graph=graph,
        card=ANY,
        choices=(choice,),
        changes=("Shorter: fewer `rounds` and `steps`, a smaller latent.",),
    )


def quality() -> Workflow:
    """What quantizing cost."""
    choice = choose(TIER, Wanted("flux1-dev", (DISTILL,), schemes=("int8_convrot",)))
    graph = Graph()
    model, text, decoder = loaded(graph)
    fused = parts.fuse(graph, model, HYPER)
    quantized = parts.quantize(graph, fused, choice.scheme)
    positive, negative = prompt(graph, text, PROMPT, guidance=3.5)
    latent = empty(graph)
    with graph.step("Measure"):
        made = graph.add(
            "FQQuality", reference=fused, model=quantized, positive=positive, negative=negative,
            latent_image=latent, vae=decoder, sampler="euler", scheduler="simple",
        )  # fmt: skip
        graph.add("PreviewImage", "Error by block", images=made.out("chart"))
        report(graph, made)
    return Workflow(
        name=f"tool_flux1-dev_quality-meter_{dashed(choice.scheme)}_any",
        purpose="Quality Meter: FLUX.1 dev with a LoRA before and after quantizing: weight error "
        "by block, what is left of the LoRA, both sampled from one seed; passed or not.",
        graph=graph,
        card=ANY,
        choices=(choice,),
        changes=("Another scheme to judge: Quantize Model. `level` says how strict.",),
    )


def advisor() -> Workflow:
    """A plan for this machine, wired into the nodes that take it."""
    graph = Graph()
    model, text, decoder = loaded(graph)
    with graph.step("Advise"):
        plan = graph.add("FQAdvisor", model="flux1-dev", goal="speed", distill_lora=True)
        report(graph, plan, "What to do and why")
    fused = parts.fuse(graph, model, HYPER)
    with graph.step("Quantize"):
        quantized = graph.add("FQQuantizeModel", model=fused, scheme="auto", plan=plan)
        report(graph, quantized, "What became of the weights")
    with graph.step("VRAM"):
        managed = graph.add("FQVRAMManager", model=quantized, mode="auto", plan=plan)
        report(graph, managed, "What is set")
    positive, negative = prompt(graph, text, PROMPT, guidance=3.5)
    sample(graph, managed, positive, negative, empty(graph), 8, decoder, "flux1-dev")
    return Workflow(
        name="tool_flux1-dev_advisor_auto_any",
        purpose="GPU Advisor: reads your card and FLUX.1 dev's header, and its plan sets Quantize "
        "Model and VRAM Manager. Says what to do with the text encoder too.",
        graph=graph,
        card="any: it is asked what suits yours",
        changes=("Another model, another card, another goal: the inputs of GPU Advisor.",),
    )


def doctor() -> Workflow:
    """What a file is and who opens it."""
    graph, sick = Graph(), file("wan2.1_i2v_720p_scaled_fp8_e4m3_lightx2v_4step")
    with graph.step("Measure"):
        # this node takes files of every folder, and names the folder too
        made = graph.add("FQInspect", file=f"{sick.directory}/{sick.name}", repair=False)
        made.files.append(sick)
        report(graph, made)
    return Workflow(
        name="tool_wan21-i2v_checkpoint-doctor_fp8-row_any",
        purpose="Checkpoint Doctor: what a file is, which loaders read it right, what is wrong. "
        "LightX2V's FP8 file is one that ComfyUI's own loader misreads.",
        graph=graph,
        card="any: only headers are read",
        changes=("A mended copy that stock loaders read: switch `repair` on.",),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    yield from (benchmark(), quality(), advisor(), doctor())


WORKFLOWS = workflows
