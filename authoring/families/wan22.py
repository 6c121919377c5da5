"""Wan 2.2 I2V 14B: a high and a low noise model that take turns, each with its distill LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import parts
from ..graph import Graph, Node
from ..models import file
from ..parts import Model
from ..tiers import DISTILL, TIERS, Choice, Tier, Wanted, choose
from ..workflow import Workflow, dashed

SPEC = "wan2.2-i2v-14b"
NOISES = ("high", "low")
SOURCES = {noise: file(f"wan2.2_i2v_{noise}_noise_14B_fp16") for noise in NOISES}
LORAS = {noise: file(f"wan2.2_i2v_lightx2v_4steps_lora_v1_{noise}_noise") for noise in NOISES}
TEXT, VAE = file("umt5_xxl_fp16"), file("wan_2.1_vae")
WIDTH, HEIGHT, FRAMES, FPS, SHIFT = 832, 480, 81, 16.0, 5.0
STEPS, TURN = 4, 2  # steps in all; where the low noise model takes over
PROMPT = "the camera moves slowly closer, leaves move in the wind"
NEGATIVE = "static, blurred, subtitles, low quality, deformed"


def words(graph: Graph, text: Node, said: str = PROMPT) -> tuple[Node, Node]:
    """(positive, negative)."""
    with graph.step("Prompt"):
        positive = graph.add("CLIPTextEncode", "Prompt", clip=text, text=said)
        return positive, graph.add("CLIPTextEncode", "Negative", clip=text, text=NEGATIVE)


def from_picture(
    graph: Graph, text: Node, decoder: Node, seen: Node | None = None, picture: Node | None = None
) -> Node:
    """A picture and a sentence -> WanImageToVideo: positive, negative, latent."""
    positive, negative = words(graph, text)
    with graph.step("Prompt"):
        picture = picture or graph.add("LoadImage", "First frame", image="example.png")
        more: dict[str, Any] = {"clip_vision_output": seen} if seen else {}
        return graph.add(
            "WanImageToVideo", positive=positive, negative=negative, vae=decoder, width=WIDTH,
            height=HEIGHT, length=FRAMES, batch_size=1, start_image=picture, **more,
        )  # fmt: skip


def model(graph: Graph, noise: str, choice: Choice) -> Node:
    """One of the pair: load, fuse, quantize, VRAM."""
    title = f"{noise} noise"
    made: Model = parts.load(graph, SOURCES[noise], title=f"Load FP8 DiT: {title}")
    made = parts.fuse(graph, made, ((LORAS[noise], 1.0),), f"Fuse LoRA: {title}")
    made = parts.quantize(graph, made, choice.scheme, f"Quantize Model: {title}")
    return parts.vram(graph, made, choice, f"VRAM Manager: {title}")


def turn(graph: Graph, made: Node, latent: Model, start: Node, first: int, last: int) -> Node:
    """Some of the steps with one of the pair."""
    begins = first == 0
    shifted = graph.add("ModelSamplingSD3", model=made, shift=SHIFT)
    return graph.add(
        "KSamplerAdvanced", model=shifted, positive=start.out("positive"),
        negative=start.out("negative"), latent_image=latent,
        add_noise="enable" if begins else "disable", noise_seed=1, steps=STEPS, cfg=1.0,
        sampler_name="euler", scheduler="simple", start_at_step=first, end_at_step=last,
        return_with_leftover_noise="enable" if begins else "disable",
    )  # fmt: skip


def image_to_video(tier: Tier) -> Workflow:
    """Both models fused and quantized, two steps each."""
    choice = choose(tier, Wanted(SPEC, (DISTILL,)))
    graph = Graph()
    high, low = (model(graph, noise, choice) for noise in NOISES)
    text = parts.text_encoder(graph, (TEXT,), "wan", choice.text_scheme, choice.text_device)
    decoder = parts.vae(graph, VAE)
    start = from_picture(graph, text, decoder)
    with graph.step("Sample"):
        half = turn(graph, high, start.out("latent"), start, 0, TURN)
        whole = turn(graph, low, half, start, TURN, STEPS)
        parts.video(graph, whole, decoder, "wan22-i2v", FPS)
    return Workflow(
        name=f"video_wan22-i2v_image-to-video_{dashed(choice.scheme)}_{tier.key}",
        purpose="Wan 2.2 image to video in 4 steps: high and low noise model, each with its "
        "LightX2V LoRA fused, each quantized once.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            "Shorter or smaller: `length` (4 n + 1), `width` and `height` of WanImageToVideo.",
            "The two models take turns: one waits in RAM while the other is sampled.",
            "Fuse and quantize on disk instead, once: the workflow `convert-once` of Wan 2.2.",
        ),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    for key in ("10-12gb", "16gb", "24gb"):
        yield image_to_video(TIERS[key])


WORKFLOWS = workflows
