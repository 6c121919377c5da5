"""FLUX.1 dev and schnell, text to image, on small, middling and large cards and on Macs."""

from __future__ import annotations

from collections.abc import Iterator

from .. import parts
from ..graph import Graph, Node
from ..models import file
from ..parts import Model, Strengths
from ..tiers import DISTILL, STYLE, TIERS, Tier, Wanted, choose
from ..workflow import Workflow, dashed

DEV, SCHNELL = file("flux1-dev"), file("flux1-schnell")
TEXTS = (file("clip_l"), file("t5xxl_fp16"))
VAE = file("ae")
HYPER: Strengths = ((file("Hyper-FLUX.1-dev-8steps-lora"), 0.125),)  # as its makers say
FROSTING: Strengths = ((file("flux_dev_frostinglane_araminta_k"), 0.8),)
PROMPT = "a lighthouse on a cliff at dusk, waves below, warm light in the windows"
DRAWN = f"frstingln illustration, {PROMPT}"
SIZE = 1024


def prompt(graph: Graph, text: Node, said: str, guidance: float | None = None) -> tuple[Node, Node]:
    """A sentence -> (positive, nothing)."""
    with graph.step("Prompt"):
        encoded = graph.add("CLIPTextEncode", "Prompt", clip=text, text=said)
        nothing = graph.add("ConditioningZeroOut", conditioning=encoded)
        if guidance is not None:
            encoded = graph.add("FluxGuidance", conditioning=encoded, guidance=guidance)
    return encoded, nothing


def sample(
    graph: Graph, model: Model, positive: Model, negative: Model, latent: Model, steps: int,
    decoder: Node, prefix: str,
) -> Node:  # fmt: skip
    """Sample without guidance of its own, decode, save."""
    with graph.step("Sample"):
        sampled = graph.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
            seed=1, steps=steps, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
        return parts.picture(graph, sampled, decoder, prefix)


def empty(graph: Graph, batch: int = 1) -> Node:
    """Nothing yet, a megapixel of it."""
    with graph.step("Prompt"):
        return graph.add("EmptySD3LatentImage", width=SIZE, height=SIZE, batch_size=batch)


def dev(tier: Tier) -> Workflow:
    """Hyper fused, a style live."""
    choice = choose(tier, Wanted("flux1-dev", (DISTILL, STYLE)))
    graph = Graph()
    model: Model = parts.load(graph, DEV)
    text = parts.text_encoder(graph, TEXTS, "flux", choice.text_scheme, choice.text_device)
    decoder = parts.vae(graph, VAE)
    model = parts.fuse(graph, model, HYPER)
    model = parts.quantize(graph, model, choice.scheme)
    model = parts.live(graph, model, FROSTING)
    model = parts.vram(graph, model, choice)
    positive, negative = prompt(graph, text, DRAWN, guidance=3.5)
    sample(graph, model, positive, negative, empty(graph), 8, decoder, "flux1-dev")
    return Workflow(
        name=f"image_flux1-dev_text-to-image_{dashed(choice.scheme)}_{tier.key}",
        purpose="FLUX.1 dev in 8 steps: Hyper fused in float32, every weight quantized once, a "
        "style LoRA live beside it.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            "Another style: Live LoRA. A new strength quantizes nothing.",
            "Without Hyper: bypass Fuse LoRA (Ctrl+B) and sample 20 steps.",
            "Another scheme: Quantize Model, `scheme`. auto picks what suits your card.",
        ),
    )


def schnell(tier: Tier, schemes: tuple[str, ...] | None = None) -> Workflow:
    """Distilled by its makers: 4 steps and no LoRA."""
    choice = choose(tier, Wanted("flux1-schnell", schemes=schemes))
    graph = Graph()
    model: Model = parts.load(graph, SCHNELL)
    text = parts.text_encoder(graph, TEXTS, "flux", choice.text_scheme, choice.text_device)
    decoder = parts.vae(graph, VAE)
    if choice.scheme != "none":
        model = parts.quantize(graph, model, choice.scheme)
    model = parts.vram(graph, model, choice)
    positive, negative = prompt(graph, text, PROMPT)
    sample(graph, model, positive, negative, empty(graph), 4, decoder, "flux1-schnell")
    whole = "in 16 bits as it is" if choice.scheme == "none" else "every weight quantized once"
    return Workflow(
        name=f"image_flux1-schnell_text-to-image_{dashed(choice.scheme)}_{tier.key}",
        purpose=f"FLUX.1 schnell in 4 steps, {whole}.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=("Pictures at once: `batch_size` of the empty latent.",),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    for key in ("8gb", "10-12gb", "24gb"):
        yield dev(TIERS[key])
        yield schnell(TIERS[key])
    yield schnell(TIERS["apple"], schemes=("int8_weight_only",))


WORKFLOWS = workflows
