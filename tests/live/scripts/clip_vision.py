"""Quantized CLIP Vision Loader inside ComfyUI: dialects and schemes on towers of small width."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch

Facts = Iterator[dict[str, Any]]
Shapes = dict[str, tuple[int, ...]]
BLOCKS, LAYERS = "encoder.layers", 2


@dataclass(frozen=True)
class Tower:
    """ComfyUI knows a tower by a layer that it has, SigLIP by width and patches too."""

    width: int
    heads: int
    known_by: int
    side: int  # patches in a row
    inner: int = 512


TOWERS = {"vit_h": Tower(256, 4, 30, 4), "siglip": Tower(1152, 16, 22, 27)}


def _files() -> Any:
    path = Path(__file__).with_name("encoder_files.py")
    spec = importlib.util.spec_from_file_location("encoder_files", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["encoder_files"] = module
    spec.loader.exec_module(module)
    return module


def run(folder: str) -> Facts:
    """A folder for the files -> facts."""
    torch.set_num_threads(1)
    h, where = _files(), Path(folder)
    with torch.inference_mode():
        _shrink()
        for tower in TOWERS:
            yield from _tower(h, where, tower)
        yield from _wan(h, where)
        yield from _refused(h, where)


def _shrink() -> None:
    """Towers of this process are small: ComfyUI's constructor with other numbers."""
    import comfy.clip_vision

    whole = comfy.clip_vision.ClipVisionModel

    def narrow(path: str) -> Any:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        tower = TOWERS["vit_h" if "projection_dim" in config else "siglip"]
        small = {
            "hidden_size": tower.width, "intermediate_size": tower.inner,
            "num_attention_heads": tower.heads, "num_hidden_layers": LAYERS,
            "image_size": 14 * tower.side,
        }  # fmt: skip
        projected = {"projection_dim": 64} if "projection_dim" in config else {}
        return whole({**config, **small, **projected})

    comfy.clip_vision.ClipVisionModel = narrow


def shapes_of(name: str) -> Shapes:
    """The tensors of a tower under Hugging Face's names."""
    tower, top = TOWERS[name], "vision_model."
    width, inner = tower.width, tower.inner
    shapes: Shapes = {
        f"{top}embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{top}embeddings.position_embedding.weight": (tower.side**2 + (name == "vit_h"), width),
        f"{top}post_layernorm.weight": (width,), f"{top}post_layernorm.bias": (width,),
        f"{top}{BLOCKS}.{tower.known_by}.layer_norm1.weight": (width,),
    }  # fmt: skip
    if name == "vit_h":
        shapes |= {
            f"{top}embeddings.class_embedding": (width,), "visual_projection.weight": (64, width),
            f"{top}pre_layrnorm.weight": (width,), f"{top}pre_layrnorm.bias": (width,),
        }  # fmt: skip
    else:
        shapes[f"{top}embeddings.patch_embedding.bias"] = (width,)
    sides = {f"self_attn.{x}_proj": (width, width) for x in ("q", "k", "v", "out")}
    sides |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for layer in range(LAYERS):
        at = f"{top}{BLOCKS}.{layer}."
        for inside, (n, k) in sides.items():
            shapes |= {f"{at}{inside}.weight": (n, k), f"{at}{inside}.bias": (n,)}
        shapes |= {f"{at}layer_norm{i}.{x}": (width,) for i in (1, 2) for x in ("weight", "bias")}
    return shapes


def _load(path: Any, scheme: str | None = None) -> tuple[Any, Any]:
    from fusequant.host.clip_vision import load_clip_vision

    return load_clip_vision(path, scheme)


def _output(vision: Any, size: int = 56) -> torch.Tensor:
    image = torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(0))
    return vision.encode_image(image)["penultimate_hidden_states"].float()


def _line(h: Any, made: tuple[Any, Any], wanted: torch.Tensor, plain_bytes: int) -> dict[str, Any]:
    vision, report = made
    copy = vision.patcher.clone(force_deepcopy=True)
    return {
        "error": h.error(_output(vision), wanted), "text": report.text(),
        "layers": report.quantized, "quantized": len(h.quantized_layers(vision.model)),
        "bytes": h.held_bytes(vision.model) / plain_bytes,
        "copy": h.same(dict(copy.model.state_dict()), dict(vision.model.state_dict())),
    }  # fmt: skip


def _tower(h: Any, folder: Path, tower: str) -> Facts:
    """As stored in several dialects, quantized on load in every scheme."""
    import comfy.clip_vision

    from fusequant.engine.scheme_names import schemes

    plain = folder / f"{tower}.safetensors"
    tiny.write(plain, shapes_of(tower), 0, torch.bfloat16)
    stock = comfy.clip_vision.load(str(plain))
    wanted, plain_bytes = _output(stock), h.held_bytes(stock.model)
    ours, told = _load(plain)
    yield {"fact": "plain", "tower": tower, "same": torch.equal(_output(ours), wanted),
           "text": told.text()}  # fmt: skip
    for dialect in (
        "bare",
        "legacy",
        "core fp8",
        "core int4_g128",
        "core fp8_row",
        "lightx2v int8",
    ):
        path, means = h.rewritten(str(plain), folder, dialect, BLOCKS)
        made = _load(path)
        found = h.weights(made[0].model, list(means))
        yield {"fact": "dialect", "tower": tower, "dialect": dialect, "expected": len(means),
               "weights": max(h.error(found[x], means[x]) for x in means),
               **_line(h, made, wanted, plain_bytes)}  # fmt: skip
    for scheme in (*schemes(), "auto"):
        yield {"fact": "scheme", "tower": tower, "scheme": scheme,
               **_line(h, _load(plain, scheme), wanted, plain_bytes)}  # fmt: skip


def _wan(h: Any, folder: Path) -> Facts:
    """The `.pth` of Wan's release: joined q, k, v, a text half, `.pth`; int8 rows and plain."""
    import comfy.clip_vision
    from safetensors.torch import load_file

    hugging = folder / "vit_h.safetensors"
    stock = comfy.clip_vision.load(str(hugging))
    wanted, plain_bytes = _output(stock), h.held_bytes(stock.model)
    theirs = wan_names(load_file(hugging))
    layers = [k.removesuffix(".weight") for k, t in theirs.items()
              if k.endswith(".weight") and t.dim() == 2 and ".transformer." in k]  # fmt: skip
    for dialect in ("plain", "lightx2v int8", "lightx2v fp8"):
        tensors = theirs if dialect == "plain" else h.spelled(dialect, theirs, layers)[0]
        path = folder / f"models_clip_open-clip-{dialect.replace(' ', '-')}.pth"
        torch.save({**tensors, "textual.token_embedding.weight": torch.zeros(8, 8)}, path)
        for scheme in (None, "int8") if dialect == "plain" else (None, "none"):
            yield {"fact": "wan", "dialect": dialect, "scheme": scheme,
                   **_line(h, _load(path, scheme), wanted, plain_bytes)}  # fmt: skip


def wan_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face's tower as Wan's release spells it."""
    made = {
        "visual.cls_embedding": tensors["vision_model.embeddings.class_embedding"][None, None],
        "visual.pos_embedding": tensors["vision_model.embeddings.position_embedding.weight"][None],
        "visual.patch_embedding.weight": tensors["vision_model.embeddings.patch_embedding.weight"],
        "visual.head": tensors["visual_projection.weight"].t().contiguous(),
    }
    names = {"pre_layrnorm": "pre_norm", "post_layernorm": "post_norm"}
    made |= {f"visual.{new}.{x}": tensors[f"vision_model.{old}.{x}"]
             for old, new in names.items() for x in ("weight", "bias")}  # fmt: skip
    inside = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj",
              "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}  # fmt: skip
    for layer in range(LAYERS):
        at, to = f"vision_model.{BLOCKS}.{layer}.", f"visual.transformer.{layer}."
        for x in ("weight", "bias"):
            joined = [tensors[f"{at}self_attn.{part}_proj.{x}"] for part in "qkv"]
            made[f"{to}attn.to_qkv.{x}"] = torch.cat(joined)
            made |= {f"{to}{new}.{x}": tensors[f"{at}{old}.{x}"] for old, new in inside.items()}
    known = TOWERS["vit_h"].known_by
    made[f"visual.transformer.{known}.norm1.weight"] = tensors[
        f"vision_model.{BLOCKS}.{known}.layer_norm1.weight"
    ]
    return made


def _refused(h: Any, folder: Path) -> Facts:
    clip_l = tiny.clip_l(folder / "clip_l.safetensors", width=256, layers=2)
    odd = tiny.write(folder / "odd.safetensors", {"model.weight": (64, 64)}, 0, torch.bfloat16)
    cases = {
        "a text encoder": lambda: _load(clip_l), "an unknown file": lambda: _load(odd),
        "an unknown file, quantized": lambda: _load(odd, "int8"),
        "no such scheme": lambda: _load(folder / "vit_h.safetensors", "fp9"),
    }  # fmt: skip
    for name, call in cases.items():
        yield {"fact": "refused", "name": name, "kind": h.kind_of(call)}
