"""Tensor names of a LoRA file in, modules with the role of each tensor out. Knows no torch.

A name is MODULE + suffix. The suffix says which parameter of the module is meant and which part
the tensor plays there; MODULE stays exactly as the file spells it (`place.py` finds the layer).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import Refused

# what core calls these layers in files of XLabs and USO: (pattern in the name, replacement)
RESPELLED = (
    (re.compile(r"\.processor\.(qkv|proj)_lora1\.(down|up)\."), r".img_attn.\1.lora_\2."),
    (re.compile(r"\.processor\.(qkv|proj)_lora2\.(down|up)\."), r".txt_attn.\1.lora_\2."),
    (re.compile(r"\.processor\.qkv_lora\.(down|up)\."), r".linear1_qkv.lora_\1."),
    (re.compile(r"\.processor\.proj_lora\.(down|up)\."), r".linear2.lora_\1."),
)

# before `.weight`; lora_A and lora_down are one thing in two families of spelling
LOW_RANK = {
    ".lora_A": "down",
    ".lora_B": "up",
    ".lora_down": "down",
    ".lora_up": "up",
    ".lora_mid": "mid",
    "_lora.down": "down",
    "_lora.up": "up",
    ".lora.down": "down",
    ".lora.up": "up",
    ".lora_linear_layer.down": "down",
    ".lora_linear_layer.up": "up",
    ".a1": "a1",
    ".a2": "a2",
    ".b1": "b1",
    ".b2": "b2",
}
BARE = (".lora_A", ".lora_B")  # Mochi leaves out `.weight`
ADAPTER_NAMED = (".lora_A", ".lora_B")  # PEFT: `.lora_A.default.weight`

# suffix: (parameter of the module, role)
WHOLE = {
    ".alpha": ("weight", "alpha"),
    ".dora_scale": ("weight", "dora_scale"),
    ".lora_magnitude_vector": ("weight", "magnitude"),
    ".lora_magnitude_vector.weight": ("weight", "magnitude"),
    ".lora_magnitude_vector.default.weight": ("weight", "magnitude"),
    ".lora_B.bias": ("bias", "diff"),
    ".lora_up.bias": ("bias", "diff"),
    ".hada_w1_a": ("weight", "hada_w1_a"),
    ".hada_w1_b": ("weight", "hada_w1_b"),
    ".hada_w2_a": ("weight", "hada_w2_a"),
    ".hada_w2_b": ("weight", "hada_w2_b"),
    ".hada_t1": ("weight", "hada_t1"),
    ".hada_t2": ("weight", "hada_t2"),
    ".lokr_w1": ("weight", "lokr_w1"),
    ".lokr_w1_a": ("weight", "lokr_w1_a"),
    ".lokr_w1_b": ("weight", "lokr_w1_b"),
    ".lokr_w2": ("weight", "lokr_w2"),
    ".lokr_w2_a": ("weight", "lokr_w2_a"),
    ".lokr_w2_b": ("weight", "lokr_w2_b"),
    ".lokr_t2": ("weight", "lokr_t2"),
    ".oft_blocks": ("weight", "oft_blocks"),
    ".rescale": ("weight", "rescale"),
    ".diff": ("weight", "diff"),
    ".diff_b": ("bias", "diff"),
    ".diff_m": ("modulation", "diff"),
    ".w_norm": ("weight", "diff"),
    ".b_norm": ("bias", "diff"),
    ".set_weight": ("weight", "set"),
    ".reshape_weight": ("weight", "reshape"),
}
NORM_SCALE = "_norm.scale"  # control LoRAs of Black Forest Labs replace the norms by their own
SCALE_ENDS = (".weight_scale", ".scale_weight")  # beside a float8 tensor
MARKERS = (
    "scaled_fp8",
    ".comfy_quant",
    ".input_scale",
    ".scale_input",
)  # say nothing about numbers
SCALED = ":scale"  # role of the scale that belongs to a float8 tensor: `down:scale`

Key = tuple[str, str]  # (module as spelled, parameter)


@dataclass(frozen=True)
class Spelled:
    """`modules[(module, parameter)][role]` is a tensor name; `rest` play no part in a LoRA."""

    modules: dict[Key, dict[str, str]] = field(default_factory=dict)
    rest: tuple[str, ...] = ()


def spell(names: Iterable[str]) -> Spelled:
    """Tensor names -> modules and roles; refuses a file that gives one role of a module twice."""
    modules: dict[Key, dict[str, str]] = {}
    rest: list[str] = []
    norms: list[str] = []
    for name in names:
        if name.endswith(MARKERS):
            continue
        found = _parse(name)
        if found is not None:
            _add(modules, *found, name)
        else:
            (norms if name.endswith(NORM_SCALE) else rest).append(name)
    if any("up" in roles for roles in modules.values()):
        for name in norms:
            _add(modules, (name.removesuffix(".scale"), "weight"), "set", name)
        enlarged = modules.get(("img_in", "weight"), {})
        if norms and "up" in enlarged:  # such a file says it by these two signs only
            enlarged.setdefault("reshape", enlarged["up"])
    else:
        rest += norms
    return Spelled(modules, tuple(rest))


def _add(modules: dict[Key, dict[str, str]], key: Key, role: str, name: str) -> None:
    roles = modules.setdefault(key, {})
    if role in roles:
        raise Refused(
            "lora-role-twice",
            found=f"{roles[role]} and {name}",
            expected="one adapter for each module of a file",
            fix="save each adapter to its own file and give both files",
            layer=key[0],
        )
    roles[role] = name


def _parse(name: str) -> tuple[Key, str] | None:
    """(module, parameter), role of one tensor name, or None."""
    for pattern, spelled in RESPELLED:
        name = pattern.sub(spelled, name)
    for suffix, (parameter, role) in WHOLE.items():
        if name.endswith(suffix):
            return (name.removesuffix(suffix), parameter), role
    end = next((end for end in SCALE_ENDS if name.endswith(end)), None)
    if end is not None:
        found = _parse(name.removesuffix(end) + ".weight") or _parse(name.removesuffix(end))
        return None if found is None else (found[0], found[1] + SCALED)
    if not name.endswith(".weight"):
        return _low_rank(name, BARE)
    stem = name.removesuffix(".weight")
    return _low_rank(stem, LOW_RANK) or _low_rank(stem.rpartition(".")[0], ADAPTER_NAMED)


def _low_rank(stem: str, suffixes: Iterable[str]) -> tuple[Key, str] | None:
    for suffix in suffixes:
        if stem.endswith(suffix) and len(stem) > len(suffix):
            return (stem.removesuffix(suffix), "weight"), LOW_RANK[suffix]
    return None
