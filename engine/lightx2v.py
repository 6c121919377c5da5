"""A model in, the tensors of a file that LightX2V itself opens out: names, layers and shapes.

LightX2V multiplies exactly the linears of its table with quantized weights, and reads each as
`P.weight` with `P.weight_scale` [N, 1] beside it, without any marker. All else is 16-bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import Refused
from .family import Target
from .fuse.lora import Fused
from .layer import Layer
from .model import Model
from .outputs import Output
from .plan import Choice
from .stored import held_by
from .tensors import FLOATS, FP8, TensorSpec

FORMAT = "lightx2v"
# scheme: dtype of its codes; `auto` is the first, which every card multiplies
CODES = {"int8": "I8", "fp8_row": "F8_E4M3"}
# codes of these schemes are those of a scheme above, with one scale for all rows or for each
SAME_CODES = {("fp8", "fp8_row"), ("int8_weight_only", "int8")}
OTHERS = "BF16"  # dtype of all that is not quantized, unless another one is asked for
BLOCK = re.compile(r"blocks\.(\d+)\.")
NON_BLOCK, INDEX = "non_block.safetensors", "diffusion_pytorch_model.safetensors.index.json"


@dataclass(frozen=True)
class Kind:
    """A kind of model as LightX2V's converter knows it.

    Matrices whose name has one of `modules` as component `place` are quantized. `spelling` is the
    naming of a checkpoint that LightX2V reads; `aliases`: the family's aliases are these names, so
    that they can be given to core's. Layers whose name has `dropped` in it are not in its files.
    """

    title: str
    place: int
    modules: tuple[str, ...]
    spelling: str = "core"
    aliases: bool = False
    dropped: tuple[str, ...] = ()


_HUNYUAN = tuple(
    f"{stream}_{part}"
    for stream in ("img", "txt")
    for part in ("mod", "attn_q", "attn_k", "attn_v", "attn_proj", "mlp")
)
KINDS: Mapping[str, Kind] = {
    "wan": Kind("wan_dit", 2, ("self_attn", "cross_attn", "ffn")),
    "qwen_image": Kind("qwen_image_dit", 2, ("attn", "img_mlp", "txt_mlp", "txt_mod", "img_mod")),
    "z_image": Kind(
        "z_image_dit", 2, ("attention", "feed_forward", "adaLN_modulation", "linear"),
        "diffusers", aliases=True,
    ),
    "hunyuan_video": Kind("hunyuan_dit", 2, _HUNYUAN, "split"),
    "t5": Kind("wan_t5", 2, ("attn", "ffn"), "wan", aliases=True, dropped=("spiece_model",)),
    "clip_vision": Kind("wan_clip", 3, ("attn", "mlp"), "wan", dropped=("textual",)),
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A layer under LightX2V's name; rows of it from `first` on are those of `whole`, core's."""

    layer: Layer
    whole: Layer | None
    first: int = 0


def check(model: Model, scheme: str, keep: Sequence[str]) -> Kind:
    """The kind of the model, or the refusal of what LightX2V does not open."""
    kind = KINDS.get(model.family.name)
    if kind is None:
        raise Refused(
            "lightx2v-family",
            found=f"{model.family.title}",
            expected=f"one of {', '.join(KINDS)}",
            fix="write it in ComfyUI's format: leave --format out",
        )
    if scheme not in CODES:
        raise Refused(
            "lightx2v-scheme",
            found=scheme,
            expected=" or ".join(CODES),
            fix="ask for one of these: LightX2V's files hold one scale for each row",
        )
    if keep:
        raise Refused(
            "lightx2v-keep",
            found=f"layers to keep: {', '.join(keep)}",
            expected="none: LightX2V takes each of its block linears for a quantized one",
            fix="leave --keep out, or write the file in ComfyUI's format",
        )
    if model.spelling != kind.spelling and not (kind.aliases and model.spelling == "core"):
        raise Refused(
            "lightx2v-names",
            found=f"{model.family.title} under {model.spelling} names",
            expected=f"a file under the {kind.spelling} names, which LightX2V reads",
            fix="start from the file of the original release",
        )
    return kind


def outputs_of(
    model: Model, scheme: str, dtype: str | None, keep: Sequence[str], fused: Fused
) -> tuple[Output, ...]:
    """Every tensor of the new file; `dtype` is for what stays unquantized."""
    kind = check(model, scheme, keep)
    outputs = tuple(
        _output(kind, named, scheme, dtype or OTHERS, fused) for named in named_layers(kind, model)
    )
    lost = set(fused.changes) - {output.changed.key for output in outputs}
    if lost:
        raise Refused(
            "lightx2v-lora",
            found=f"LoRAs on {', '.join(sorted(lost)[:3])}",
            expected="layers that the file holds under LightX2V's names as a whole",
            fix="fuse the LoRA into a file of ComfyUI's format first, or leave it out",
        )
    return outputs


def is_quantized(kind: Kind, layer: Layer) -> bool:
    """A matrix in one of the places that LightX2V quantizes."""
    parts = layer.key.split(".")
    return layer.is_matrix and len(parts) > kind.place and parts[kind.place] in kind.modules


def named_layers(kind: Kind, model: Model) -> tuple[Named, ...]:
    """The model's layers as LightX2V names them."""
    if model.spelling != kind.spelling:
        found = _by_aliases(model)
    elif kind.spelling == "core":
        found = [Named(layer, layer) for layer in model.layers]
    else:
        found = list(_as_spelled(model))
    return tuple(x for x in found if not any(word in x.layer.key for word in kind.dropped))


def _as_spelled(model: Model) -> Iterator[Named]:
    """The file's own layers, each with core's layer that its rows went into."""
    stored = {x.parts[0].tensors["weight"]: (*x.shape, 1)[0] for x in model.original}
    places: dict[str, tuple[Layer, int]] = {}
    for whole in model.layers:
        at = 0
        for part in whole.parts:
            rows = stored[part.tensors["weight"]]
            first, last = part.rows or (0, rows)
            if (first, last) == (0, rows):
                places[part.tensors["weight"]] = (whole, at)
            at += last - first
    cut = len(model.prefix)
    for layer in model.original:
        stripped = replace(layer, key=layer.key[cut:])
        place = places.get(layer.parts[0].tensors["weight"])
        same = place is not None and place[0].shape[1:] == layer.shape[1:]
        yield Named(stripped, *place) if place and same else Named(stripped, None)


def _by_aliases(model: Model) -> list[Named]:
    """Core's layers under the family's other names, joined ones cut into their rows."""
    spelled: dict[str, list[tuple[str, Target]]] = {}
    for name, target in model.family.aliases(model.shapes).items():
        spelled.setdefault(_module(target.key), []).append((name, target))
    found = []
    for whole in model.layers:
        module = _module(whole.key)
        leaf = whole.key[len(module) :]
        if module not in spelled:
            found.append(Named(whole, whole))
        for name, target in spelled.get(module, ()):
            low, high = target.rows or (0, whole.shape[0])
            part = whole.parts[0]
            if target.rows is not None:
                start = part.rows[0] if part.rows else 0
                part = replace(part, rows=(start + low, start + high))
            shape = (high - low, *whole.shape[1:])
            layer = Layer(name + leaf, shape, whole.dtype, (part,))
            found.append(Named(layer, whole, low))
    return found


def _module(key: str) -> str:
    leaf = next((leaf for leaf in (".weight", ".bias", ".scale") if key.endswith(leaf)), "")
    return key.removesuffix(leaf)


def _output(kind: Kind, named: Named, scheme: str, dtype: str, fused: Fused) -> Output:
    layer, whole = named.layer, named.whole
    touched = whole is not None and whole.key in fused.changes
    if not is_quantized(kind, layer):
        floating = layer.scheme != "none" or layer.dtype in (*FLOATS, *FP8)
        choice = Choice(layer, "none", dtype if floating else layer.dtype, "no block linear")
        spec = TensorSpec(layer.key, choice.dtype, layer.shape)
        return Output(choice, {"weight": spec}, {}, False, whole, named.first)
    n, k = layer.shape
    tensors = {
        "weight": TensorSpec(layer.key, CODES[scheme], (n, k)),
        "scale": TensorSpec(f"{layer.key}_scale", "F32", (n, 1)),
    }
    stored = held_by(layer)
    as_stored = not touched and (stored == scheme or (stored, scheme) in SAME_CODES)
    choice = Choice(layer, scheme, layer.dtype, f"{kind.title}: block linear")
    return Output(choice, tensors, {}, as_stored, whole, named.first)


def blocks(specs: Iterable[TensorSpec]) -> dict[str, list[TensorSpec]]:
    """{file: tensors}: each block in a file of its own, the rest together."""
    files: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        found = BLOCK.search(spec.name)
        file = f"block_{int(found[1])}.safetensors" if found else NON_BLOCK
        files.setdefault(file, []).append(spec)
    return files
