"""Wan-shaped sizes, weights and inputs in, the transformer's output out: small, plain.

The arithmetic is Wan's: self-attention over the frames, cross-attention to the text, a
feed-forward layer; one table and one projected time modulate every block.
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

AXES = (44, 42, 42)
PATCH = (1, 2, 2)
LINEARS = ("q", "k", "v", "o")


@dataclass(frozen=True)
class WanConfig:
    """A Wan 2.1 or 2.2 text-to-video model of any size, or image-to-video without CLIP."""

    hidden: int = 512
    inner: int = 1536
    blocks: int = 3
    context: int = 256
    channels: int = 16
    outputs: int = 16

    def shapes(self) -> Shapes:
        """{parameter name: shape}, in the order of a Wan file."""
        h = self.hidden
        linears = {
            "text_embedding.0": (h, self.context),
            "text_embedding.2": (h, h),
            "time_embedding.0": (h, TIME_CHANNELS),
            "time_embedding.2": (h, h),
            "time_projection.1": (6 * h, h),
        }
        others: Shapes = {}
        for i in range(self.blocks):
            at = f"blocks.{i}"
            for kind in ("self_attn", "cross_attn"):
                linears |= {f"{at}.{kind}.{part}": (h, h) for part in LINEARS}
                others |= {f"{at}.{kind}.norm_{part}.weight": (h,) for part in "qk"}
            linears |= {f"{at}.ffn.0": (self.inner, h), f"{at}.ffn.2": (h, self.inner)}
            others |= {f"{at}.norm3.weight": (h,), f"{at}.norm3.bias": (h,)}
            others[f"{at}.modulation"] = (1, 6, h)
        linears["head.head"] = (4 * self.outputs, h)
        shapes: Shapes = {
            "patch_embedding.weight": (h, self.channels, *PATCH),
            "patch_embedding.bias": (h,),
        }
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return shapes | others | {"head.modulation": (1, 2, h)}

    def quantized(self) -> list[str]:
        """The attention and feed-forward layers of every block."""
        parts = [f"{kind}.{part}" for kind in ("self_attn", "cross_attn") for part in LINEARS]
        parts += ["ffn.0", "ffn.2"]
        return [f"blocks.{i}.{part}" for i in range(self.blocks) for part in parts]

    def modulation(self) -> list[str]:
        """The layer that makes the modulation from the time."""
        return ["time_projection.1"]

    def raised(self) -> dict[str, tuple[Raised, ...]]:
        """What the table of each block multiplies the inputs of its layers by."""
        found: dict[str, tuple[Raised, ...]] = {}
        for i in range(self.blocks):
            at = f"blocks.{i}"
            attention_inputs = tuple(f"{at}.self_attn.{part}" for part in "qkv")
            found[f"{at}.modulation"] = (
                Raised(attention_inputs, 1, 6),
                Raised((f"{at}.ffn.0",), 4, 6),
            )
        return found


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> WanConfig:
    """The config whose parameters these are, or a refusal."""
    try:
        hidden, channels, *_ = shapes["patch_embedding.weight"]
        config = WanConfig(
            hidden=hidden,
            inner=shapes["blocks.0.ffn.0.weight"][0],
            blocks=len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
            context=shapes["text_embedding.0.weight"][1],
            channels=channels,
            outputs=shapes["head.head.weight"][0] // 4,
        )
    except (KeyError, ValueError) as absent:
        raise misfit("wan", str(absent)) from absent
    different = {key for key, shape in config.shapes().items() if shapes.get(key) != shape}
    if different or len(shapes) != len(config.shapes()):
        raise misfit("wan", min(different, default="more parameters"))
    return config


class WanTransformer(Network):
    """A Wan whose parameters come by name from a mapping or a function, one at a time."""

    def __init__(
        self,
        config: WanConfig,
        weights: Mapping[str, torch.Tensor] | Getter,
        linears: Mapping[str, Linear] | None = None,
        run_block: RunBlock = run_at_once,
    ) -> None:
        super().__init__(weights, linears, run_block)
        self.config = config

    def __call__(
        self, img: torch.Tensor, txt: torch.Tensor, timestep: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Predict the flow of every token of one frame.

        img (B, H * W, 4 * channels) patches row by row, txt (B, T, context), timestep (B,) in
        0..1, grid (H, W) -> (B, H * W, 4 * outputs).
        """
        kernel = self.get("patch_embedding.weight").to(img).flatten(1)
        x = F.linear(img, kernel, self.get("patch_embedding.bias").to(img))
        wave = waves(timestep).to(img.dtype)
        time = self.two_layers("time_embedding.0", "time_embedding.2", wave, F.silu)
        steps = self.linear("time_projection.1", F.silu(time)).reshape(len(time), 6, -1)
        text = self.two_layers("text_embedding.0", "text_embedding.2", txt, gelu)
        angles = turns(picture(grid), img.device, AXES)
        for i in range(self.config.blocks):
            x = self.run_block(partial(self._block, f"blocks.{i}", angles), x, text, steps)
        shift, scale = (self.get("head.modulation").to(x) + time[:, None]).chunk(2, 1)
        return self.linear("head.head", modulate(x, shift, scale))

    def _block(
        self,
        at: str,
        angles: torch.Tensor,
        x: torch.Tensor,
        text: torch.Tensor,
        steps: torch.Tensor,
    ) -> torch.Tensor:
        table = (self.get(f"{at}.modulation").to(x) + steps).chunk(6, 1)
        inputs = modulate(x, table[0], table[1])
        x = x + table[2] * self._attend(f"{at}.self_attn", inputs, inputs, angles)
        norm = self.get(f"{at}.norm3.weight").to(x), self.get(f"{at}.norm3.bias").to(x)
        inputs = F.layer_norm(x, x.shape[-1:], *norm, eps=1e-6)
        x = x + self._attend(f"{at}.cross_attn", inputs, text, None)
        inputs = modulate(x, table[3], table[4])
        return x + table[5] * self.two_layers(f"{at}.ffn.0", f"{at}.ffn.2", inputs, gelu)

    def _attend(
        self, at: str, x: torch.Tensor, y: torch.Tensor, angles: torch.Tensor | None
    ) -> torch.Tensor:
        """Tokens of `x` attend to those of `y`; q and k are scaled over all heads at once."""
        q = self.rms_norm(f"{at}.norm_q.weight", self.linear(f"{at}.q", x))
        k = self.rms_norm(f"{at}.norm_k.weight", self.linear(f"{at}.k", y))
        v = self.linear(f"{at}.v", y)
        q, k, v = (z.reshape(*z.shape[:2], -1, HEAD_DIM).transpose(1, 2) for z in (q, k, v))
        return self.linear(f"{at}.o", attention(q, k, v, angles))
