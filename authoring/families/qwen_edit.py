"""Qwen-Image-Edit 2511: quick start and fused chain for each tier, the original, a batch."""

from __future__ import annotations

from collections.abc import Iterator

from .. import parts
from ..graph import Graph, Node, Out
from ..models import file
from ..parts import Model
from ..tiers import DISTILL, STYLE, TIERS, Choice, Tier, Wanted, choose
from ..workflow import Workflow, dashed

SPEC, TITLE, MODEL = "qwen-image-edit-2511", "Qwen-Image-Edit 2511", "qwen-edit-2511"
SOURCE = file("qwen_image_edit_2511_bf16")
LIGHTNING = file("Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16")
INFLATE = file("Qwen_Image_Edit_2511-SYSTMS_INFL8")
TEXT, TEXT_8 = file("qwen_2.5_vl_7b"), file("qwen_2.5_vl_7b_fp8_scaled")
VAE = file("qwen_image_vae")
# published in 8 bits: the Advisor picks among them
PUBLISHED = {
    "int8_convrot": file("qwen_image_edit_2511_int8_convrot"),
    "fp8": file("qwen_image_edit_2511_fp8mixed"),
}
OTHER = PUBLISHED["fp8"]
SHIFT = 3.1
PROMPT = "Make it a watercolor painting, keep the composition"
INFLATED = "inflate the object in the picture, glossy balloon material"


def edit(
    graph: Graph, model: Model, text: Node, prompt: str, steps: int, cfg: float,
    picture: Node | Out | None = None,
) -> Node:  # fmt: skip
    """A loaded picture and a sentence -> the edited picture, saved."""
    decoder = parts.vae(graph, VAE)
    with graph.step("Prompt"):
        if picture is None:
            picture = graph.add("LoadImage", "Picture to edit", image="example.png")
        scaled = graph.add("FluxKontextImageScale", image=picture)
        positive, negative = (
            graph.add(
                "TextEncodeQwenImageEditPlus", title, clip=text, vae=decoder, image1=scaled,
                prompt=said,
            )
            for title, said in (("What to change", prompt), ("Negative", ""))
        )  # fmt: skip
        latent = graph.add("VAEEncode", pixels=scaled, vae=decoder)
    with graph.step("Sample"):
        shifted = graph.add("ModelSamplingAuraFlow", model=model, shift=SHIFT)
        normed = graph.add("CFGNorm", model=shifted, strength=1.0)
        sampled = graph.add(
            "KSampler", model=normed, positive=positive, negative=negative, latent_image=latent,
            seed=1, steps=steps, cfg=cfg, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
        return parts.picture(graph, sampled, decoder, MODEL)


def quick(tier: Tier) -> Workflow:
    """The published 8-bit file, Lightning beside it: the smallest download."""
    live = Wanted(SPEC, (DISTILL, STYLE), schemes=tuple(PUBLISHED))
    choice = choose(tier, live)
    graph = Graph()
    model: Model = parts.load(graph, PUBLISHED[choice.scheme])
    text = parts.text_encoder(graph, (TEXT_8,), "qwen_image", device=choice.text_device)
    model = parts.live(graph, model, ((LIGHTNING, 1.0),))
    edit(graph, parts.vram(graph, model, choice), text, PROMPT, steps=4, cfg=1.0)
    return Workflow(
        name=f"image_{MODEL}_quickstart_{dashed(choice.scheme)}_{tier.key}",
        purpose=f"{TITLE}, quick start: the published 8-bit file, Lightning with Live LoRA in 4 "
        "steps. Load a picture, say what to change, queue.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            f"Another published file: [{OTHER.name}]({OTHER.url}) for RTX 40 and 50; "
            "int8_convrot also suits RTX 20 and 30. Pick it in Load FP8 DiT; nothing else changes.",
            "Another strength of the LoRA quantizes nothing: change it and queue again.",
            "Better than this: the workflow `edit-fused`, where Lightning is rounded once.",
        ),
    )


def fused(tier: Tier) -> Workflow:
    """The 16-bit source, Lightning fused, a style beside the weights."""
    choice = choose(tier, Wanted(SPEC, (DISTILL, STYLE)))
    graph = Graph()
    model, text = chain(graph, choice)
    edit(graph, model, text, INFLATED, steps=4, cfg=1.0)
    return Workflow(
        name=f"image_{MODEL}_edit-fused_{dashed(choice.scheme)}_{tier.key}",
        purpose=f"{TITLE}, the whole chain: 16-bit source, Lightning fused in float32, every "
        "weight quantized once, a style LoRA live beside it.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            "Another scheme: Quantize Model, `scheme`. auto picks what suits your card.",
            "The style LoRA: Live LoRA. Its strength may change at any time; bypass the node "
            "(Ctrl+B) to do without.",
            "The first run fuses and quantizes, later ones read the cache.",
        ),
    )


def chain(graph: Graph, choice: Choice) -> tuple[Node, Node]:
    """Load, fuse, quantize, live, VRAM -> (model, text encoder)."""
    model: Model = parts.load(graph, SOURCE)
    text = parts.text_encoder(graph, (TEXT,), "qwen_image", choice.text_scheme, choice.text_device)
    model = parts.fuse(graph, model, ((LIGHTNING, 1.0),))
    model = parts.quantize(graph, model, choice.scheme)
    model = parts.live(graph, model, ((INFLATE, 1.0),))
    return parts.vram(graph, model, choice), text


def original(tier: Tier) -> Workflow:
    """Nothing rounded, nothing distilled."""
    choice = choose(tier, Wanted(SPEC, schemes=("none",)))
    graph = Graph()
    model = parts.load(graph, SOURCE)
    text = parts.text_encoder(graph, (TEXT,), "qwen_image", choice.text_scheme, choice.text_device)
    edit(graph, parts.vram(graph, model, choice), text, PROMPT, steps=40, cfg=4.0)
    return Workflow(
        name=f"image_{MODEL}_edit-original_bf16_{tier.key}",
        purpose=f"{TITLE} in BF16 as it was published, 40 steps with guidance: what the others "
        "are measured against.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=("Ten times faster: the workflow `edit-fused` of the same tier.",),
    )


def batch(tier: Tier) -> Workflow:
    """Every picture of a folder, one after the other, models loaded once."""
    choice = choose(tier, Wanted(SPEC, (DISTILL, STYLE)))
    graph = Graph()
    model, text = chain(graph, choice)
    with graph.step("Prompt"):
        pictures = graph.add("LoadImageDataSetFromFolder", "Pictures to edit", folder="pictures")
    edit(graph, model, text, INFLATED, steps=4, cfg=1.0, picture=pictures)
    return Workflow(
        name=f"image_{MODEL}_edit-folder_{dashed(choice.scheme)}_{tier.key}",
        purpose=f"{TITLE}, a batch without reloading: every picture of a folder is encoded, then "
        "every one is sampled, with each model loaded once.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            "Make a folder `pictures` in ComfyUI's input folder, put pictures into it, and reload "
            "the page so that the list knows it.",
            "The same sentence for all: What to change.",
        ),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    for tier in TIERS.values():
        if tier.key != "apple":  # fp8 cannot be there, and int8_convrot has no matmul there
            yield quick(tier)
        yield fused(tier)
    yield original(TIERS["48gb"])
    yield batch(TIERS["16gb"])


WORKFLOWS = workflows
