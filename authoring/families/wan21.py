"""Wan 2.1: text to video with the distill LoRA fused, and LightX2V's own quantized files."""

from __future__ import annotations

from collections.abc import Iterator

from .. import parts
from ..graph import Graph, Node
from ..models import File, file
from ..parts import Model
from ..tiers import ADA_24, DISTILL, TIERS, Tier, Wanted, choose
from ..workflow import Workflow, dashed
from .wan22 import FPS, FRAMES, HEIGHT, SHIFT, STEPS, TEXT, VAE, WIDTH, from_picture, words

SOURCE = file("wan2.1_t2v_14B_bf16")
LORA = file("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32")
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"
# scheme of the DiT -> (DiT, T5, CLIP), all as LightX2V publishes them
LIGHTX2V: dict[str, tuple[File, File, File]] = {
    "int8": (
        file("wan2.1_i2v_480p_int8_lightx2v_4step"), file("models_t5_umt5-xxl-enc-int8.pth"),
        file(f"{CLIP}-int8.pth"),
    ),
    "fp8_row": (
        file("wan2.1_i2v_720p_scaled_fp8_e4m3_lightx2v_4step"),
        file("models_t5_umt5-xxl-enc-fp8.pth"), file(f"{CLIP}-fp8.pth"),
    ),
}  # fmt: skip
SCENE = "a fox runs through fresh snow, low sun, the camera follows"


def sample(
    graph: Graph, model: Model, positive: Model, negative: Model, latent: Model, decoder: Node,
    prefix: str,
) -> None:  # fmt: skip
    """A few steps without guidance, decode, save."""
    with graph.step("Sample"):
        shifted = graph.add("ModelSamplingSD3", model=model, shift=SHIFT)
        sampled = graph.add(
            "KSampler", model=shifted, positive=positive, negative=negative, latent_image=latent,
            seed=1, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
        parts.video(graph, sampled, decoder, prefix, FPS)


def text_to_video(tier: Tier) -> Workflow:
    """The 16-bit source, the distill LoRA fused."""
    choice = choose(tier, Wanted("wan2.1-t2v-14b", (DISTILL,)))
    graph = Graph()
    model: Model = parts.load(graph, SOURCE)
    text = parts.text_encoder(graph, (TEXT,), "wan", choice.text_scheme, choice.text_device)
    decoder = parts.vae(graph, VAE)
    model = parts.fuse(graph, model, ((LORA, 1.0),))
    model = parts.quantize(graph, model, choice.scheme)
    model = parts.vram(graph, model, choice)
    positive, negative = words(graph, text, SCENE)
    with graph.step("Prompt"):
        latent = graph.add(
            "EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1
        )
    sample(graph, model, positive, negative, latent, decoder, "wan21-t2v")
    return Workflow(
        name=f"video_wan21-t2v_text-to-video_{dashed(choice.scheme)}_{tier.key}",
        purpose="Wan 2.1 text to video in 4 steps: the LightX2V distill LoRA fused, every weight "
        "quantized once.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=("Shorter or smaller: `length` (4 n + 1), `width`, `height` of the latent.",),
    )


def lightx2v(tier: Tier, scheme: str) -> Workflow:
    """DiT, T5 and CLIP as LightX2V quantized them: nothing is quantized again."""
    choice = choose(tier, Wanted("wan2.1-i2v-14b-480p", (DISTILL,), schemes=(scheme,)))
    transformer, t5, clip = LIGHTX2V[choice.scheme]
    graph = Graph()
    model: Model = parts.load(graph, transformer)
    text = parts.text_encoder(graph, (t5,), "wan", device=choice.text_device)
    with graph.step("Load"):
        vision = graph.add("FQLoadClipVision", file=clip, scheme=parts.AS_STORED)
    decoder = parts.vae(graph, VAE)
    model = parts.vram(graph, model, choice)
    with graph.step("Prompt"):
        picture = graph.add("LoadImage", "First frame", image="example.png")
        seen = graph.add("CLIPVisionEncode", clip_vision=vision, image=picture, crop="none")
    start = from_picture(graph, text, decoder, seen, picture)
    sample(
        graph, model, start, start.out("negative"), start.out("latent"), decoder, "wan21-lightx2v"
    )
    return Workflow(
        name=f"video_wan21-i2v_lightx2v-files_{dashed(choice.scheme)}_{tier.key}",
        purpose="Wan 2.1 image to video in 4 steps from LightX2V's own quantized DiT, T5 and "
        "CLIP, read as they are.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            "int8 runs fast from RTX 20 on, fp8 from RTX 40 on. Choose the three files alike.",
            "A style LoRA: put Live LoRA between Load FP8 DiT and VRAM Manager.",
        ),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    for key in ("10-12gb", "16gb", "24gb"):
        yield text_to_video(TIERS[key])
    for key in ("10-12gb", "16gb"):
        yield lightx2v(TIERS[key], "int8")
    yield lightx2v(ADA_24, "fp8_row")


WORKFLOWS = workflows
