"""Tensor names in, modules out: which tensors belong together, what each name's end means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..ggml import TYPE_MARK
from ..source import Source
from ..tensors import FLOATS, FP8, TensorSpec

SCALES = ("weight_scale", "scale_weight", "weight_scale_inv")
INPUT_SCALES = ("input_scale", "scale_input")
MARKERS = ("comfy_quant", "scaled_fp8")
# what lies beside packed codes: scales of groups, rows or everything, levels, smoothing
PACKED_SCALES = (
    "weight_scale_2", "weight_s_rel", "weight_s_channel", "weight_codebook", "pre_quant_scale",
)  # fmt: skip
COMPANIONS = frozenset((*SCALES, *INPUT_SCALES, *MARKERS, *PACKED_SCALES))
# what adapters are called in LoRA files, and no parameter of a model
ADAPTER_SIGNS = (
    ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "_lora.down.", "_lora.up.", ".lora.down.",
    ".lora.up.", ".lora_linear_layer.", ".hada_w1_", ".lokr_w1", ".lokr_w2", ".oft_blocks",
    ".dora_scale",
)  # fmt: skip
ADAPTER_ENDS = (".lora_A", ".lora_B", ".diff", ".diff_b", ".set_weight")

INDEX_SIGNS = ("index", "indices", "ids", "position")

# what other tools put beside an int8 weight
STATE = ("SCB", "weight_format", "CB", "SCBt")
QUANT_STATE = ".quant_state.bitsandbytes__"

Module = dict[str, TensorSpec]


def leaf(name: str) -> str:
    """The last component of a dotted name."""
    return name.rpartition(".")[2]


def leaves(source: Source) -> frozenset[str]:
    """The last components of all tensor names."""
    return frozenset(name.rpartition(".")[2] for name in source.tensors)


def modules(source: Source) -> dict[str, Module]:
    """{module name: {leaf: tensor}} in the file's order."""
    found: dict[str, Module] = {}
    for name, spec in source.tensors.items():
        module, _, last = name.rpartition(".")
        found.setdefault(module, {})[last] = spec
    return found


def is_gguf(source: Source) -> bool:
    """The tensors come from GGUF files: each has a ggml type."""
    known = source.metadata
    return bool(source.tensors) and all(TYPE_MARK + name in known for name in source.tensors)


def is_adapter(source: Source) -> bool:
    """The names are those of a LoRA file."""
    text = "\n".join(source.tensors) + "\n"  # one search over all names is the fast one
    ends = (f"{end}\n" for end in ADAPTER_ENDS)
    return any(sign in text for sign in (*ADAPTER_SIGNS, *ends))


def is_plain(spec: TensorSpec) -> bool:
    """Numbers that are what they are: floating point, an index buffer, an embedded tokenizer."""
    if spec.dtype in FLOATS or spec.dtype in ("I64", "BOOL"):
        return True
    if spec.dtype in ("I32", "I16"):
        return len(spec.shape) <= 1 or any(sign in leaf(spec.name) for sign in INDEX_SIGNS)
    return spec.dtype == "U8" and len(spec.shape) <= 1


def is_closed(source: Source) -> bool:
    """Nothing but plain tensors, 8-bit codes, and what the dialects read here put beside them."""
    marked = has_marker(source)
    known = not (is_adapter(source) or is_gguf(source)) and all(
        is_plain(spec)
        or (spec.dtype in FP8 and not leaf(name).startswith("_"))
        or (spec.dtype == "I8" and leaf(name) == "weight")
        or (spec.dtype == "U8" and leaf(name) == "weight" and marked)
        or leaf(name) in COMPANIONS
        for name, spec in source.tensors.items()
    )
    return known and not any(
        QUANT_STATE in name
        or (
            name.rpartition(".")[2] in STATE
            and f"{name.rpartition('.')[0]}.weight" in source.tensors
        )
        for name in source.tensors
    )


def has_codes(source: Source, *dtypes: str) -> bool:
    """Some tensor that is no scale and no marker holds codes of these dtypes."""
    return any(
        spec.dtype in dtypes and leaf(name) not in COMPANIONS
        for name, spec in source.tensors.items()
    )


def has_marker(source: Source) -> bool:
    """Some layer carries a per-layer marker, in the header or as a tensor."""
    return "_quantization_metadata" in source.metadata or any(
        name.endswith(".comfy_quant") or name == "comfy_quant" for name in source.tensors
    )


def legacy_markers(source: Source) -> tuple[str, ...]:
    """The names of `scaled_fp8` markers, under any prefix."""
    return tuple(name for name in source.tensors if leaf(name) == "scaled_fp8")


def float_dtype(specs: Iterable[TensorSpec]) -> str:
    """The commonest of BF16, F16 and F32 among tensors that are no scales; else BF16."""
    counts = Counter(
        spec.dtype
        for spec in specs
        if spec.dtype in ("BF16", "F16", "F32") and leaf(spec.name) not in COMPANIONS
    )
    return max(("BF16", "F16", "F32"), key=lambda dtype: counts[dtype])


def is_quantized(spec: TensorSpec) -> bool:
    """The tensor holds 8-bit codes."""
    return spec.dtype in FP8 or spec.dtype == "I8"


def is_unmarked(source: Source) -> bool:
    """8-bit codes with a `weight_scale` beside them and no marker of any kind."""
    found = leaves(source)
    return (
        is_closed(source)
        and has_codes(source, "I8", "F8_E4M3", "F8_E5M2")
        and not has_marker(source)
        and not legacy_markers(source)
        and "scale_weight" not in found
        and not found.isdisjoint(("weight_scale", "weight_scale_inv"))
    )


def is_legacy(source: Source) -> bool:
    """A `scaled_fp8` marker or `scale_weight` tensors, and no marker of the newer kind."""
    return (
        is_closed(source)
        and not has_marker(source)
        and (bool(legacy_markers(source)) or "scale_weight" in leaves(source))
    )


def covering_marker(source: Source, name: str) -> str | None:
    """The `scaled_fp8` marker whose prefix a module's name has."""
    found = (
        marker
        for marker in legacy_markers(source)
        if name.startswith(marker.removesuffix("scaled_fp8"))
    )
    return max(found, key=len, default=None)
