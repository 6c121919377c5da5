"""Node by node -> the JSON graph that /prompt takes; and the stock graphs of the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Node:
    """One node of a graph; given as an input it stands for its first output."""

    id: str

    def out(self, index: int) -> list[Any]:
        """The link to one output."""
        return [self.id, index]


@dataclass
class Graph:
    """A growing graph: `add` each node, then hand it to the server."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, node_class: str, /, **inputs: Any) -> Node:
        """A node class and its inputs -> the node. A value of None leaves the input out.

        Nested inputs have a dot in their name: `add("X", **{"loras": "1", "loras.lora_1": "a"})`.
        """
        node = Node(str(len(self.nodes) + 1))
        given = {name: value for name, value in inputs.items() if value is not None}
        links = {n: v.out(0) if isinstance(v, Node) else v for n, v in given.items()}
        self.nodes[node.id] = {"class_type": node_class, "inputs": links}
        return node


# family: (latent node, its size in pixels and frames, conditioning widths as in tiny.py)
FAMILIES: dict[str, tuple[str, dict[str, int], tuple[int, int]]] = {
    "flux": ("EmptySD3LatentImage", {"width": 64, "height": 64}, (128, 768)),
    "wan": ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 5}, (4096, 0)),
    "qwen": ("EmptySD3LatentImage", {"width": 64, "height": 64}, (3584, 0)),
}


def sample(
    graph: Graph, model: Node | list[Any], family: str, steps: int = 2, seed: int = 1,
    cfg: float = 1.0, guidance: float = 4.0, positive: Node | None = None,
    negative: Node | None = None, **size: int,
) -> Node:  # fmt: skip
    """A model of a family -> the KSampler node on a tiny empty latent.

    Conditioning that is not given comes from the test-only node, in the family's widths.
    """
    latent, default_size, (width, pooled) = FAMILIES[family]
    shape = {**default_size, **size, "batch_size": 1}
    text = {"width": width, "pooled": pooled, "guidance": guidance}
    positive = positive or graph.add("FQTestConditioning", **text, seed=0)
    negative = negative or graph.add("FQTestConditioning", **text, seed=1)
    return graph.add(
        "KSampler", model=model, positive=positive, negative=negative,
        latent_image=graph.add(latent, **shape), seed=seed, steps=steps, cfg=cfg,
        sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip


def save_latent(graph: Graph, latent: Node, name: str = "latent") -> Node:
    """A latent -> the node that saves it; its file is a safetensors with `latent_tensor`."""
    return graph.add("SaveLatent", samples=latent, filename_prefix=name)


def save_image(graph: Graph, latent: Node, vae: str, name: str = "image") -> Node:
    """A latent and the name of a VAE file -> the node that saves the decoded image."""
    decoded = graph.add("VAEDecode", samples=latent, vae=graph.add("VAELoader", vae_name=vae))
    return graph.add("SaveImage", images=decoded, filename_prefix=name)
