"""Text generation: Qwen3-VL 4B in 8 or 4 bits describes a picture."""

from __future__ import annotations

from collections.abc import Iterator

from .. import parts
from ..graph import Graph
from ..models import file
from ..workflow import Workflow, dashed

SOURCE = file("qwen3vl_4b_bf16")
SCHEMES = {"int8_weight_only": "8 bits", "int4_g128": "4 bits"}


def describe(scheme: str, bits: str) -> Workflow:
    """A picture and a question -> text."""
    graph = Graph()
    clip = parts.text_encoder(graph, (SOURCE,), "ideogram4", scheme)
    with graph.step("Prompt"):
        picture = graph.add("LoadImage", "Picture to describe", image="example.png")
    with graph.step("Sample"):
        said = graph.add(
            "TextGenerate", clip=clip, image=picture, max_length=256,
            prompt="Describe this picture as a prompt for an image model.",
        )  # fmt: skip
        graph.add("PreviewAny", "What it says", source=said)
    return Workflow(
        name=f"text_qwen3-vl-4b_describe_{dashed(scheme)}_any",
        purpose=f"Qwen3-VL 4B quantized to {bits} while it is loaded: describes a picture, writes "
        "a prompt, answers.",
        graph=graph,
        card="any",
        changes=(
            "8 bits halve the memory of the 16-bit file, 4 bits quarter it and cost more of the "
            "answer.",
            "The type is that of ComfyUI's own example for this model.",
        ),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    yield from (describe(*row) for row in SCHEMES.items())


WORKFLOWS = workflows
