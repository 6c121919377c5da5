"""A module as a LoRA file spells it in, the layer it means out. Knows no torch.

Names are looked up as they are and with "." written as "_"; known prefixes are taken off until
one is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..family import Family, Shapes, Target

DIFFUSION_PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "base_model.model.",
    "transformer.",
    "pipe.dit.",
    "unet.",
    "model.",
    "dit.",
    "lora_unet__",
    "lora_unet_",
    "lora_transformer_",
    "lora_prior_unet_",
    "lycoris_",
    "diffusion_model_",
    "transformer_",
)
TEXT_PREFIXES = (
    *(f"lora_te{n}_" for n in ("", "1", "2", "3")),
    *(f"text_encoder{n}." for n in ("", "_2", "_3")),
    *(f"text_encoders.{n}." for n in ("clip_l", "clip_g", "t5xxl", "umt5xxl", "qwen25_7b")),
    *(f"{n}." for n in ("clip_l", "clip_g", "t5xxl", "umt5xxl", "qwen25_7b", "transformer")),
    "lora_prior_te_",
    "base_model.model.",
    "model.",
    "lycoris_",
)
PREFIXES = {"diffusion": DIFFUSION_PREFIXES, "text": TEXT_PREFIXES, "vision": ("vision_model.",)}
TEXT_MARKS = ("lora_te", "lora_prior_te_", "text_encoder", "clip_l.", "clip_g.", "t5xxl.", "te1_")
PARAMETERS = (".weight", ".scale")  # older FLUX files call a norm's weight `scale`


@dataclass(frozen=True)
class Places:
    """The lookup for one model: names with dots and with underscores, prefixes to take off."""

    dotted: Mapping[str, Target]
    underscored: Mapping[str, Target]
    prefixes: tuple[str, ...]
    shapes: Shapes

    def find(self, module: str, parameter: str) -> Target | None:
        """The target of a module's `weight`, `bias` or `modulation`; None if there is none."""
        for name in self._stripped(module):
            target = self.dotted.get(name) or self.underscored.get(name)
            if target is not None and parameter != "weight":
                target = self._sibling(target, parameter)
            elif target is None and parameter not in ("weight", "bias"):
                full = f"{name}.{parameter}"
                target = self.dotted.get(full) or self.underscored.get(full.replace(".", "_"))
            if target is not None:
                return target
        return None

    def _sibling(self, target: Target, parameter: str) -> Target | None:
        stem = target.key.removesuffix(".weight")
        key = f"{stem}.{parameter}"
        if key == target.key or key not in self.shapes:
            return None
        return replace(target, key=key)

    def _stripped(self, module: str) -> list[str]:
        """The name and what is left of it as prefixes come off, nearest first."""
        names = [module]
        for name in names:
            for prefix in self.prefixes:
                rest = name.removeprefix(prefix)
                if rest and rest not in names:
                    names.append(rest)
        return names


def places(family: Family, shapes: Shapes) -> Places:
    """All names of a model's parameters: its own, and those that its family knows besides."""
    dotted: dict[str, Target] = {}
    for key in shapes:
        dotted[key] = Target(key)
        for end in PARAMETERS:
            if key.endswith(end):
                dotted.setdefault(key.removesuffix(end), Target(key))
    for name, target in family.aliases(shapes).items():
        dotted.setdefault(name, target)
    underscored: dict[str, Target] = {}
    for name, target in dotted.items():
        underscored.setdefault(name.replace(".", "_"), target)
    return Places(dotted, underscored, PREFIXES[family.kind], shapes)


def is_text(module: str) -> bool:
    """Whether a module belongs to a text encoder by its spelling."""
    return module.startswith(TEXT_MARKS)
