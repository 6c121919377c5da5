"""The name of a public model file -> a small random model under that name, for the test server.

Names and shapes are the recorded headers' with other sizes; autoencoders' are asked from ComfyUI.
The server that runs them has the pack `small_sizes`, because ComfyUI fixes some of the sizes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside
from .small_sizes.sizes import ENCODERS, FEED, HEAD, TEXT, TOWERS, VISION, WIDTH
from .stand_in_dialects import control_lora, quantized

Shapes = tiny.Shapes


def _narrow(
    spec: str, wide: int, text: int, factors: str = "1 2 3 4 5 6 7 9", **more: int
) -> Shapes:
    """A recorded header with its width, that width's multiples and the text's width replaced."""
    sizes = {wide * n: WIDTH * n for n in (1, 2, 3, 4, 5, 6, 7, 9)} | {text: TEXT}
    sizes |= {int(old[1:]): new for old, new in more.items()}
    blocks = dict.fromkeys(("double_blocks", "single_blocks", "blocks", "transformer_blocks",
                            "vace_blocks"), 2)  # fmt: skip
    return tiny.shapes_of(spec, sizes, {**blocks, "layers": 2})


def _qwen(edit: bool = False) -> Shapes:
    shapes = _narrow("qwen-image-edit-2511", 3072, 3584)
    if not edit:
        del shapes["__index_timestep_zero__"]  # ComfyUI knows the 2511 by it
    return shapes


def _flux(spec: str = "flux1-dev") -> Shapes:
    return _narrow(spec, 3072, 4096, _768=TEXT)  # 768: the pooled output of CLIP-L


def _flux_seeing(channels: int) -> Shapes:
    """FLUX.1 that reads more channels: 128 of a control picture, 384 of one with a mask."""
    return _flux() | {"img_in.weight": (WIDTH, channels)}


def _klein(spec: str, wide: int, text: int) -> Shapes:
    return _narrow(spec, wide, 0) | {"txt_in.weight": (WIDTH, text)}


def _wan(spec: str, wide: int = 5120, feed: int = 13824) -> Shapes:
    return _narrow(spec, wide, 4096, **{f"_{feed}": FEED})


# kind: its tensors
TRANSFORMERS: dict[str, Callable[[], Shapes]] = {
    "qwen": _qwen,
    "qwen-edit": lambda: _qwen(edit=True),
    "flux": _flux,
    "flux-schnell": lambda: _flux("flux1-schnell"),
    "flux-control": lambda: _flux_seeing(128),
    "flux-fill": lambda: _flux_seeing(384),
    "klein": lambda: _klein("flux2-klein-4b", 3072, 3 * TEXT),
    "klein-9b": lambda: _klein("flux2-klein-9b", 4096, 3 * TEXT),
    "z-image": lambda: _narrow("z-image-turbo", 3840, 2560, _10240=FEED, _1024=WIDTH),
    "wan-t2v": lambda: _wan("wan2.2-t2v-14b"),
    "wan-i2v": lambda: _wan("wan2.2-i2v-14b"),
    "wan21-i2v": lambda: _wan("wan2.1-i2v-14b-480p"),
    "wan-ti2v": lambda: _wan("wan2.2-ti2v-5b", 3072, 14336),
    "wan-small": lambda: _wan("wan2.1-t2v-1.3b", 1536, 8960),
}


def _decoder(spec: str, option: str) -> Shapes:
    """A language model: sizes by what a tensor is, for widths and heads coincide in the header."""
    sizes = ENCODERS[option]
    layers, keys = sizes["num_hidden_layers"], sizes.get("num_key_value_heads", 4) * HEAD
    queries, feed = sizes["num_attention_heads"] * HEAD, sizes["intermediate_size"]
    by_name = {
        "q_proj.weight": (queries, TEXT), "q_proj.bias": (queries,),
        "k_proj.weight": (keys, TEXT), "k_proj.bias": (keys,),
        "v_proj.weight": (keys, TEXT), "v_proj.bias": (keys,),
        "o_proj.weight": (TEXT, queries), "gate_proj.weight": (feed, TEXT),
        "up_proj.weight": (feed, TEXT), "down_proj.weight": (TEXT, feed),
        "layernorm.weight": (TEXT,), "model.norm.weight": (TEXT,),
    }  # fmt: skip
    recorded = tiny.shapes_of(spec, {}, {"model.layers": layers, "visual.blocks": 0})
    shapes = {}
    for name, shape in recorded.items():
        if name.startswith("model.") and "lm_head" not in name:
            new = next((new for end, new in by_name.items() if name.endswith(end)), None)
            shapes[name] = new or (shape[0], *((TEXT,) if len(shape) == 2 else ()))
    return shapes


def _vision() -> Shapes:
    """The tower through which Qwen2.5-VL sees a picture."""
    wide = VISION["hidden_size"]
    sizes = {1280: wide, 3840: 3 * wide, 5120: 4 * wide, 3420: VISION["intermediate_size"]}
    blocks = {"visual.blocks": VISION["num_layers"], "model.layers": 0}
    shapes = tiny.shapes_of("qwen2.5-vl-7b", {**sizes, 3584: TEXT}, blocks)
    return {name: shape for name, shape in shapes.items() if name.startswith("visual.")}


def _write_decoder(spec: str, option: str, sees: bool = False) -> Callable[[Path], object]:
    def write(path: Path) -> object:
        shapes = _decoder(spec, option) | (_vision() if sees else {})
        return tiny.write(path, shapes, 0, torch.bfloat16)

    return write


def _tower(kind: str) -> Shapes:
    """CLIP-H or SigLIP as a vision encoder; the norm far up is what ComfyUI knows it by."""
    sizes, siglip = TOWERS[kind], kind.startswith("siglip")
    layers, feed = sizes["num_hidden_layers"], sizes["intermediate_size"]
    wide = {1280: 1152, 257: 729} if siglip else {}
    shapes = tiny.shapes_of("clip-vision-h", {5120: feed, **wide},
                            {"vision_model.encoder.layers": layers})  # fmt: skip
    norm = f"vision_model.encoder.layers.{22 if siglip else 30}.layer_norm1.weight"
    shapes[norm] = (wide.get(1280, 1280),)
    if siglip:
        for absent in ("embeddings.class_embedding", "pre_layrnorm.weight", "pre_layrnorm.bias"):
            del shapes[f"vision_model.{absent}"]
        del shapes["visual_projection.weight"]
        shapes["vision_model.embeddings.patch_embedding.bias"] = (1152,)
    return shapes


@dataclass(frozen=True)
class StandIns:
    """`make(folder, name)`: the file that a workflow names, in the server's models folder.

    Files of one kind are written once, in `kept`, and linked under each of their names.
    """

    comfy: Comfy
    models: Path
    kept: Path
    used: set[str] = field(default_factory=set)

    def make(self, folder: str, name: str) -> Path:
        """`diffusion_models` and such, a public file name -> the file; KeyError for one unknown."""
        kind = next((kind for pattern, kind in NAMES[folder] if re.search(pattern, name)), None)
        if kind is None:
            raise KeyError(f"no stand-in is known for {folder}/{name}")
        target = self.models / folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.kind(folder, kind, target.suffix), target)
            if target.suffix == ".pth" and folder == "text_encoders":
                self.tokenizer()
        self.used.add(kind)
        return target

    def kind(self, folder: str, kind: str, end: str = ".safetensors") -> Path:
        """The one file of a kind; `plain kind: dialect` is one of another quantized."""
        path = self.kept / f"{folder}-{kind.replace(':', '')}{end}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            plain, _, dialect = kind.partition(": ")
            if dialect:
                quantized(self.kind(folder, plain), path, dialect)
            else:
                getattr(self, f"_{folder}")(path, kind)
        return path

    def tokenizer(self) -> None:
        """The tokenizer beside text encoders that carry none, as Wan's release has it."""
        path = self.models / "text_encoders" / "spiece.model"
        if not path.exists():
            path.write_bytes(self._words())

    def _words(self) -> bytes:
        places = self.comfy.path / "comfy" / "text_encoders" / "t5_pile_tokenizer"
        return (places / "tokenizer.model").read_bytes()

    # --- by folder ---

    def _diffusion_models(self, path: Path, kind: str) -> None:
        tiny.write(path, TRANSFORMERS[kind](), 0, torch.bfloat16)

    def _loras(self, path: Path, kind: str) -> None:
        family, spelling = kind.split(" ")
        model = self.kind("diffusion_models", family)
        if spelling == "control":
            control_lora(model, path)
        else:
            tiny.lora(path, model, spelling, rank=4)

    def _text_encoders(self, path: Path, kind: str) -> None:
        ENCODER_FILES[kind](path)
        if kind == "umt5":
            self._umt5(path)
        elif kind == "qwen3-vl":
            self._asked(path, kind)

    def _clip_vision(self, path: Path, kind: str) -> None:
        tiny.write(path, _tower(kind), 0, torch.bfloat16)

    def _style_models(self, path: Path, kind: str) -> None:
        shapes = {"redux_up.weight": (3 * TEXT, 1152), "redux_up.bias": (3 * TEXT,),
                  "redux_down.weight": (TEXT, 3 * TEXT), "redux_down.bias": (TEXT,)}  # fmt: skip
        tiny.write(path, shapes, 0, torch.bfloat16)

    def _umt5(self, path: Path) -> None:
        tiny.t5(path, TEXT, heads=2, feed_forward=256, layers=1, spiece=self._words())

    def _vae(self, path: Path, kind: str) -> None:
        if kind == "image":
            tiny.vae(path)
        else:
            self._asked(path, kind)

    def _asked(self, path: Path, kind: str) -> None:
        found = self.asked[kind]
        shapes = {name: tuple(shape) for name, shape in found["shapes"].items()}
        plain = {name: torch.ones(shape) for name, shape in shapes.items() if "running_var" in name}
        tiny.write(path, shapes, 0, torch.bfloat16, plain, found["header"])

    @cached_property
    def asked(self) -> dict[str, dict[str, Any]]:
        """Shapes by kind, from ComfyUI's own classes."""
        return {line["name"]: line for line in run_inside(self.comfy, "core_shapes")}


ENCODER_FILES: dict[str, Callable[[Path], object]] = {
    "clip-l": lambda path: tiny.clip_l(path, width=TEXT, layers=2),
    "t5": lambda path: tiny.t5(path, TEXT, heads=2, feed_forward=256, layers=1),
    "umt5": lambda path: None,
    "qwen-vl": _write_decoder("qwen2.5-vl-7b", "qwen25_7b_model_config", sees=True),
    "qwen3-4b": _write_decoder("qwen3-4b", "qwen3_4b_model_config"),
    "qwen3-vl": lambda path: None,
    "qwen3-8b": _write_decoder("qwen3-8b", "qwen3_8b_model_config"),
}

# folder: (pattern on the file's name, kind); the first that fits counts
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "diffusion_models": (
        (r"edit_2511_int8_convrot", "qwen-edit: core int8_convrot"),
        (r"edit_2511_fp8", "qwen-edit: core fp8"),
        (r"edit_2511", "qwen-edit"),
        (r"qwen_image", "qwen"),
        (r"flux-2-klein.*9b", "klein-9b"),
        (r"flux-2-klein", "klein"),
        (r"kontext_fp8_scaled", "flux: legacy"),
        (r"flux1-schnell", "flux-schnell"),
        (r"flux1-fill", "flux-fill"),
        (r"flux1-(canny|depth)", "flux-control"),
        (r"flux1", "flux"),
        (r"z_image", "z-image"),
        (r"wan2.1_i2v.*int8", "wan21-i2v: lightx2v int8"),
        (r"wan2.1_i2v.*fp8", "wan21-i2v: lightx2v fp8"),
        (r"wan2.1.*i2v", "wan21-i2v"),
        (r"wan.*ti2v", "wan-ti2v"),
        (r"wan.*i2v", "wan-i2v"),
        (r"wan.*1\.3[bB]", "wan-small"),
        (r"wan", "wan-t2v"),
    ),
    "loras": (
        (r"(?i)qwen", "qwen native"),
        (r"(?i)wan.*i2v", "wan-i2v native"),
        (r"(?i)wan", "wan-t2v native"),
        (r"(?i)flux1-depth", "flux control"),
        (r"(?i)flux", "flux diffusers"),
        (r"(?i)z.image", "z-image native"),
    ),
    "text_encoders": (
        (r"t5xxl_fp8.*scaled", "t5: legacy"),
        (r"umt5.*int8\.pth", "umt5: lightx2v int8"),
        (r"umt5.*fp8\.pth", "umt5: lightx2v fp8"),
        (r"umt5", "umt5"),
        (r"t5xxl", "t5"),
        (r"clip_l", "clip-l"),
        (r"qwen_2\.5_vl_7b_fp8", "qwen-vl: legacy"),
        (r"qwen_2\.5_vl", "qwen-vl"),
        (r"qwen3vl", "qwen3-vl"),
        (r"qwen_?3_?4b", "qwen3-4b"),
        (r"qwen_?3_?8b", "qwen3-8b"),
    ),
    "clip_vision": (
        (r"-int8\.pth", "clip_vision_model: lightx2v int8"),
        (r"-fp8\.pth", "clip_vision_model: lightx2v fp8"),
        (r"sigclip", "siglip_vision_model"),
        (r"clip", "clip_vision_model"),
    ),
    "style_models": ((r"redux", "redux"),),
    "vae": (
        (r"^ae", "image"),
        (r"flux2", "flux2"),
        (r"wan2\.2", "wan22"),
        (r"wan|qwen_image", "wan"),
        (r"hunyuanvideo15", "hunyuan15"),
    ),
}
