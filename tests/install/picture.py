"""The first graph of a newcomer: the README's chain on the tiny models, to a PNG."""

from __future__ import annotations

from ..live.graphs import Graph, sample, save_image

NAME = "first"


def first_picture() -> Graph:
    """Load FP8 DiT -> Fuse LoRA -> Quantize Model -> VRAM Manager -> KSampler -> SaveImage."""
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file="tiny-flux.safetensors", scheme="as stored")
    loras = {"count": "1", "count.lora_1": "tiny-style.safetensors", "count.strength_1": 0.8}
    fused = graph.add("FQFuseLoRA", model=loaded, **loras)
    quantized = graph.add("FQQuantizeModel", model=fused, scheme="auto")
    limited = graph.add("FQVRAMManager", model=quantized, mode="auto", limit_gb=0.0)
    clip = graph.add("CLIPLoader", clip_name="tiny-clip-l.safetensors", type="stable_diffusion")
    text = graph.add("CLIPTextEncode", clip=clip, text="a red apple on a white table")
    latent = sample(graph, limited, "flux", positive=text, negative=text, width=256, height=256)
    save_image(graph, latent, "tiny-vae.safetensors", NAME)
    return graph
