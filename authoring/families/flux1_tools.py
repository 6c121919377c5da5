"""FLUX.1 Fill, Kontext, Depth, Canny and Redux on 10 to 12 GB: each starts from its 16-bit file.

Fill, Kontext, Depth and Canny have dev's layers: dev's header stands in where needs are predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .. import parts
from ..graph import Graph, Node
from ..models import File, file
from ..parts import Model
from ..tiers import TIERS, Choice, Wanted, choose
from ..workflow import Workflow, dashed
from .flux1 import DEV, TEXTS, VAE, empty, prompt, sample

TIER = TIERS["10-12gb"]
SCHEME = "Another scheme: Quantize Model, `scheme`. auto picks what suits your card."


def start(graph: Graph, source: File, choice: Choice) -> tuple[Node, ...]:
    """Load, quantize, VRAM -> (model, text encoders, VAE)."""
    model: Model = parts.load(graph, source)
    text = parts.text_encoder(graph, TEXTS, "flux", choice.text_scheme, choice.text_device)
    decoder = parts.vae(graph, VAE)
    model = parts.quantize(graph, model, choice.scheme)
    return parts.vram(graph, model, choice), text, decoder


def fill() -> Workflow:
    """Paint what is masked."""
    choice = choose(TIER, Wanted("flux1-dev"))
    graph = Graph()
    model, text, decoder = start(graph, file("flux1-fill-dev"), choice)
    positive, negative = prompt(graph, text, "a vase with sunflowers", guidance=30.0)
    with graph.step("Prompt"):
        picture = graph.add(
            "LoadImage", "Picture; paint the mask in its mask editor", image="example.png"
        )
        masked = graph.add(
            "InpaintModelConditioning", positive=positive, negative=negative, vae=decoder,
            pixels=picture, mask=picture.out("MASK"), noise_mask=True,
        )  # fmt: skip
    with graph.step("Sample"):
        soft = graph.add("DifferentialDiffusion", model=model)
    sample(
        graph, soft, masked, masked.out("negative"), masked.out("latent"), 20, decoder, "flux1-fill"
    )
    return _workflow("flux1-fill", "inpaint", "paint what the mask covers", graph, choice)


def kontext() -> Workflow:
    """Edit a picture by a sentence."""
    choice = choose(TIER, Wanted("flux1-dev"))
    graph = Graph()
    model, text, decoder = start(graph, file("flux1-kontext-dev"), choice)
    _kontext(graph, model, text, decoder)
    return _workflow("flux1-kontext", "edit", "change a picture by a sentence", graph, choice)


def kontext_quick() -> Workflow:
    """The same from the published 8-bit file, which nobody must log in for."""
    choice = choose(TIER, Wanted("flux1-dev", schemes=("fp8",)))
    graph = Graph()
    model: Model = parts.load(graph, file("flux1-dev-kontext_fp8_scaled"))
    texts = (file("clip_l"), file("t5xxl_fp8_e4m3fn_scaled"))
    text = parts.text_encoder(graph, texts, "flux")
    decoder = parts.vae(graph, VAE)
    _kontext(graph, parts.vram(graph, model, choice), text, decoder)
    return replace(
        _workflow("flux1-kontext", "quickstart", "", graph, choice),
        purpose="FLUX.1 Kontext, quick start: the published 8-bit files as they are, change a "
        "picture by a sentence.",
        changes=("RTX 20 and 30 multiply int8 and not FP8: there the workflow `edit` is faster.",),
    )


def _kontext(graph: Graph, model: Model, text: Node, decoder: Node) -> None:
    with graph.step("Prompt"):
        picture = graph.add("LoadImage", "Picture to edit", image="example.png")
        scaled = graph.add("FluxKontextImageScale", image=picture)
        latent = graph.add("VAEEncode", pixels=scaled, vae=decoder)
        said = graph.add("CLIPTextEncode", "Prompt", clip=text, text="make it a pencil drawing")
        nothing = graph.add("ConditioningZeroOut", conditioning=said)
        seen = graph.add("ReferenceLatent", conditioning=said, latent=latent)
        guided = graph.add("FluxGuidance", conditioning=seen, guidance=2.5)
    sample(graph, model, guided, nothing, latent, 20, decoder, "flux1-kontext")


def depth() -> Workflow:
    """A depth map says where things are."""
    choice = choose(TIER, Wanted("flux1-dev"))
    graph = Graph()
    model, text, decoder = start(graph, file("flux1-depth-dev"), choice)
    with graph.step("Prompt"):
        picture = graph.add("LoadImage", "Depth map, near is white", image="example.png")
    _guided(graph, model, text, decoder, picture, 10.0, "flux1-depth")
    return _workflow("flux1-depth", "depth-map", "a picture after a depth map", graph, choice)


def canny() -> Workflow:
    """Edges say where things are."""
    choice = choose(TIER, Wanted("flux1-dev"))
    graph = Graph()
    model, text, decoder = start(graph, file("flux1-canny-dev"), choice)
    with graph.step("Prompt"):
        picture = graph.add("LoadImage", "Picture whose edges are kept", image="example.png")
        edges = graph.add("Canny", image=picture, low_threshold=0.15, high_threshold=0.3)
    _guided(graph, model, text, decoder, edges, 30.0, "flux1-canny")
    return _workflow("flux1-canny", "edges", "a picture after the edges of another", graph, choice)


def _guided(
    graph: Graph, model: Model, text: Node, decoder: Node, picture: Node, guidance: float,
    prefix: str,
) -> None:  # fmt: skip
    positive, negative = prompt(graph, text, "a stone bridge over a river in autumn", guidance)
    with graph.step("Prompt"):
        both = graph.add(
            "InstructPixToPixConditioning", positive=positive, negative=negative, vae=decoder,
            pixels=picture,
        )  # fmt: skip
    sample(graph, model, both, both.out("negative"), both.out("latent"), 20, decoder, prefix)


def redux() -> Workflow:
    """A picture as a part of the prompt, seen by the quantized SigLIP."""
    choice = choose(TIER, Wanted("flux1-dev"))
    graph = Graph()
    model, text, decoder = start(graph, DEV, choice)
    with graph.step("Load"):
        vision = graph.add(
            "FQLoadClipVision", file=file("sigclip_vision_patch14_384"), scheme="int8_weight_only"
        )
        style = graph.add("StyleModelLoader", style_model_name=file("flux1-redux-dev"))
    positive, negative = prompt(graph, text, "in a snowy forest", guidance=3.5)
    with graph.step("Prompt"):
        picture = graph.add("LoadImage", "Picture to vary", image="example.png")
        seen = graph.add("CLIPVisionEncode", clip_vision=vision, image=picture, crop="center")
        mixed = graph.add(
            "StyleModelApply", conditioning=positive, style_model=style, clip_vision_output=seen,
            strength=0.6, strength_type="multiply",
        )  # fmt: skip
    sample(graph, model, mixed, negative, empty(graph), 20, decoder, "flux1-redux")
    return _workflow("flux1-redux", "variation", "a picture as part of the prompt", graph, choice)


def _workflow(model: str, task: str, purpose: str, graph: Graph, choice: Choice) -> Workflow:
    title = model.replace("flux1-", "FLUX.1 ").title().replace("Flux", "FLUX")
    return Workflow(
        name=f"image_{model}_{task}_{dashed(choice.scheme)}_{TIER.key}",
        purpose=f"{title}: {purpose}. Every weight is quantized once.",
        graph=graph,
        card=f"{TIER.title} ({TIER.card})",
        choices=(choice,),
        changes=(SCHEME, "Fewer steps first, to see whether the prompt is right."),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    yield from (fill(), kontext(), kontext_quick(), depth(), canny(), redux())


WORKFLOWS = workflows
