"""A ComfyUI folder in, header-only specs of real models out: `python make_specs.py COMFYUI OUT`.

Run it with ComfyUI's own interpreter. The names and shapes are those of ComfyUI's model classes,
built on the meta device with the public configurations; no weight is read or made. `detected_as`
in a spec is what ComfyUI's own detection takes these names and shapes for.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

from spec_models import MODELS, Public, Shapes

# ComfyUI's classes call them `weight`; the public files of FLUX and Chroma, as trained, `scale`
TRAINED_NAMES = ("comfy.ldm.flux.", "comfy.ldm.chroma")
TRAINED_NORMS = re.compile(r"(query_norm|key_norm|guidance_layer\.norms\.\d+)\.weight$")


def built(comfyui: Path, public: Public) -> Shapes:
    """The names and shapes of one of ComfyUI's classes, on the meta device."""
    import importlib

    import comfy.ops
    import torch

    if not public.path:
        return {}
    module, _, name = public.path.rpartition(".")
    build = getattr(importlib.import_module(module), name)
    placed = {
        "dtype": torch.bfloat16,
        "device": "meta",
        "operations": comfy.ops.disable_weight_init,
    }
    with torch.device("meta"):
        if "config" in public.arguments:
            config = public.arguments["config"]
            facts = (
                json.loads((comfyui / config).read_text()) if isinstance(config, str) else config
            )
            model = build(facts or {}, **placed)
        else:
            model = build(**public.arguments, **placed)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    trained = public.path.startswith(TRAINED_NAMES)
    return {TRAINED_NORMS.sub(r"\1.scale", k) if trained else k: v for k, v in found.items()}


def detected_as(public: Public, shapes: Shapes) -> str:
    """What ComfyUI takes a file with these names and shapes for; empty where it is not asked."""
    import comfy.model_detection
    import comfy.sd
    import torch

    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if "config" in public.arguments:
        found = comfy.sd.detect_te_model(state)
        return found.name if found else ""
    config = comfy.model_detection.model_config_from_unet(state, "", metadata=public.header)
    return type(config).__name__ if config else ""


def folded(shapes: Shapes) -> dict[str, list[object]]:
    """Names with the block index taken out: {"blocks.{}.ffn.0.weight": [shape, blocks]}."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    result: dict[str, list[object]] = {}
    for name, shape in shapes.items():
        found = re.search(r"\.(\d+)\.", name)
        template = name[: found.start(1)] + "{}" + name[found.end(1) :] if found else name
        groups[template, shape].append(int(found[1]) if found else -1)
    for (template, shape), indices in groups.items():
        if len(indices) > 1 and indices == list(range(len(indices))):
            result[template] = [list(shape), len(indices)]
            continue
        for index in indices:
            result[template.format(index)] = [list(shape)]
    return result


def main(comfyui: Path, out: Path) -> None:
    """Write one JSON for each model and compare its parameters with the published number."""
    os.chdir(comfyui)
    sys.path.insert(0, str(comfyui))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    for name, public in MODELS.items():
        shapes = built(comfyui, public) | public.beside
        count = sum(math.prod(shape) for shape in shapes.values())
        if abs(count / 1e9 - public.billions) > 0.006:
            raise SystemExit(f"{name}: {count} parameters, published {public.billions} billion")
        facts = {"title": public.title, "file": public.file, "dtype": public.dtype}
        facts |= {"parameters": count, "detected_as": detected_as(public, shapes)}
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in folded(shapes).items())
        head = json.dumps(facts, indent=1)[:-2]
        (out / f"{name}.json").write_text(f'{head},\n "tensors": {{\n{rows}\n }}\n}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
