"""Sizes -> small checkpoints with real key names that ComfyUI detects, and LoRAs that fit them.

Key names come from the recorded headers in engine/specs; only widths and depths are shrunk. Needs
torch and safetensors alone, so that the tests' interpreter and ComfyUI's can both import it. A
tensor depends on its name and the seed only: the same call writes the same bytes.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

SPECS = Path(__file__).resolve().parents[2] / "engine" / "specs"
Shapes = dict[str, tuple[int, ...]]

# conditioning that fits the models below at their default sizes: (text width, pooled width or 0)
FLUX_CONDITIONING = (128, 768)
WAN_CONDITIONING = (4096, 0)
QWEN_CONDITIONING = (3584, 0)

OUTLIER_SHARE, OUTLIER_COLUMNS, OUTLIER_ROWS = 0.01, 6.0, 4.0
# name part: factor over 1/sqrt(inputs). Modulation is loud so that every block reaches the output,
# the last layer quiet so that a predicted velocity has about the size of the noise.
GAINS = (
    ("final_layer.linear", 0.3), ("head.head", 0.3), ("proj_out", 0.3),
    ("_mod.", 2.0), ("modulation.", 2.0), ("time_projection", 2.0), ("norm_out", 2.0),
    ("SelfAttention.q.", 0.125),  # T5 does not divide by the root of the head size
)  # fmt: skip
EMBEDDINGS = (
    "token_embedding", "position_embedding", "embed_tokens", "shared.", "relative_attention_bias",
)  # fmt: skip


# --- numbers ---------------------------------------------------------------------------------


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()) + 7919 * seed)


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Normal numbers of variance 1/inputs; in matrices one column and row of a hundred is loud."""
    inputs = math.prod(shape[1:])
    gain = next((factor for part, factor in GAINS if part in name), 1.0)
    weight = torch.randn(shape, generator=generator).mul_(gain / math.sqrt(inputs))
    if len(shape) == 2 and min(shape) >= 64:
        for dim, factor in ((1, OUTLIER_COLUMNS), (0, OUTLIER_ROWS)):
            count = max(1, round(shape[dim] * OUTLIER_SHARE))
            loud = torch.randperm(shape[dim], generator=generator)[:count]
            weight.index_copy_(dim, loud, weight.index_select(dim, loud) * factor)
    return weight


def _tensor(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = _generator(name, seed)
    if any(part in name for part in EMBEDDINGS):
        value = torch.randn(shape, generator=generator) * 0.5
    elif name.endswith("modulation"):
        value = torch.randn(shape, generator=generator) * 0.3
    elif len(shape) == 1 and name.endswith((".weight", ".scale")):
        value = torch.randn(shape, generator=generator) * 0.1 + 1.0
    elif len(shape) == 1:
        value = torch.randn(shape, generator=generator) * 0.05
    else:
        value = _weight(name, shape, generator)
    return value.to(dtype)


def write(
    path: Path, shapes: Shapes, seed: int, dtype: torch.dtype,
    others: Mapping[str, torch.Tensor] | None = None, header: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Names and shapes -> a safetensors file of random numbers, `others` added or instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: _tensor(name, shape, seed, dtype) for name, shape in shapes.items()}
    tensors |= others or {}
    save_file(tensors, str(path), metadata={"format": "pt", **(header or {})})
    return path


# --- models ----------------------------------------------------------------------------------


def shapes_of(spec: str, sizes: Mapping[int, int], blocks: Mapping[str, int]) -> Shapes:
    """Shapes of a recorded header with sizes replaced and the named block lists cut short."""
    recorded = json.loads((SPECS / f"{spec}.json").read_text(encoding="utf-8"))["tensors"]
    shapes: Shapes = {}
    for name, (shape, *count) in recorded.items():
        small = tuple(sizes.get(size, size) for size in shape)
        for block in range(blocks.get(name.split(".{}")[0], count[0]) if count else 1):
            shapes[name.replace("{}", str(block), 1)] = small
    return shapes


def flux(
    path: Path,
    hidden: int = 256,
    double: int = 2,
    single: int = 2,
    context: int = FLUX_CONDITIONING[0],
    pooled: int = FLUX_CONDITIONING[1],
    guidance: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """FLUX.1 (dev with guidance, else schnell): 102 hidden^2 numbers at 2 + 2 blocks.

    Core derives hidden // 128 heads; below 256 a quantized layer falls under core's 16 KiB rule.
    """
    sizes = {3072 * factor: hidden * factor for factor in range(1, 8)}
    sizes |= {4096: context, 768: pooled}
    blocks = {"double_blocks": double, "single_blocks": single}
    spec = "flux1-dev" if guidance else "flux1-schnell"
    return write(path, shapes_of(spec, sizes, blocks), seed, dtype)


def wan(
    path: Path,
    dim: int = 256,
    feed_forward: int = 768,
    blocks: int = 2,
    image: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Wan 2.1 text to video (or image to video). Core derives dim // 128 heads, text is 4096."""
    sizes = {5120: dim, 30720: dim * 6, 13824: feed_forward}
    spec = "wan2.1-i2v-14b-480p" if image else "wan2.1-t2v-14b"
    return write(path, shapes_of(spec, sizes, {"blocks": blocks}), seed, dtype)


def qwen_image(
    path: Path,
    blocks: int = 1,
    edit: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Qwen-Image at its real width of 3072, which core fixes: 0.68 GB of BF16 a block, 0.08 beside.

    `edit` keeps the empty marker tensor by which core knows Qwen-Image-Edit 2511.
    """
    shapes = shapes_of("qwen-image-edit-2511", {}, {"transformer_blocks": blocks})
    if not edit:
        del shapes["__index_timestep_zero__"]
    return write(path, shapes, seed, dtype)


def clip_l(
    path: Path,
    width: int = 768,
    layers: int = 12,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """CLIP-L. The stock loaders take the default sizes only; `clip_l_options` fits any other.

    Core fixes the 49408 words, and knows CLIP-L beside a T5 by its second layer: two at least.
    """
    sizes = {768: width, 3072: width * 4}
    blocks = {"text_model.encoder.layers": layers}
    return write(path, shapes_of("clip-l", sizes, blocks), seed, dtype)


def clip_l_options(width: int = 768, layers: int = 12) -> dict[str, dict[str, int]]:
    """The `model_options` that make core build the CLIP-L above.

    Core overwrites `clip_l_model_config` and starts that from `model_config`, hence the key.
    """
    sizes = {"hidden_size": width, "intermediate_size": width * 4, "num_hidden_layers": layers}
    return {"model_config": {**sizes, "num_attention_heads": width // 64}}


def t5(
    path: Path, width: int = FLUX_CONDITIONING[0], heads: int = 4, feed_forward: int = 10240,
    layers: int = 24, spiece: bytes | None = None, seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:  # fmt: skip
    """T5-XXL, narrow; with the bytes of a sentencepiece model UMT5-XXL, which stores its own.

    Core knows both by 10240 rows in block 23, so depth and feed forward stay. No stock loader
    takes another width: load it in process with `t5_options`.
    """
    shapes: Shapes = {"shared.weight": (32128, width), "encoder.final_layer_norm.weight": (width,)}
    for block in range(layers):
        at = f"encoder.block.{block}.layer."
        shapes |= {f"{at}0.SelfAttention.{p}.weight": (heads * 64, width) for p in "qkv"}
        shapes[f"{at}0.SelfAttention.o.weight"] = (width, heads * 64)
        shapes |= {f"{at}1.DenseReluDense.wi_{i}.weight": (feed_forward, width) for i in (0, 1)}
        shapes[f"{at}1.DenseReluDense.wo.weight"] = (width, feed_forward)
        shapes |= {f"{at}{i}.layer_norm.weight": (width,) for i in (0, 1)}
        if spiece or block == 0:
            shapes[f"{at}0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
    words = (
        {"spiece_model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8)} if spiece else {}
    )
    return write(path, shapes, seed, dtype, words)


def t5_options(
    width: int = FLUX_CONDITIONING[0], heads: int = 4, umt5: bool = False
) -> dict[str, dict[str, int]]:
    """The `model_options` that make core build the T5 above."""
    sizes = {"d_model": width, "num_heads": heads, "vocab_size": 32128}
    return {"umt5xxl_model_config" if umt5 else "t5xxl_model_config": sizes}


def qwen_vl(
    path: Path, feed_forward: int = 1024, layers: int = 2, seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:  # fmt: skip
    """Qwen2.5-VL, 512 wide, text part only. Core knows it by 512 rows of keys, so 4 heads stay."""
    shapes = shapes_of("qwen2.5-vl-7b", {3584: 512, 18944: feed_forward}, {"model.layers": layers})
    text = {name: shape for name, shape in shapes.items() if name.startswith("model.")}
    return write(path, text, seed, dtype)


def qwen_vl_options(feed_forward: int = 1024, layers: int = 2) -> dict[str, dict[str, int]]:
    """The `model_options` that make core build the Qwen2.5-VL above."""
    sizes = {"hidden_size": 512, "intermediate_size": feed_forward, "num_attention_heads": 4}
    return {"qwen25_7b_model_config": {**sizes, "num_hidden_layers": layers}}


def vae(path: Path, channels: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """The tiny autoencoder (TAESD layout, 64 wide, 8x) that VAELoader takes; 16 channels: FLUX."""
    shapes: Shapes = {}

    def conv(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, 3, 3)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def blocks(side: str, positions: Iterable[int]) -> None:
        for position in positions:
            for step in (0, 2, 4):
                conv(f"taesd_{side}.{position}.conv.{step}", 64, 64)

    conv("taesd_decoder.1", channels, 64)
    blocks("decoder", (3, 4, 5, 8, 9, 10, 13, 14, 15, 18))
    for position in (7, 12, 17):
        conv(f"taesd_decoder.{position}", 64, 64, bias=False)
    conv("taesd_decoder.19", 64, 3)
    conv("taesd_encoder.0", 3, 64)
    blocks("encoder", (1, 3, 4, 5, 7, 8, 9, 11, 12, 13))
    for position in (2, 6, 10):
        conv(f"taesd_encoder.{position}", 64, 64, bias=False)
    conv("taesd_encoder.14", 64, channels)
    last = _tensor("taesd_decoder.19.weight", shapes["taesd_decoder.19.weight"], seed, dtype)
    tuned = {
        "taesd_decoder.19.weight": last * 0.2,
        "taesd_decoder.19.bias": torch.full((3,), 0.5, dtype=dtype),
        "vae_scale": torch.tensor(0.3611),
        "vae_shift": torch.tensor(0.1159),
    }
    return write(path, shapes, seed, dtype, tuned)


# --- LoRAs -----------------------------------------------------------------------------------

Part = tuple[str, int, int]  # Diffusers name, first and last row in units of the layer's inputs


def _thirds(*names: str) -> tuple[Part, ...]:
    return tuple((name, third, third + 1) for third, name in enumerate(names))


# native layer -> its Diffusers layers; a plain name stands for all rows
DIFFUSERS: dict[str, dict[str, str | tuple[Part, ...]]] = {
    "double_blocks": {
        "img_attn.qkv": _thirds("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": _thirds("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
        "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
        "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
        "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
    },
    "single_blocks": {
        "linear1": (*_thirds("attn.to_q", "attn.to_k", "attn.to_v"), ("proj_mlp", 3, 7)),
        "linear2": "proj_out", "modulation.lin": "norm.linear",
    },
    "blocks": {
        **{f"self_attn.{p}": f"attn1.to_{p}" for p in "qkv"}, "self_attn.o": "attn1.to_out.0",
        **{f"cross_attn.{p}": f"attn2.to_{p}" for p in "qkv"}, "cross_attn.o": "attn2.to_out.0",
        "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
    },
}  # fmt: skip
DIFFUSERS_LISTS = {
    "double_blocks": "transformer_blocks",
    "single_blocks": "single_transformer_blocks",
}
BLOCK = re.compile(
    r"^(double_blocks|single_blocks|blocks|transformer_blocks)\.(\d+)\.(.+)\.weight$"
)


def layers(model: Path) -> Shapes:
    """The linear layers inside the blocks of a checkpoint above: native name -> shape (N, K)."""
    with safe_open(str(model), framework="pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    found = {name: shape for name, shape in shapes.items() if BLOCK.match(name) and len(shape) == 2}
    return {name.removesuffix(".weight"): shape for name, shape in sorted(found.items())}


def _diffusers_parts(layer: str, inputs: int, rows: int) -> list[tuple[str, int, int]]:
    """A native layer -> (Diffusers layer, first row, row after the last) that cover it."""
    match = BLOCK.match(f"{layer}.weight")
    if match is None:
        raise ValueError(f"{layer} is in no block")
    kind, index, rest = match.groups()
    name = DIFFUSERS.get(kind, {}).get(rest, rest)
    at = f"transformer.{DIFFUSERS_LISTS.get(kind, kind)}.{index}."
    if isinstance(name, str):
        return [(at + name, 0, rows)]
    return [(at + part, first * inputs, last * inputs) for part, first, last in name]


def deltas(
    model: Path, rank: int = 4, alpha: float | None = None, gain: float = 0.3,
    only: str = "", seed: int = 0,
) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:  # fmt: skip
    """Native layer -> (down (R, K), up (N, R), factor): the numbers `lora` writes, in float32.

    The delta is factor * up @ down; its entries have about `gain` times the size of the weight's.
    """
    made = {}
    for layer, (rows, inputs) in layers(model).items():
        if re.search(only, layer):
            generator = _generator(layer, seed + 1)
            down = torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
            up = torch.randn(rows, rank, generator=generator) * gain / math.sqrt(rank)
            down, up = down.bfloat16().float(), up.bfloat16().float()
            made[layer] = (down, up, 1.0 if alpha is None else alpha / rank)
    return made


def lora(
    path: Path, model: Path, spelling: str = "native", rank: int = 4, alpha: float | None = None,
    gain: float = 0.3, only: str = "", seed: int = 0,
) -> Path:  # fmt: skip
    """A LoRA for a checkpoint above in one of three spellings of the same deltas.

    native     diffusion_model.LAYER.lora_A.weight, lora_B.weight
    diffusers  transformer.LAYER.lora_A.weight, lora_B.weight; fused layers in their parts
    kohya      lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight, lora_up.weight, alpha
    `alpha` None means alpha = rank, written for kohya only. `only` is a pattern on layer names.
    """
    tensors: dict[str, torch.Tensor] = {}
    for layer, (down, up, _) in deltas(model, rank, alpha, gain, only, seed).items():
        parts = [(f"diffusion_model.{layer}", 0, up.shape[0])]
        first, second = "lora_A", "lora_B"
        if spelling == "diffusers":
            parts = _diffusers_parts(layer, down.shape[1], up.shape[0])
        elif spelling == "kohya":
            parts = [("lora_unet_" + layer.replace(".", "_"), 0, up.shape[0])]
            first, second = "lora_down", "lora_up"
        elif spelling != "native":
            raise ValueError(f"spelling {spelling!r}: native, diffusers or kohya")
        for name, start, stop in parts:
            tensors[f"{name}.{first}.weight"] = down.bfloat16().clone()
            tensors[f"{name}.{second}.weight"] = up[start:stop].bfloat16().clone()
            if alpha is not None or spelling == "kohya":
                tensors[f"{name}.alpha"] = torch.tensor(float(rank if alpha is None else alpha))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path), metadata={"format": "pt"})
    return path
