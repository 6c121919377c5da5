"""A model and a job in; tokens, activations and products of one pass through the model out.

Reads shapes alone. A pass is one call of the model: with real classifier-free guidance a step has
two of them, and ComfyUI runs them one after the other where memory is short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..model import Model
from ..place.step import Call, step_bytes
from .activations import net_of
from .sides import CHOSEN, block_of, image_matrices, side_of, widths_of


@dataclass(frozen=True)
class Latent:
    """How a family cuts pictures into tokens, and what its users ask for.

    `pixels`: side of the square that one token stands for: the VAE's factor times the patch.
    `frame_stride`: frames that share one latent frame, after the first. `references`: pictures of
    the same size that go in beside the noise. `passes` of a step without a distill LoRA.
    """

    pixels: int = 16
    frame_stride: int = 0
    text_tokens: int = 512
    references: int = 0
    width: int = 1024
    height: int = 1024
    frames: int = 1
    passes: int = 1


LATENTS = {
    "chroma": Latent(passes=2),
    "flux": Latent(),
    "flux2": Latent(),
    "hidream": Latent(text_tokens=384, passes=2),
    "hunyuan_video": Latent(frame_stride=4, text_tokens=256, width=848, height=480, frames=73),
    "krea2": Latent(),
    "ltx2": Latent(
        pixels=32, frame_stride=8, text_tokens=1024, width=1280, height=704, frames=121, passes=2
    ),
    "ltx_video": Latent(
        pixels=32, frame_stride=8, text_tokens=128, width=768, height=512, frames=97, passes=2
    ),
    "lumina2": Latent(text_tokens=256, passes=2),
    "qwen_image": Latent(passes=2),
    "qwen_image_21": Latent(passes=2),
    "sd3": Latent(text_tokens=154, passes=2),
    "wan": Latent(frame_stride=4, width=832, height=480, frames=81, passes=2),
    "z_image": Latent(),
}
# kinds of one family, by the channels that its input layer reads
VARIANTS = {
    # the VAE of Wan 2.2 5B: 16 times smaller, in 48 channels
    ("wan", "patch_embedding.weight", 48): Latent(
        pixels=32, frame_stride=4, width=1280, height=704, frames=121, passes=2
    ),
    ("hunyuan_video", "img_in.proj.weight", 64): Latent(  # HunyuanImage 2.1
        pixels=32, width=2048, height=2048, passes=2
    ),
    ("hunyuan_video", "img_in.proj.weight", 65): Latent(  # HunyuanVideo 1.5
        frame_stride=4, width=848, height=480, frames=121, passes=2
    ),
}
DEFAULT = Latent()


@dataclass(frozen=True)
class Work:
    """One pass: `products` and `attention` in floating-point operations."""

    tokens: int
    text_tokens: int
    width: int
    activation_bytes: int
    products: float
    attention: float
    passes: int


@dataclass(frozen=True)
class Picture:
    """What is sampled."""

    width: int
    height: int
    frames: int
    batch: int = 1


def latent_of(model: Model) -> Latent:
    """The row of a family, told apart by shapes where one family has two kinds."""
    family, shapes = model.family.name, model.shapes
    found = LATENTS.get(family, DEFAULT)
    for (name, key, channels), other in VARIANTS.items():
        if family == name and key in shapes and shapes[key][1] == channels:
            found = other
    if "__index_timestep_zero__" in shapes:  # Qwen-Image-Edit: the picture to edit goes in too
        return replace(found, references=1)
    return found


def tokens_of(latent: Latent, picture: Picture) -> int:
    """Tokens of noise and references together: ceil(w / p) * ceil(h / p) * latent frames."""
    area = math.ceil(picture.width / latent.pixels) * math.ceil(picture.height / latent.pixels)
    frames = 1
    if latent.frame_stride:
        frames += math.ceil((picture.frames - 1) / latent.frame_stride)
    return area * frames * (1 + latent.references)


def call_of(model: Model, picture: Picture, itemsize: int = 2) -> Call:
    """One call of the model for a picture, with attention that keeps no scores."""
    latent = latent_of(model)
    return Call(picture.batch, tokens_of(latent, picture), latent.text_tokens, itemsize=itemsize)


def work_of(model: Model, picture: Picture, passes: int) -> Work:
    """What one pass computes and holds in 16 bits, every weight on the device.

    products   = sum over matrices (n, k) of 2 n k rows: rows are all tokens, the text's tokens, 1,
                 or half of the tokens where a router chooses two of four experts
    attention  = 4 tokens^2 width blocks: q k^T and its product with v, in every block
    activation = the fullest moment of a block, see place/step.py. ComfyUI's own estimate (latent
                 area x dtype x 0.01 x factor of the model, in MiB) is 1.9 to 2.7 times as large.
    """
    call = call_of(model, picture)
    tokens, (width, _) = call.image + call.text, widths_of(model)
    numbered = {block_of(layer) for layer in image_matrices(model)}
    rows = {"all": tokens, "chosen": CHOSEN * tokens, "text": call.text, "one": 1}
    products = sum(2.0 * x.elements * rows[side_of(x)] for x in model.layers if x.is_matrix)
    return Work(
        tokens=tokens,
        text_tokens=call.text,
        width=width,
        activation_bytes=step_bytes(net_of(model), call),
        products=picture.batch * products,
        attention=picture.batch * 4.0 * tokens**2 * width * len(numbered),
        passes=passes,
    )


def most_frames(latent: Latent, picture: Picture, tokens: float) -> int:
    """Frames of a video so that it has at most so many tokens; 0 where not even one does."""
    one = tokens_of(latent, replace(picture, frames=1))
    latents = int(tokens // one)
    return 1 + (latents - 1) * latent.frame_stride if latents else 0
