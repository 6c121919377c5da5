"""Every fault that a checkpoint can have, in one table: a kind and a finding in, a Problem out.

`refuses`: the numbers cannot be known, so `read` refuses the file; else it is told and read.
`stock_wrong`: stock ComfyUI opens the file and computes with other numbers, or stops.
"""

from __future__ import annotations

from dataclasses import dataclass

from .problem import Problem

REPAIR = "write a mended copy with `fusequant repair SRC --out DST`"
AGAIN = "take the file from its source again, or quantize the original with `fusequant convert`"


@dataclass(frozen=True)
class Kind:
    """What is expected where this fault was found, what to do about it, and how bad it is."""

    expected: str
    fix: str
    refuses: bool = False
    stock_wrong: bool = True


KINDS: dict[str, Kind] = {
    # numbers that cannot be known
    "int8-without-scale": Kind("a weight_scale beside int8 codes", AGAIN, refuses=True),
    "scale-not-finite": Kind("finite scales", AGAIN, refuses=True),
    "scale-per-column": Kind("one scale per output row, [N, 1]", AGAIN, refuses=True),
    "scale-shape": Kind("a scale that fits the weight", AGAIN, refuses=True),
    "scale-dtype": Kind("floating point scales", AGAIN, refuses=True),
    "scales-differ": Kind("one scale per weight", AGAIN, refuses=True),
    "marker-not-json": Kind("a UTF-8 JSON object with the layer's format", AGAIN, refuses=True),
    "block-size": Kind(
        "blocks of 128 for float8 codes, rows for int8 codes",
        "quantize the original with `fusequant convert`",
        refuses=True,
    ),
    "e5m2-row-scale": Kind(
        "one scale per tensor for e5m2 codes",
        "quantize the original with `fusequant convert`",
        refuses=True,
    ),
    "rotated-float8": Kind("int8 codes under a convrot marker", AGAIN, refuses=True),
    "group-size": Kind("groups that divide the inputs", AGAIN, refuses=True),
    "tensor-absent": Kind("all tensors of the layer's format", AGAIN, refuses=True),
    "branch-unknown": Kind(
        "a low-rank branch that reads the `raw` or the `post_smoothing` input", AGAIN, refuses=True
    ),
    "codes-shape": Kind("codes of the shape that the format packs", AGAIN, refuses=True),
    "asymmetric-codes": Kind("symmetric codes: no weight_correction", AGAIN, refuses=True),
    "convrot-groupsize": Kind("a power of 4 that divides K", AGAIN, refuses=True),
    "gguf-type": Kind(
        "GGUF types F32, F16, BF16, Q8_0, Q5_0, Q5_1, Q4_0, Q4_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS",
        "install the gguf package (`pip install gguf`), which reads the others, or get the model "
        "in one of these types",
        refuses=True,
    ),
    "codes-without-scale": Kind("all that the tool stores beside the codes", AGAIN, refuses=True),
    "state-unread": Kind("the JSON that the tool writes for each weight", AGAIN, refuses=True),
    "rows-unknown": Kind(
        "a bias: the file says how many codes a weight has, not how many rows",
        "quantize the original with `fusequant convert`",
        refuses=True,
    ),
    "zero-points-unknown": Kind(
        "the checkpoint_format: version 1 stores each zero point less one, version 2 as it is",
        "put the model's quantize_config.json (or config.json) beside the file",
        refuses=True,
    ),
    # numbers that are known although the file says something else
    "float8-marker-on-int8": Kind("the format int8_tensorwise for int8 codes", REPAIR),
    "int8-marker-on-float8": Kind("a float8 format for float8 codes", REPAIR),
    "fp8-marker-on-int8-file": Kind("comfy_quant int8_tensorwise instead of scaled_fp8", REPAIR),
    "e5m2-under-e4m3": Kind("the format float8_e5m2 for e5m2 codes", REPAIR),
    "e4m3-under-e5m2": Kind("the format float8_e4m3fn for e4m3 codes", REPAIR),
    "hybrid-mxfp8": Kind("the id mxfp8: stock ComfyUI does not know hybrid_mxfp8", REPAIR),
    "marker-on-float": Kind("no marker on a floating point weight", REPAIR),
    "marker-without-layer": Kind("a weight for every marker", REPAIR, stock_wrong=False),
    "marker-without-scales": Kind("a scale_weight for each float8 weight", REPAIR),
    "marker-without-format": Kind("a `format` in the layer's JSON", REPAIR),
    "scale-without-marker": Kind("a comfy_quant marker: stock ComfyUI ignores the scale", REPAIR),
    "scale-of-other-format": Kind("the scale shape that this format id has", REPAIR),
    "scale-transposed": Kind("row scales of shape [N, 1]", REPAIR),
    "scale-one-dimension": Kind("row scales of shape [N, 1]", REPAIR),
    "scale-twice": Kind("one of weight_scale and scale_weight", REPAIR, stock_wrong=False),
    "scale-e8m0": Kind("float32 scales: stock ComfyUI cannot read this dtype", REPAIR),
    "scale-not-float32": Kind("float32 scales", REPAIR, stock_wrong=False),
    "scale-zero": Kind("positive scales", AGAIN, stock_wrong=False),
    "scale-negative": Kind("positive scales", AGAIN, stock_wrong=False),
    "fp8-without-scale": Kind("a scale beside each float8 weight", REPAIR, stock_wrong=False),
    "orphan-scale": Kind("a quantized weight for every scale", REPAIR, stock_wrong=False),
    "small-layer-quantized": Kind(
        "weights of 16 KiB or less unquantized: stock ComfyUI may round them a second time",
        "quantize the original with `fusequant convert`, which leaves such layers as they are",
        stock_wrong=False,
    ),
    "activation-scales-unread": Kind(
        "weights alone: scales calibrated for activations are left out, they are not quantized",
        "nothing has to be done; an int8 or fp8 scheme quantizes activations as they come",
        stock_wrong=False,
    ),
    "maybe-rotated": Kind(
        "a convrot flag in the file if the weights are rotated",
        "nothing in the file says it: if it was saved with QuaRot on, open it with the option "
        "`rotated` (--rotated on the command line), or quantize the original again",
    ),
    "not-finite": Kind("finite numbers", AGAIN, stock_wrong=False),
    # storage that stock ComfyUI 0.33 does not know
    "no-core-format": Kind(
        "a format of stock ComfyUI 0.33", "open it with FuseQuant's loaders, or convert it to int8"
    ),
    "needs-newer-core": Kind(
        "ComfyUI 0.38 or newer for this format", "open it with FuseQuant's loaders"
    ),
    "vision-quantized": Kind(
        "an unquantized file for the stock CLIP vision loader",
        "open it with FuseQuant's Quantized CLIP Vision Loader",
    ),
    "clip-quantized": Kind(
        "an unquantized file for the stock CLIP loaders: they look for codes in T5 and Qwen only",
        "open it with FuseQuant's Quantized T5/CLIP Loader",
    ),
    "other-tool": Kind("quantized layers as ComfyUI stores them", REPAIR),
    "several-files": Kind("one file for a stock loader", REPAIR),
    "family-unknown": Kind("a model family that FuseQuant knows", "open it with a stock loader"),
    "names-not-core": Kind("ComfyUI's layer names", REPAIR),
}  # fmt: skip


def tell(kind: str, found: str, layer: str | None = None) -> Problem:
    """The Problem of a kind of the table, for `layer` (None: the whole file)."""
    row = KINDS[kind]
    return Problem(kind, found, row.expected, row.fix, layer)
