"""Z-Image and Lumina 2: FAMILY out. Core joins q, k, v; Diffusers' Z-Image has them apart."""

from __future__ import annotations

from ..family import Family, Rule, Shapes, Target
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Place, renames, stacked

_STACKS = ("layers", "context_refiner", "noise_refiner")


def _attention(stack: str) -> dict[str, Place]:
    attention = stack + ".{}.attention."
    return {
        **stacked([f"{attention}to_{x}" for x in "qkv"], f"{attention}qkv"),
        **renames(
            {"to_out.0": "out", "norm_q": "q_norm", "norm_k": "k_norm"},
            attention + "*",
            attention + "*",
        ),
    }


_DIFFUSERS = {
    **{spelled: place for stack in _STACKS for spelled, place in _attention(stack).items()},
    **renames(
        {"linear": "linear", "adaLN_modulation.1": "adaLN_modulation.1"},
        "all_final_layer.2-1.*",
        "final_layer.*",
    ),
    "all_x_embedder.2-1": Place("x_embedder"),
}


def spelling(shapes: Shapes) -> str | None:
    """`core` by the joined q, k, v of the refiner, `diffusers` by the three apart."""
    if "cap_embedder.1.weight" not in shapes:
        return None
    if "noise_refiner.0.attention.qkv.weight" in shapes:
        return "core"
    return "diffusers" if "noise_refiner.0.attention.to_q.weight" in shapes else None


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Diffusers' Z-Image under core's names, q, k and v joined."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        return _spelling.find(_DIFFUSERS, module)

    return tuple(_spelling.convert(layers, place))


def qkv_rows(shapes: Shapes, key: str, of: int) -> list[int]:
    """Rows of q, k and v in a joined weight; Lumina 2 has fewer key heads than query heads."""
    out = shapes.get(key.replace(".qkv.", ".out."))
    total = shapes[key][0]
    queries = out[1] if out else total // of
    rest = (total - queries) // 2
    return [queries, rest, rest]


def aliases(shapes: Shapes) -> dict[str, Target]:
    """Diffusers' names, q, k and v as rows of the joined weight."""
    return _spelling.targets(_DIFFUSERS, shapes, qkv_rows)


_QUANTIZED = (
    r"(?:layers|context_refiner|noise_refiner)\.\d+\."
    r"(?:attention\.(?:qkv|out)|feed_forward\.w[123])"
)
FAMILY = Family(
    name="z_image",
    title="Z-Image and Lumina 2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=spelling,
    to_core=to_core,
    aliases=aliases,
    keep=(
        Rule(
            r".*adaLN_modulation\.\d+", "modulation: 2 % of the weights, and it steers all tokens"
        ),
        Rule(r"(?:x|cap|t)_embedder.*", "embedder: small, and every block reads its output"),
        Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
        _keep.only(_QUANTIZED, "outside the blocks' attention and feed-forward linears"),
    ),
)
