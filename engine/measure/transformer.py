"""FLUX-shaped weights and inputs in, the transformer's output out: small, plain, in one file.

The arithmetic is FLUX.1's, so that the error of a quantized layer travels to the output as in the
real model. Every linear goes through one function and can be replaced by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from .arithmetic import (
    Getter,
    Linear,
    Network,
    RunBlock,
    attention,
    gelu,
    modulate,
    picture,
    run_at_once,
    turns,
    waves,
)
from .config import HEAD_DIM, FluxConfig


class ReferenceTransformer(Network):
    """A FLUX.1 whose parameters come by name from a mapping or a function, one at a time."""

    def __init__(
        self,
        config: FluxConfig,
        weights: Mapping[str, torch.Tensor] | Getter,
        linears: Mapping[str, Linear] | None = None,
        run_block: RunBlock = run_at_once,
    ) -> None:
        super().__init__(weights, linears, run_block)
        self.config = config

    def __call__(
        self,
        img: torch.Tensor,
        txt: torch.Tensor,
        vector: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor | None,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """Predict the flow of every image token.

        img (B, H * W, 64) patches row by row, txt (B, T, context), vector (B, vector), timestep and
        guidance (B,) in 0..1 and about 3.5, grid (H, W) -> (B, H * W, 64).
        """
        vec = self._embed("time_in", waves(timestep).to(img.dtype))
        if self.config.guidance and guidance is not None:
            vec = vec + self._embed("guidance_in", waves(guidance).to(img.dtype))
        vec = F.silu(vec + self._embed("vector_in", vector))
        text = torch.zeros(txt.shape[1], 3, dtype=torch.int64)  # text tokens all stand at 0
        angles = turns(torch.cat((text, picture(grid))), img.device)
        img, txt = self.linear("img_in", img), self.linear("txt_in", txt)
        for i in range(self.config.double_blocks):
            block = partial(self._double, f"double_blocks.{i}", angles)
            img, txt = self.run_block(block, img, txt, vec)
        both = torch.cat((txt, img), 1)
        for i in range(self.config.single_blocks):
            both = self.run_block(partial(self._single, f"single_blocks.{i}", angles), both, vec)
        img = both[:, txt.shape[1] :]
        shift, scale = self.linear("final_layer.adaLN_modulation.1", vec)[:, None].chunk(2, -1)
        return self.linear("final_layer.linear", modulate(img, shift, scale))

    def _embed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.two_layers(f"{name}.in_layer", f"{name}.out_layer", x, F.silu)

    def _modulation(self, name: str, vec: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """(B, hidden) -> `parts` tensors (B, 1, hidden): shift, scale, gate, once or twice."""
        return self.linear(name, vec)[:, None].chunk(parts, -1)

    def _heads(
        self, name: str, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L, 3 * hidden) -> q, k, v (B, heads, L, 128), q and k scaled to norm 1 per head."""
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, -1, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q = self.rms_norm(f"{name}.query_norm.scale", q)
        k = self.rms_norm(f"{name}.key_norm.scale", k)
        return q, k, v

    def _double(
        self,
        at: str,
        angles: torch.Tensor,
        img: torch.Tensor,
        txt: torch.Tensor,
        vec: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A block with its own weights for each stream and one attention over both, text first."""
        streams = {"txt": txt, "img": img}
        mods, heads = {}, []
        for side, x in streams.items():
            mods[side] = self._modulation(f"{at}.{side}_mod.lin", vec, 6)
            shift, scale = mods[side][:2]
            qkv = self.linear(f"{at}.{side}_attn.qkv", modulate(x, shift, scale))
            heads.append(self._heads(f"{at}.{side}_attn.norm", qkv))
        q, k, v = (torch.cat(pair, 2) for pair in zip(*heads, strict=True))
        both = attention(q, k, v, angles)
        attended = {"txt": both[:, : txt.shape[1]], "img": both[:, txt.shape[1] :]}
        for side, x in list(streams.items()):
            _, _, gate, shift, scale, mlp_gate = mods[side]
            x = x + gate * self.linear(f"{at}.{side}_attn.proj", attended[side])
            inner = self.linear(f"{at}.{side}_mlp.0", modulate(x, shift, scale))
            streams[side] = x + mlp_gate * self.linear(f"{at}.{side}_mlp.2", gelu(inner))
        return streams["img"], streams["txt"]

    def _single(
        self, at: str, angles: torch.Tensor, x: torch.Tensor, vec: torch.Tensor
    ) -> torch.Tensor:
        """A block over the joined streams whose attention and MLP run side by side."""
        hidden = self.config.hidden
        shift, scale, gate = self._modulation(f"{at}.modulation.lin", vec, 3)
        inner = self.linear(f"{at}.linear1", modulate(x, shift, scale))
        qkv, mlp = inner[..., : 3 * hidden], inner[..., 3 * hidden :]
        attended = attention(*self._heads(f"{at}.norm", qkv), angles)
        return x + gate * self.linear(f"{at}.linear2", torch.cat((attended, gelu(mlp)), -1))
