"""The steps that all families share, one function each: nodes in, the node that goes on out."""

from __future__ import annotations

from typing import Any

from .graph import Graph, Node, Out
from .models import File
from .tiers import Choice

AS_STORED = "as stored"
Strengths = tuple[tuple[File, float], ...]  # LoRAs and how strongly
Model = Node | Out


def load(graph: Graph, file: File, scheme: str = AS_STORED, title: str | None = None) -> Node:
    """A diffusion model."""
    with graph.step("Load"):
        return graph.add("FQLoadDiT", title, file=file, scheme=scheme)


def text_encoder(
    graph: Graph, files: tuple[File, ...], kind: str, scheme: str = AS_STORED,
    device: str = "default",
) -> Node:  # fmt: skip
    """One or two text encoders; `none` of the Advisor means as they are stored."""
    named: dict[str, Any] = {f"files.file_{n}": x for n, x in enumerate(files, start=1)}
    with graph.step("Load"):
        return graph.add(
            "FQLoadTextEncoder", files=str(len(files)), scheme=as_advised(scheme), device=device,
            **{**named, "files.type": kind},
        )  # fmt: skip


def as_advised(scheme: str) -> str:
    """The Advisor's `none` leaves a 16-bit file as it is."""
    return AS_STORED if scheme == "none" else scheme


def vae(graph: Graph, file: File) -> Node:
    """A VAE."""
    with graph.step("Load"):
        return graph.add("VAELoader", vae_name=file)


def fuse(graph: Graph, model: Model, loras: Strengths, title: str | None = None) -> Model:
    """LoRAs that stay on, before anything is rounded; none leave the model as it is."""
    return _loras(graph, "Fuse LoRA", "FQFuseLoRA", model, loras, title)


def live(graph: Graph, model: Model, loras: Strengths, title: str | None = None) -> Model:
    """LoRAs whose strength changes, beside the weights."""
    return _loras(graph, "Live LoRA", "FQLiveLoRA", model, loras, title)


def _loras(
    graph: Graph, step: str, node: str, model: Model, loras: Strengths, title: str | None
) -> Model:
    if not loras:
        return model
    given: dict[str, Any] = {"count": str(len(loras))}
    for number, (file, strength) in enumerate(loras, start=1):
        given |= {f"count.lora_{number}": file, f"count.strength_{number}": strength}
    with graph.step(step):
        return graph.add(node, title, model=model, **given)


def quantize(graph: Graph, model: Model, scheme: str, title: str | None = None) -> Node:
    """Each weight once, with its report."""
    with graph.step("Quantize"):
        made = graph.add("FQQuantizeModel", title, model=model, scheme=scheme)
        graph.add("PreviewAny", "What became of the weights", source=made.out("report"))
    return made


def vram(graph: Graph, model: Model, choice: Choice, title: str | None = None) -> Node:
    """How much of the card sampling may use, with its report."""
    with graph.step("VRAM"):
        made = graph.add(
            "FQVRAMManager", title, model=model, mode=choice.mode, limit_gb=choice.limit_gb,
            buffer_gb=choice.buffer_gb,
        )  # fmt: skip
        graph.add("PreviewAny", "What is set", source=made.out("report"))
    return made


def picture(graph: Graph, latent: Model, decoder: Node, prefix: str) -> Node:
    """Decode and save a picture."""
    decoded = graph.add("VAEDecode", samples=latent, vae=decoder)
    return graph.add("SaveImage", images=decoded, filename_prefix=f"FuseQuant/{prefix}")


def video(graph: Graph, latent: Model, decoder: Node, prefix: str, fps: float) -> Node:
    """Decode and save a video."""
    decoded = graph.add("VAEDecode", samples=latent, vae=decoder)
    made = graph.add("CreateVideo", images=decoded, fps=fps)
    return graph.add("SaveVideo", video=made, filename_prefix=f"FuseQuant/{prefix}")
