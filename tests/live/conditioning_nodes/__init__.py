"""A node pack for tests only: seeded conditioning of any width, without a text encoder."""

from __future__ import annotations

import torch
from comfy_api.latest import ComfyExtension, io


class TestConditioning(io.ComfyNode):
    """Width, tokens, pooled width and seed -> CONDITIONING of normal random numbers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Nothing -> the node's inputs and output."""
        return io.Schema(
            node_id="FQTestConditioning",
            display_name="Test Conditioning",
            category="test",
            inputs=[
                io.Int.Input("width", default=128, min=1, max=65536),
                io.Int.Input("pooled", default=768, min=0, max=65536, optional=True),
                io.Int.Input("tokens", default=8, min=1, max=4096, optional=True),
                io.Float.Input("guidance", default=4.0, optional=True),
                io.Int.Input("seed", default=0, min=0, optional=True),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, width: int, pooled: int = 0, tokens: int = 8, guidance: float = 4.0, seed: int = 0
    ) -> io.NodeOutput:
        """`width` numbers a token, `pooled` numbers beside (none at 0)."""
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, object] = {"guidance": guidance}
        text = torch.randn(1, tokens, width, generator=generator)
        if pooled:
            options["pooled_output"] = torch.randn(1, pooled, generator=generator)
        return io.NodeOutput([[text, options]])


class TestExtension(ComfyExtension):
    """Names the nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Nothing -> the node classes."""
        return [TestConditioning]


async def comfy_entrypoint() -> TestExtension:
    """Called by ComfyUI -> the extension."""
    return TestExtension()
