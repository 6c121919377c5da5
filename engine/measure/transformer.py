"""FLUX-shaped weights and inputs in, the transformer's output out: small, plain, in one file.

The arithmetic is FLUX.1's, so that the error of a quantized layer travels to the output as in the
real model. Every linear goes through one function and can be replaced by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from .config import HEAD_DIM, TIME_CHANNELS, FluxConfig

AXES = (16, 56, 56)  # numbers of a head that turn with the index, the row and the column of a token
THETA = 10_000.0

Linear = Callable[[torch.Tensor], torch.Tensor]
Getter = Callable[[str], torch.Tensor]


class ReferenceTransformer:
    """A FLUX.1 whose parameters come by name from a mapping or a function, one at a time.

    `linears` replaces layers: {layer name: x (..., K) -> y (..., N), bias included}; the others
    compute x @ weight.T + bias in the dtype of the inputs.
    """

    def __init__(
        self,
        config: FluxConfig,
        weights: Mapping[str, torch.Tensor] | Getter,
        linears: Mapping[str, Linear] | None = None,
    ) -> None:
        self.config = config
        self._get: Getter = weights.__getitem__ if isinstance(weights, Mapping) else weights
        self._linears = dict(linears or {})

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
        vec = self._embed("time_in", _waves(timestep).to(img.dtype))
        if self.config.guidance and guidance is not None:
            vec = vec + self._embed("guidance_in", _waves(guidance).to(img.dtype))
        vec = F.silu(vec + self._embed("vector_in", vector))
        turns = _turns(txt.shape[1], grid, img.device)
        img, txt = self._linear("img_in", img), self._linear("txt_in", txt)
        for i in range(self.config.double_blocks):
            img, txt = self._double(f"double_blocks.{i}", img, txt, vec, turns)
        both = torch.cat((txt, img), 1)
        for i in range(self.config.single_blocks):
            both = self._single(f"single_blocks.{i}", both, vec, turns)
        img = both[:, txt.shape[1] :]
        shift, scale = self._linear("final_layer.adaLN_modulation.1", vec)[:, None].chunk(2, -1)
        return self._linear("final_layer.linear", _modulate(img, shift, scale))

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name in self._linears:
            return self._linears[name](x)
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return F.linear(x, weight.to(x), bias.to(x))

    def _embed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._linear(f"{name}.out_layer", F.silu(self._linear(f"{name}.in_layer", x)))

    def _modulation(self, name: str, vec: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """(B, hidden) -> `parts` tensors (B, 1, hidden): shift, scale, gate, once or twice."""
        return self._linear(name, vec)[:, None].chunk(parts, -1)

    def _heads(
        self, name: str, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L, 3 * hidden) -> q, k, v (B, heads, L, 128), q and k scaled to norm 1 per head."""
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, -1, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q = F.rms_norm(q, (HEAD_DIM,), self._get(f"{name}.query_norm.scale").to(q), 1e-6)
        k = F.rms_norm(k, (HEAD_DIM,), self._get(f"{name}.key_norm.scale").to(k), 1e-6)
        return q, k, v

    def _double(
        self,
        at: str,
        img: torch.Tensor,
        txt: torch.Tensor,
        vec: torch.Tensor,
        turns: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A block with its own weights for each stream and one attention over both, text first."""
        streams = {"txt": txt, "img": img}
        mods, heads = {}, []
        for side, x in streams.items():
            mods[side] = self._modulation(f"{at}.{side}_mod.lin", vec, 6)
            shift, scale = mods[side][:2]
            qkv = self._linear(f"{at}.{side}_attn.qkv", _modulate(x, shift, scale))
            heads.append(self._heads(f"{at}.{side}_attn.norm", qkv))
        q, k, v = (torch.cat(pair, 2) for pair in zip(*heads, strict=True))
        both = _attention(q, k, v, turns)
        attended = {"txt": both[:, : txt.shape[1]], "img": both[:, txt.shape[1] :]}
        for side, x in list(streams.items()):
            _, _, gate, shift, scale, mlp_gate = mods[side]
            x = x + gate * self._linear(f"{at}.{side}_attn.proj", attended[side])
            inner = self._linear(f"{at}.{side}_mlp.0", _modulate(x, shift, scale))
            inner = F.gelu(inner, approximate="tanh")
            streams[side] = x + mlp_gate * self._linear(f"{at}.{side}_mlp.2", inner)
        return streams["img"], streams["txt"]

    def _single(
        self, at: str, x: torch.Tensor, vec: torch.Tensor, turns: torch.Tensor
    ) -> torch.Tensor:
        """A block over the joined streams whose attention and MLP run side by side."""
        hidden = self.config.hidden
        shift, scale, gate = self._modulation(f"{at}.modulation.lin", vec, 3)
        inner = self._linear(f"{at}.linear1", _modulate(x, shift, scale))
        qkv, mlp = inner[..., : 3 * hidden], inner[..., 3 * hidden :]
        attended = _attention(*self._heads(f"{at}.norm", qkv), turns)
        joined = torch.cat((attended, F.gelu(mlp, approximate="tanh")), -1)
        return x + gate * self._linear(f"{at}.linear2", joined)


def _modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(1 + scale) * layer_norm(x) + shift, the norm without weights."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def _waves(t: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 256): cos and sin of 1000 t times 128 falling frequencies, in float32."""
    half = TIME_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = 1000.0 * t.float()[:, None] * torch.exp(-math.log(10_000.0) / half * steps)
    return torch.cat((angles.cos(), angles.sin()), -1)


def _turns(text: int, grid: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(L, 64) angles in float32: text tokens at 0, image tokens at (0, row, column)."""
    height, width = grid
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    angles = []
    for axis, position in zip(AXES, (torch.zeros_like(rows), rows, columns), strict=True):
        speed = THETA ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis)
        angles.append(position[:, None] * speed)
    image = torch.cat(angles, -1)
    return torch.cat((image.new_zeros(text, image.shape[1]), image)).float().to(device)


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turns: torch.Tensor
) -> torch.Tensor:
    """softmax(q k^T / sqrt(128)) v: q, k, v (B, heads, L, 128), turns (L, 64) -> (B, L, hidden)."""
    out = F.scaled_dot_product_attention(_turn(q, turns), _turn(k, turns), v)
    return out.transpose(1, 2).flatten(2)


def _turn(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbouring numbers by its angle (rotary position), in float32."""
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = turns.cos(), turns.sin()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return turned.flatten(-2).to(x.dtype)
