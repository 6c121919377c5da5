"""Model families in, the fullest moments of their blocks out: how many tensors are alive in each.

Counted from the tensors alive at each line of ComfyUI 0.33's own model code while it computes. A
moment is told by how many arrays of (tokens, hidden) and (tokens, MLP width) exist beside the
weights; which of a family's moments is the fullest depends on the resolution and on the scheme.
A family without a row here takes `ANY_FAMILY`, which nobody counted.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE, TEXT, JOINT, ONE = "image", "text", "joint", "one"  # whose tokens


@dataclass(frozen=True)
class Moment:
    """Arrays alive, by whose tokens they are of.

    `hidden` and `wide` count arrays of (tokens, hidden) and of (tokens, MLP width). `scores`: whose
    queries meet whose keys. `linear`: the layer that is being computed and on whose tokens; its
    output and its widened weight come on top. `activated`: of `wide`, the arrays that its input is
    put through an activation into, which a product that applies the activation itself never makes.
    """

    name: str
    hidden: dict[str, int]
    wide: dict[str, int]
    scores: tuple[str, str] | None = None
    linear: tuple[str, str] | None = None
    activated: int = 0


@dataclass(frozen=True)
class Blocks:
    """The moments of a family, and the layers by whose rows hidden size and MLP width are told.

    `rotary`: whose tokens have a table of rotations of two by two numbers a pair.
    """

    hidden: str
    wide: str
    rotary: str
    moments: tuple[Moment, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose shapes a prediction wants to know."""
        computed = (moment.linear[0] for moment in self.moments if moment.linear is not None)
        return tuple(dict.fromkeys((self.hidden, self.wide, *computed)))


def _moment(name: str, joint: int = 0, image: int = 0, text: int = 0, wide: int = 0,
            wide_image: int = 0, activated: int = 0,
            **more: tuple[str, str]) -> Moment:  # fmt: skip
    hidden = {JOINT: joint, IMAGE: image, TEXT: text}
    return Moment(name, hidden, {JOINT: wide, IMAGE: wide_image}, **more, activated=activated)


_DOUBLE, _SINGLE = "double_blocks.0.", "single_blocks.0."
FLUX = Blocks("img_in", f"{_DOUBLE}img_mlp.0", JOINT, (
    _moment("modulation", image=1, text=1, linear=(f"{_DOUBLE}img_mod.lin", ONE)),
    _moment("double attention", joint=5, image=1, text=1, scores=(JOINT, JOINT)),
    _moment("double MLP in", joint=1, image=2, text=1, linear=(f"{_DOUBLE}img_mlp.0", IMAGE)),
    _moment("double MLP", joint=1, image=2, text=1, wide_image=2),
    _moment("double MLP out", joint=1, image=2, text=1, wide_image=1,
            linear=(f"{_DOUBLE}img_mlp.2", IMAGE)),
    _moment("single in", joint=2, image=1, linear=(f"{_SINGLE}linear1", JOINT)),
    _moment("single attention", joint=8, image=1, wide=1, scores=(JOINT, JOINT)),
    _moment("single MLP", joint=5, image=1, wide=2),
    _moment("single out", joint=3, image=1, wide=2, linear=(f"{_SINGLE}linear2", JOINT)),
))  # fmt: skip

_BLOCK = "blocks.0."
WAN = Blocks("patch_embedding", f"{_BLOCK}ffn.0", IMAGE, (
    _moment("modulation", image=1, linear=("time_projection.1", ONE)),
    _moment("text", image=1, linear=("text_embedding.0", TEXT)),
    _moment("attention", image=6, text=1, scores=(IMAGE, IMAGE)),
    _moment("cross attention", image=4, text=3, scores=(IMAGE, TEXT)),
    _moment("MLP in", image=3, text=1, linear=(f"{_BLOCK}ffn.0", IMAGE)),
    # linear_input_act holds on to what it puts through GELU
    _moment("MLP out", image=3, text=1, wide_image=2, activated=1,
            linear=(f"{_BLOCK}ffn.2", IMAGE)),
))  # fmt: skip

_BLOCK = "transformer_blocks.0."
QWEN_IMAGE = Blocks("img_in", f"{_BLOCK}img_mlp.net.0.proj", JOINT, (
    _moment("modulation", image=1, text=1, linear=(f"{_BLOCK}img_mod.1", ONE)),
    _moment("attention", joint=3, image=5, text=5, scores=(JOINT, JOINT)),
    _moment("attention out", joint=4, image=5, text=5, linear=(f"{_BLOCK}attn.to_out.0", IMAGE)),
    _moment("MLP in", image=3, text=2, linear=(f"{_BLOCK}img_mlp.net.0.proj", IMAGE)),
    _moment("MLP", image=3, text=2, wide_image=2),
    _moment("MLP out", image=3, text=2, wide_image=1, linear=(f"{_BLOCK}img_mlp.net.2", IMAGE)),
))  # fmt: skip

BLOCKS = {"flux": FLUX, "wan": WAN, "qwen_image": QWEN_IMAGE}
# the residual, its normalized copy, q, k, v, and the widest output before and after its activation
ANY_FAMILY = Blocks("", "", JOINT, (
    _moment("MLP", joint=5, wide=2),
    _moment("attention", joint=5, scores=(JOINT, JOINT)),
))  # fmt: skip
