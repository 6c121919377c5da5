"""ComfyUI's own LoRA code against ours on tiny models: one line for each spelling and adapter kind.

A line is ok when both sides patch the same keys and no weight differs by more than BOUND.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from safetensors.torch import save_file

from fusequant.engine.fuse.lora import match, open_lora
from fusequant.engine.layer import Layer
from fusequant.engine.model import families

BOUND, RANK, CHUNK = 1e-6, 4, 7
STRENGTHS = (1.0, -0.6)
Tensors = dict[str, torch.Tensor]

# prefixes of core's names: one file is written for each
PREFIXES = ("diffusion_model.", "lora_unet_", "lora_transformer_", "lycoris_", "transformer.", "")

# how the two factors may be called
FACTORS = {
    "down/up": (".lora_down.weight", ".lora_up.weight"),
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "peft, named adapter": (".lora_A.default.weight", ".lora_B.default.weight"),
    "diffusers": ("_lora.down.weight", "_lora.up.weight"),
    "diffusers, dotted": (".lora.down.weight", ".lora.up.weight"),
    "transformers": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "mochi": (".lora_A", ".lora_B"),
}


@dataclass(frozen=True)
class Place:
    """A name in core's key map: the parameter, its whole shape, and the rows that are meant."""

    key: str
    shape: tuple[int, ...]
    function: object = None

    @property
    def columns(self) -> int:
        return torch.Size(self.shape[1:]).numel()


@dataclass(frozen=True)
class Tiny:
    """One tiny model on both sides."""

    patcher: object
    names: Mapping[str, Place]
    keys: Mapping[str, object]
    ours: object


def rand(name: str, *shape: int, size: float = 0.3) -> torch.Tensor:
    """Normal numbers that depend on the name only."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(*shape, generator=generator) * size


def models() -> ModuleType:
    """The tiny models of every family."""
    path = Path(__file__).with_name("fuse_models.py")
    spec = importlib.util.spec_from_file_location("fuse_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuse_models"] = module
    spec.loader.exec_module(module)
    return module


def tiny(entry: Any, **sizes: object) -> Tiny:
    """Build core's model without weights, its key map, and what our engine sees of it."""
    config = getattr(comfy.supported_models, entry.config)({**entry.sizes, **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="meta")
    patcher = comfy.model_patcher.ModelPatcher(model, "cpu", "cpu")
    keys = comfy.lora.model_lora_keys_unet(model, {})
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    names = {}
    for name, target in list(keys.items()):
        if re.fullmatch(entry.unmeant, name):
            del keys[name]
            continue
        key, offset, function = (*target, None, None)[:3] if isinstance(target, tuple) else (
            target, None, None
        )  # fmt: skip
        if key in shapes:
            rows = shapes[key][0] if offset is None else offset[2]
            names[name] = Place(key, (rows, *shapes[key][1:]), function)
    cut = len("diffusion_model.")
    layers = tuple(
        Layer(key[cut:], shape, "F32", ())
        for key, shape in shapes.items()
        if key.startswith("diffusion_model.")
    )
    ours = SimpleNamespace(family=families()[entry.family], layers=layers)
    return Tiny(patcher, names, keys, ours)


def of_core(model: Tiny, path: Path, strength: float) -> Tensors:
    """Core's patched weights by key."""
    converted = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(str(path)))
    patches = comfy.lora.load_lora(converted, model.keys, log_missing=False)
    patcher = model.patcher.clone()
    patcher.add_patches(patches, strength)
    shapes = patcher.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(found, rand(key, *shapes[key].shape, size=1.0), key)
        for key, found in patcher.patches.items()
    }


def of_ours(model: Tiny, path: Path, strength: float) -> tuple[Tensors, list[str]]:
    """Our fused weights by core's key, and what matched nothing."""
    file = open_lora(path, strength)
    fused = match([file], model.ours)
    found = {}
    for layer in model.ours.layers:
        if layer.key not in fused.changes:
            continue
        key = f"diffusion_model.{layer.key}"
        flat = rand(key, *layer.shape, size=1.0).reshape(layer.shape[0], -1)
        read = fused.reader(layer, lambda a, b, flat=flat: flat[a:b].clone())
        n = layer.shape[0]
        rows = [read(a, min(a + CHUNK, n)) for a in range(0, n, CHUNK)]
        found[key] = torch.cat(rows).reshape(layer.shape)
    return found, list(fused.report[0].unmatched)


def compare(case: str, model: Tiny, tensors: Tensors, strength: float) -> dict[str, object]:
    """Write the file, fuse it both ways, say how far apart they are (Frobenius, relative)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_file({name: t.contiguous() for name, t in tensors.items()}, str(path))
        core = of_core(model, path, strength)
        ours, unmatched = of_ours(model, path, strength)
    errors = {
        key: float((ours[key].double() - core[key].double()).norm() / core[key].double().norm())
        for key in core.keys() & ours.keys()
    }
    worst = max(errors.values(), default=None)
    return {
        "case": case, "strength": strength, "keys": len(core), "worst": worst,
        "only_core": sorted(core.keys() - ours.keys()),
        "only_ours": sorted(ours.keys() - core.keys()), "unmatched": unmatched,
        "ok": core.keys() == ours.keys() and worst is not None and worst <= BOUND,
    }  # fmt: skip


def low_rank(name: str, place: Place, ends: tuple[str, str], alpha: float | None) -> Tensors:
    """The two factors (and alpha) of one module."""
    found = {
        name + ends[0]: rand(name + "d", RANK, place.columns),
        name + ends[1]: rand(name + "u", place.shape[0], RANK),
    }
    return found | ({} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)})


def rounds(model: Tiny, prefix: str) -> list[dict[str, Place]]:
    """Core's names with a prefix, spread over files so that each target comes once in a file."""
    files: list[dict[str, Place]] = []
    seen: dict[object, int] = {}
    longer = [p for p in PREFIXES if len(p) > len(prefix) and p.startswith(prefix)]
    for name, place in model.names.items():
        if not name.startswith(prefix) or any(name.startswith(p) for p in longer):
            continue
        target = model.keys[name]
        at = seen[target] = seen.get(target, -1) + 1
        if at == len(files):
            files.append({})
        files[at][name] = place
    return files


def native(model: Tiny) -> dict[str, Place]:
    """The layers of two or more dimensions under `diffusion_model.`."""
    return {
        name: place
        for name, place in rounds(model, "diffusion_model.")[0].items()
        if len(place.shape) > 1
    }


def kinds(name: str, place: Place) -> dict[str, Tensors]:
    """Every adapter kind on one module, by kind; those that do not fit its shape are left out."""
    n, k, tail = place.shape[0], place.columns, place.shape[2:]
    channels, alpha = place.shape[1], {f"{name}.alpha": torch.tensor(2.5)}

    def make(**shapes: tuple[int, ...]) -> Tensors:
        return {
            f"{name}.{role.replace('__', '.')}": rand(name + role, *shape)
            for role, shape in shapes.items()
        }

    updown = make(lora_up__weight=(n, RANK), lora_down__weight=(RANK, k)) | alpha
    ones = (1,) * len(tail)
    hada = {f"hada_w{i}_{x}": (n, RANK) if x == "a" else (RANK, k) for i in "12" for x in "ab"}
    found = {
        "alpha 0": updown | {f"{name}.alpha": torch.tensor(0.0)},
        "dora by row": updown | make(dora_scale=(n, 1, *ones)),
        "loha": make(**hada) | alpha,
        "diff": make(diff=place.shape),
        "set": make(set_weight=place.shape),
        "glora": make(
            a1__weight=(channels, RANK), a2__weight=(RANK, channels),
            b1__weight=(n, RANK), b2__weight=(RANK, k),
        ) | alpha,
    }  # fmt: skip
    if n > 1:  # core takes a vector for one row and for channels as one thing when n is 1
        found["dora by channel"] = updown | make(dora_scale=(1, channels, *ones))
        found["loha dora"] = found["loha"] | make(dora_scale=(1, channels, *ones))
    if channels != n and not tail:
        older = {"a1__weight": (RANK, k), "a2__weight": (k, RANK)}
        found["glora older"] = make(**older, b1__weight=(RANK, k), b2__weight=(n, RANK)) | alpha
    if n % 4 == 0 and channels % 4 == 0 and len(tail) != 3:
        # in five dimensions core's Kronecker product is not the one such a file was trained with
        w1, w2 = (4, 4), (n // 4, channels // 4, *tail)
        found["lokr"] = make(lokr_w1=w1, lokr_w2=w2) | alpha
        found["lokr dora"] = found["lokr"] | make(dora_scale=(1, channels, *ones))
        split = make(lokr_w1_a=(4, 2), lokr_w1_b=(2, 4))
        if not tail:
            split |= make(lokr_w2_a=(n // 4, RANK), lokr_w2_b=(RANK, channels // 4))
            found["lokr in four"] = split | alpha
            found["lokr, second in two"] = alpha | make(
                lokr_w1=w1, lokr_w2_a=(n // 4, RANK), lokr_w2_b=(RANK, channels // 4)
            )
    if n % 32 == 0:
        found["oft"] = make(oft_blocks=(n // 8, 8, 8))
        found["oft limited"] = make(oft_blocks=(n // 8, 8, 8)) | alpha
        found["oft dora"] = found["oft limited"] | make(dora_scale=(1, channels, *ones))
        found["boft"] = make(oft_blocks=(3, n // 8, 8, 8)) | alpha
        found["boft rescale"] = found["boft"] | make(rescale=(n, 1, *ones))
    return found


def wan_fun(model: Tiny) -> Tensors:
    """Core takes one of the two underscores away when it sees such a file."""
    found: Tensors = {}
    for name, place in native(model).items():
        if not place.key.endswith(".weight"):
            continue  # core spells only weights with underscores
        spelled = "lora_unet__" + name.removeprefix("diffusion_model.").replace(".", "_")
        found |= low_rank(spelled, place, FACTORS["down/up"], 2.0)
    return found


def uso(model: Tiny) -> Tensors:
    """Names of attention processors, which core replaces by the layers they stand beside."""
    parts = {
        f"double_blocks.{i}.processor.{x}_lora{n}": f"double_blocks.{i}.{side}_attn.{x}"
        for i in (0, 18) for x in ("qkv", "proj") for n, side in ((1, "img"), (2, "txt"))
    } | {
        f"single_blocks.{i}.processor.{x}_lora": f"single_blocks.{i}.{to}"
        for i in (0, 37) for x, to in (("qkv", "linear1_qkv"), ("proj", "linear2"))
    }  # fmt: skip
    found: Tensors = {}
    for name, to in parts.items():
        place = model.names[f"diffusion_model.{to}"]
        found |= low_rank(name, place, (".down.weight", ".up.weight"), None)
    return found


def whole_modules(model: Tiny) -> Tensors:
    """diff, diff_b and norms, as files of extracted differences have them."""
    found: Tensors = {}
    shapes = {layer.key: layer.shape for layer in model.ours.layers}
    for name, place in rounds(model, "diffusion_model.")[0].items():
        key = place.key.removeprefix("diffusion_model.")
        if key.endswith(".bias") or not isinstance(model.keys[name], str):
            continue
        ends = ("w_norm", "b_norm") if len(place.shape) == 1 else ("diff", "diff_b")
        found[f"{name}.{ends[0] if key.endswith('.weight') else 'diff'}"] = rand(name, *place.shape)
        bias = shapes.get(key.removesuffix(".weight") + ".bias")
        if bias and key.endswith(".weight"):
            found[f"{name}.{ends[1]}"] = rand(name + "b", *bias)
    return found


def cases(family: str, model: Tiny) -> dict[str, Tensors]:
    """Every file to compare for one model."""
    found: dict[str, Tensors] = {}
    for prefix in PREFIXES:
        for number, names in enumerate(rounds(model, prefix)):
            case = f"{family}: names {prefix or '(bare)'}" + (f" {number + 1}" if number else "")
            found[case] = {}
            for name, place in names.items():
                found[case] |= low_rank(name, place, FACTORS["down/up"], 2.0)
    for spelled, ends in FACTORS.items():
        found[f"{family}: factors {spelled}"] = {}
        for name, place in native(model).items():
            found[f"{family}: factors {spelled}"] |= low_rank(name, place, ends, None)
    for name, place in native(model).items():
        for kind, tensors in kinds(name, place).items():
            found.setdefault(f"{family}: {kind}", {}).update(tensors)
    found[f"{family}: whole modules"] = whole_modules(model)
    if family == "wan":
        found["wan: names lora_unet__"] = wan_fun(model)
    return {case: tensors for case, tensors in found.items() if tensors}


def run(name: str) -> Iterator[dict[str, object]]:
    """A tiny model -> one line for each file and strength."""
    entry = models().MODELS[name]
    model = tiny(entry)
    for case, tensors in cases(name, model).items():
        for strength in STRENGTHS:
            yield compare(case, model, tensors, strength)
    if name == "flux":  # core knows these files by their last blocks
        model = tiny(entry, depth=19, depth_single_blocks=38)
        yield compare("flux: uso", model, uso(model), 0.7)
