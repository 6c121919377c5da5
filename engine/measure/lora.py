"""A config, a spelling, a rank and a seed in, the tensors of a random LoRA file out.

Files as users have them: `peft` is like a distillation LoRA in Diffusers' names (q, k and v apart,
no alpha, bf16, every delta about 6 % of its weight), `kohya` like a style LoRA in kohya's names
(fused layers, alpha of half the rank, fp16, about 2 %). These are for FLUX; `core` is like `peft`
in ComfyUI's names, for any model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import Refused
from .config import Config, FluxConfig
from .synthetic import Weights, generator, weight_rms, write_tensors

# Diffusers' names of a block's layers: {layer of ours: (their names, each one run of the outputs)}
DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}


@dataclass(frozen=True)
class Spelling:
    """How a LoRA file names and stores an adapter; `size` is |delta| / |weight|."""

    down: str
    up: str
    dtype: torch.dtype
    size: float
    alpha_of_rank: float | None


SPELLINGS = {
    "peft": Spelling(".lora_A.weight", ".lora_B.weight", torch.bfloat16, 0.06, None),
    "core": Spelling(".lora_A.weight", ".lora_B.weight", torch.bfloat16, 0.06, None),
    "kohya": Spelling(".lora_down.weight", ".lora_up.weight", torch.float16, 0.02, 0.5),
}


def make_lora(config: Config, spelling: str, rank: int = 16, seed: int = 0) -> Weights:
    """{key: tensor} of a LoRA for the attention and MLP layers of every block.

    For a weight (N, K): down (rank, K) and up (N, rank), so that |alpha / rank * up @ down| is
    `size` times the weight's norm. Component i of the rank is 1 / sqrt(i + 1) as strong as
    the first.
    """
    if spelling not in SPELLINGS:
        raise Refused(
            "unknown-spelling",
            found=spelling,
            expected=f"one of {', '.join(SPELLINGS)}",
            fix="choose one of these.",
        )
    how = SPELLINGS[spelling]
    fading = torch.arange(1, rank + 1).rsqrt()
    factor = 1.0 if how.alpha_of_rank is None else how.alpha_of_rank
    tensors: Weights = {}
    for module, n, k in _modules(config, spelling):
        source = generator(seed, f"{spelling}/{module}")
        down = torch.randn(rank, k, generator=source) / k**0.5
        up = torch.randn(n, rank, generator=source) * fading
        up *= how.size * weight_rms(k) * k**0.5 / float(fading.norm()) / factor
        tensors[module + how.down] = down.to(how.dtype)
        tensors[module + how.up] = up.to(how.dtype)
        if how.alpha_of_rank is not None:
            tensors[module + ".alpha"] = torch.tensor(factor * rank, dtype=how.dtype)
    return tensors


def write_lora(
    path: str | Path, config: Config, spelling: str, rank: int = 16, seed: int = 0
) -> None:
    """Write `make_lora` as a safetensors file."""
    write_tensors(path, make_lora(config, spelling, rank, seed))


def _modules(config: Config, spelling: str) -> Iterator[tuple[str, int, int]]:
    """(module as the LoRA spells it, outputs, inputs) of every adapter."""
    shapes = config.shapes()
    if spelling == "core":
        for name in config.quantized():
            n, k = shapes[f"{name}.weight"]
            yield f"diffusion_model.{name}", n, k
    elif isinstance(config, FluxConfig):
        yield from _flux_modules(config, spelling)
    else:
        raise Refused(
            "unknown-spelling",
            found=f"{spelling} for a model that is no FLUX",
            expected="core",
            fix="choose core",
        )


def _flux_modules(config: FluxConfig, spelling: str) -> Iterator[tuple[str, int, int]]:
    for name, (n, k) in config.linears().items():
        block, _, layer = name.partition("_blocks.")
        index, _, layer = layer.partition(".")
        table = {"double": DOUBLE, "single": SINGLE}.get(block, {})
        if layer not in table:
            continue
        if spelling == "kohya":
            yield "lora_unet_" + name.replace(".", "_"), n, k
            continue
        prefix = (
            "transformer.transformer_blocks"
            if block == "double"
            else ("transformer.single_transformer_blocks")
        )
        for part in table[layer]:
            outputs = 4 * config.hidden if part == "proj_mlp" else n
            outputs = config.hidden if part.startswith("attn.") else outputs
            yield f"{prefix}.{index}.{part}", outputs, k
