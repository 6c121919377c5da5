"""A loaded model in, which of its layers get which scheme out: the engine's choice, host names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..engine.auto import auto_scheme
from ..engine.choose import choose
from ..engine.format import Contents
from ..engine.layer import Layer, Part
from ..engine.model import Model, recognise
from ..engine.plan import Choice
from ..engine.scheme_names import resolve
from ..engine.tensors import dtype_name

Assigned = Mapping[str, tuple[str, str]]  # layer name: (scheme, why)


@dataclass(frozen=True)
class Chosen:
    """The families found and, by module name from the model's root, what becomes of each layer."""

    families: tuple[str, ...]
    choices: Mapping[str, Choice]


def exact_scheme(name: str, device: torch.device) -> tuple[str, str | None]:
    """(scheme, backend or None) of what the user asked for; `auto` is answered for `device`."""
    if name == "auto":
        hip = torch.version.hip is not None
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        return auto_scheme(device.type, capability, hip)[0], None
    return resolve(name)


def roots(model: torch.nn.Module) -> list[str]:
    """The prefixes of the networks in a host model: the diffusion model, or each text encoder."""
    if hasattr(model, "diffusion_model"):
        return ["diffusion_model."]
    found: list[str] = []
    for name, _ in model.named_modules():
        inside = any(name.startswith(prefix) for prefix in found)
        if name.split(".")[-1] == "transformer" and not inside:
            found.append(name + ".")
    return found


def contents_of(model: torch.nn.Module, prefix: str) -> Contents:
    """Every parameter below `prefix` as a layer of plain numbers."""
    layers = []
    for key, parameter in model.named_parameters():
        if key.startswith(prefix):
            name = key[len(prefix) :]
            plain = Part("none", {"weight": name})
            dtype = dtype_name(parameter.dtype)
            layers.append(Layer(name, tuple(parameter.shape), dtype, (plain,)))
    return Contents("host", tuple(layers))


def choices_for(
    model: Model, scheme: str, keep: Sequence[str] = (), assigned: Assigned | None = None
) -> tuple[Choice, ...]:
    """One choice a layer: of one scheme, or as a budget has `assigned` them."""
    if assigned is None:
        return choose(model, scheme, keep=tuple(keep))
    names = dict.fromkeys(("none", *(given for given, _ in assigned.values())))
    by_scheme = {name: choose(model, name, keep=tuple(keep)) for name in names}
    choices = []
    for index, plain in enumerate(by_scheme["none"]):
        given, why = assigned.get(plain.layer.name, ("none", plain.why))
        if not plain.layer.is_matrix:
            given, why = "none", plain.why
        choices.append(replace(by_scheme[given][index], why=why))
    return tuple(choices)


def chosen_for(
    model: Any, scheme: str, keep: Sequence[str] = (), assigned: Assigned | None = None
) -> Chosen:
    """What the engine chooses for each layer of a loaded host model."""
    families, choices = [], {}
    for prefix in roots(model):
        found = recognise(contents_of(model, prefix))
        families.append(found.family.title)
        for choice in choices_for(found, scheme, keep, assigned):
            key = choice.layer.parts[0].tensors["weight"]
            choices[prefix + key.removesuffix(".weight")] = choice
    return Chosen(tuple(families), choices)
