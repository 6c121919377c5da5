"""Specs of public models -> what core's detection makes of each as it is and in packed codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def run(names: list[str], schemes: list[str]) -> Iterator[dict[str, Any]]:
    """Ask core for a model's configuration with the shapes of its converted files alone."""
    from fusequant.engine.model import recognise
    from fusequant.engine.outputs import specs_of
    from fusequant.engine.pipeline import Request, prepare
    from fusequant.engine.read import read
    from fusequant.engine.specs import spec

    for name in names:
        public = spec(name)
        plain = _detected({key: x.shape for key, x in public.tensors.items()}, public.metadata)
        family = recognise(read(public)).family.name
        for scheme in schemes:
            prepared = prepare(public, request=Request(scheme=scheme))
            shapes = {x.name: x.shape for x in specs_of(prepared.outputs)}
            packed = sum(x.choice.scheme == scheme for x in prepared.outputs)
            yield {
                "name": name,
                "scheme": scheme,
                "packed": packed,
                "family": family,
                "plain": plain,
                "converted": _detected(shapes, public.metadata),
            }


def _detected(shapes: dict[str, tuple[int, ...]], metadata: Any) -> dict[str, str] | None:
    import comfy.model_detection

    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = comfy.model_detection.detect_unet_config(state, "", metadata=metadata)
    return None if found is None else {key: repr(value) for key, value in found.items()}
