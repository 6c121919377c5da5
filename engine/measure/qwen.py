"""Qwen-Image-shaped sizes, weights and inputs in, the transformer's output out: small, plain.

The arithmetic is Qwen-Image's: two streams with their own weights in every block, one attention
over both, q, k and v apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from .arithmetic import (
    TIME_CHANNELS,
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
from .config import HEAD_DIM, Raised, Shapes, misfit

CHANNELS = 64
# a block's layers of each stream: q, k, v, their way out
ATTENTION = {
    "img": ("to_q", "to_k", "to_v", "to_out.0"),
    "txt": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
}
NORMS = {"img": ("norm_q", "norm_k"), "txt": ("norm_added_q", "norm_added_k")}


@dataclass(frozen=True)
class QwenConfig:
    """A Qwen-Image of any size."""

    hidden: int = 512
    blocks: int = 3
    context: int = 256

    def shapes(self) -> Shapes:
        """{parameter name: shape}, in the order of a Qwen-Image file."""
        h = self.hidden
        embedder = "time_text_embed.timestep_embedder"
        linears = {
            f"{embedder}.linear_1": (h, TIME_CHANNELS),
            f"{embedder}.linear_2": (h, h),
            "img_in": (h, CHANNELS),
            "txt_in": (h, self.context),
        }
        others: Shapes = {"txt_norm.weight": (self.context,)}
        for i in range(self.blocks):
            at = f"transformer_blocks.{i}"
            for side in ("img", "txt"):
                linears |= {f"{at}.attn.{part}": (h, h) for part in ATTENTION[side]}
                linears |= {
                    f"{at}.{side}_mod.1": (6 * h, h),
                    f"{at}.{side}_mlp.net.0.proj": (4 * h, h),
                    f"{at}.{side}_mlp.net.2": (h, 4 * h),
                }
                others |= {f"{at}.attn.{norm}.weight": (HEAD_DIM,) for norm in NORMS[side]}
        linears |= {"norm_out.linear": (2 * h, h), "proj_out": (CHANNELS, h)}
        shapes: Shapes = {}
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return shapes | others

    def quantized(self) -> list[str]:
        """The attention and MLP layers of every block."""
        parts = [f"attn.{part}" for side in ATTENTION.values() for part in side]
        parts += [f"{side}_mlp.net.{x}" for side in ("img", "txt") for x in ("0.proj", "2")]
        return [f"transformer_blocks.{i}.{part}" for i in range(self.blocks) for part in parts]

    def modulation(self) -> list[str]:
        """The layers that make the modulation of each block, and of the last one."""
        sides = [f"{side}_mod.1" for side in ("img", "txt")]
        own = [f"transformer_blocks.{i}.{side}" for i in range(self.blocks) for side in sides]
        return [*own, "norm_out.linear"]

    def raised(self) -> dict[str, tuple[Raised, ...]]:
        """What the modulation's bias multiplies the inputs of a block's layers by."""
        found: dict[str, tuple[Raised, ...]] = {}
        for i in range(self.blocks):
            for side, parts in ATTENTION.items():
                at = f"transformer_blocks.{i}"
                attention_inputs = tuple(f"{at}.attn.{part}" for part in parts[:3])
                found[f"{at}.{side}_mod.1.bias"] = (
                    Raised(attention_inputs, 1, 6),
                    Raised((f"{at}.{side}_mlp.net.0.proj",), 4, 6),
                )
        return found


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> QwenConfig:
    """The config whose parameters these are, or a refusal."""
    needed = ("img_in.weight", "txt_in.weight")
    absent = [key for key in needed if key not in shapes]
    if absent:
        raise misfit("qwen_image", absent[0])
    blocks = {key.split(".")[1] for key in shapes if key.startswith("transformer_blocks.")}
    config = QwenConfig(shapes["img_in.weight"][0], len(blocks), shapes["txt_in.weight"][1])
    different = {key for key, shape in config.shapes().items() if shapes.get(key) != shape}
    if different or len(shapes) != len(config.shapes()):
        raise misfit("qwen_image", min(different, default="more parameters"))
    return config


class QwenTransformer(Network):
    """A Qwen-Image whose parameters come by name from a mapping or a function, one at a time."""

    def __init__(
        self,
        config: QwenConfig,
        weights: Mapping[str, torch.Tensor] | Getter,
        linears: Mapping[str, Linear] | None = None,
        run_block: RunBlock = run_at_once,
    ) -> None:
        super().__init__(weights, linears, run_block)
        self.config = config

    def __call__(
        self, img: torch.Tensor, txt: torch.Tensor, timestep: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Predict the flow of every image token.

        img (B, H * W, 64) patches row by row, txt (B, T, context), timestep (B,) in 0..1, grid
        (H, W) -> (B, H * W, 64).
        """
        at = "time_text_embed.timestep_embedder"
        wave = waves(timestep).to(img.dtype)
        vec = F.silu(self.two_layers(f"{at}.linear_1", f"{at}.linear_2", wave, F.silu))
        text = max(side // 2 for side in grid) + torch.arange(txt.shape[1])
        places = torch.cat((text[:, None].expand(-1, 3), picture(grid, centered=True)))
        angles = turns(places, img.device)
        img = self.linear("img_in", img)
        txt = self.linear("txt_in", self.rms_norm("txt_norm.weight", txt))
        for i in range(self.config.blocks):
            block = partial(self._block, f"transformer_blocks.{i}", angles)
            img, txt = self.run_block(block, img, txt, vec)
        scale, shift = self.linear("norm_out.linear", vec)[:, None].chunk(2, -1)
        return self.linear("proj_out", modulate(img, shift, scale))

    def _block(
        self,
        at: str,
        angles: torch.Tensor,
        img: torch.Tensor,
        txt: torch.Tensor,
        vec: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        streams = {"txt": txt, "img": img}
        mods, heads = {}, []
        for side, x in streams.items():
            mods[side] = self.linear(f"{at}.{side}_mod.1", vec)[:, None].chunk(6, -1)
            heads.append(self._heads(f"{at}.attn", side, modulate(x, *mods[side][:2])))
        q, k, v = (torch.cat(pair, 2) for pair in zip(*heads, strict=True))
        both = attention(q, k, v, angles)
        attended = {"txt": both[:, : txt.shape[1]], "img": both[:, txt.shape[1] :]}
        for side, x in list(streams.items()):
            _, _, gate, shift, scale, mlp_gate = mods[side]
            x = x + gate * self.linear(f"{at}.attn.{ATTENTION[side][3]}", attended[side])
            first, then = f"{at}.{side}_mlp.net.0.proj", f"{at}.{side}_mlp.net.2"
            inputs = modulate(x, shift, scale)
            streams[side] = x + mlp_gate * self.two_layers(first, then, inputs, gelu)
        return streams["img"], streams["txt"]

    def _heads(
        self, at: str, side: str, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L, hidden) -> q, k, v (B, heads, L, 128), q and k scaled to norm 1 per head."""
        parts = [self.linear(f"{at}.{part}", x) for part in ATTENTION[side][:3]]
        q, k, v = (z.reshape(*z.shape[:2], -1, HEAD_DIM).transpose(1, 2) for z in parts)
        norms = [f"{at}.{norm}.weight" for norm in NORMS[side]]
        return self.rms_norm(norms[0], q), self.rms_norm(norms[1], k), v
