"""Rules that several families share: names of a model's parts in, the reason they stay out."""

from __future__ import annotations

from ..family import Rule

# schemes whose activations have four bits too
FOUR_BIT_ACTIVATIONS = ("nvfp4", "w4a4_convrot")
# schemes whose codes lie in fewer columns than the weight has inputs
FEWER_COLUMNS = ("int4_g128", "nvfp4", "w4a4_convrot", "w4a8")


def only(pattern: str, why: str) -> Rule:
    """Everything that does not match `pattern` stays."""
    return Rule(rf"(?!(?:{pattern})$).*", why)


def modulation(pattern: str) -> Rule:
    """Modulation linears are quantized, except where their one row of input would get four bits.

    They hold a quarter of FLUX and a third of Qwen-Image, so 8-bit files need them quantized.
    """
    return Rule(
        pattern,
        "modulation: one row steers every token, too much for 4-bit activations",
        FOUR_BIT_ACTIVATIONS,
    )


def width(pattern: str) -> Rule:
    """A layer whose columns ComfyUI counts to know the model, which packed codes would belie."""
    return Rule(pattern, "ComfyUI counts the columns of this one", FEWER_COLUMNS)
