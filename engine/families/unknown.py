"""Any other model: matrices of repeated blocks are quantized, the rest stays. FAMILY out."""

from __future__ import annotations

from ..family import Family, Rule, Shapes

_WORDS = (
    "embed", "embedder", "embedding", "embedders", "embeddings", "emb", "norm", "norms", "norm1",
    "norm2", "norm3", "head", "lm_head", "modulation", "mod", "adaln", "ada", "final", "router",
    "patch", "pos", "time", "timestep", "guidance", "logit", "bias",
)  # fmt: skip
_WORD = "|".join(_WORDS)


def spelling(shapes: Shapes) -> str | None:
    """Never by itself: this family is what remains when no other one is found."""
    return None


FAMILY = Family(
    name="unknown",
    title="a model that is not known by name",
    kind="diffusion",
    loads_in="",
    spelling=spelling,
    smallest_side=256,
    keep=(
        Rule(
            rf"(?i:(?:.*[._])?(?:{_WORD})(?:[._].*)?)",
            "unknown model: the name says embedder, norm, head or modulation",
        ),
        Rule(r"(?!(?:.*\.)?\d+(?:\.|$)).*", "unknown model: not part of a repeated block"),
    ),
)
