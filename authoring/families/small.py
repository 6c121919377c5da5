"""FLUX.2 klein 4B and Z-Image Turbo: small models, for small cards and for Apple silicon."""

from __future__ import annotations

from collections.abc import Iterator

from .. import parts
from ..graph import Graph, Node
from ..models import file
from ..parts import Model
from ..tiers import TIERS, Choice, Tier, Wanted, choose
from ..workflow import Workflow, dashed
from .flux1 import PROMPT, SIZE, empty

TEXT = file("qwen_3_4b")
CHANGES = (
    "Larger cards hold the original: set Quantize Model to `none`, or bypass it (Ctrl+B).",
    "Pictures at once: `batch_size` of the empty latent.",
)


def start(graph: Graph, source: str, kind: str, decoder: str, choice: Choice) -> tuple[Node, ...]:
    """Load, quantize, VRAM -> (model, text encoder, VAE)."""
    model: Model = parts.load(graph, file(source))
    text = parts.text_encoder(graph, (TEXT,), kind, choice.text_scheme, choice.text_device)
    vae = parts.vae(graph, file(decoder))
    model = parts.quantize(graph, model, choice.scheme)
    return parts.vram(graph, model, choice), text, vae


def words(graph: Graph, text: Node) -> tuple[Node, Node]:
    """(prompt, nothing)."""
    with graph.step("Prompt"):
        said = graph.add("CLIPTextEncode", "Prompt", clip=text, text=PROMPT)
        return said, graph.add("ConditioningZeroOut", conditioning=said)


def klein(tier: Tier) -> Workflow:
    """Four steps with the schedule of FLUX.2."""
    choice = choose(tier, Wanted("flux2-klein-4b"))
    graph = Graph()
    model, text, decoder = start(graph, "flux-2-klein-4b", "flux2", "flux2-vae", choice)
    positive, negative = words(graph, text)
    with graph.step("Prompt"):
        latent = graph.add("EmptyFlux2LatentImage", width=SIZE, height=SIZE, batch_size=1)
    with graph.step("Sample"):
        guider = graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=1.0)
        sampled = graph.add(
            "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=1), guider=guider,
            sampler=graph.add("KSamplerSelect", sampler_name="euler"),
            sigmas=graph.add("Flux2Scheduler", steps=4, width=SIZE, height=SIZE),
            latent_image=latent,
        )  # fmt: skip
        parts.picture(graph, sampled, decoder, "flux2-klein-4b")
    return _workflow("flux2-klein-4b", "FLUX.2 klein 4B in 4 steps", tier, graph, choice)


def z_image(tier: Tier, schemes: tuple[str, ...] | None = None) -> Workflow:
    """Eight steps."""
    choice = choose(tier, Wanted("z-image-turbo", schemes=schemes))
    graph = Graph()
    model, text, decoder = start(graph, "z_image_turbo_bf16", "lumina2", "ae", choice)
    positive, negative = words(graph, text)
    latent = empty(graph)
    with graph.step("Sample"):
        shifted = graph.add("ModelSamplingAuraFlow", model=model, shift=3.0)
        sampled = graph.add(
            "KSampler", model=shifted, positive=positive, negative=negative, latent_image=latent,
            seed=1, steps=8, cfg=1.0, sampler_name="res_multistep", scheduler="simple", denoise=1.0,
        )  # fmt: skip
        parts.picture(graph, sampled, decoder, "z-image-turbo")
    return _workflow("z-image-turbo", "Z-Image Turbo in 8 steps", tier, graph, choice)


def _workflow(model: str, title: str, tier: Tier, graph: Graph, choice: Choice) -> Workflow:
    return Workflow(
        name=f"image_{model}_text-to-image_{dashed(choice.scheme)}_{tier.key}",
        purpose=f"{title}, every weight quantized once.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=CHANGES,
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    yield klein(TIERS["8gb"])
    yield z_image(TIERS["8gb"])
    yield z_image(TIERS["apple"], schemes=("int8_weight_only",))


WORKFLOWS = workflows
