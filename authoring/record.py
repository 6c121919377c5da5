"""What a running ComfyUI says of its nodes in, the part that the workflows use out, as a file.

python -m fusequant.authoring.record http://127.0.0.1:8188
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("core_nodes.json")
USED = (
    "CFGGuider", "CFGNorm", "CLIPTextEncode", "CLIPVisionEncode", "Canny", "ConditioningZeroOut",
    "CreateVideo", "DifferentialDiffusion", "EmptyFlux2LatentImage", "EmptyHunyuanLatentVideo",
    "EmptySD3LatentImage", "Flux2Scheduler", "FluxGuidance", "FluxKontextImageScale",
    "InpaintModelConditioning", "InstructPixToPixConditioning", "KSampler", "KSamplerAdvanced",
    "KSamplerSelect", "LoadImage", "LoadImageDataSetFromFolder", "ModelSamplingAuraFlow",
    "ModelSamplingSD3", "PreviewAny", "PreviewImage", "RandomNoise", "ReferenceLatent",
    "SamplerCustomAdvanced", "SaveImage", "SaveVideo", "StyleModelApply", "StyleModelLoader",
    "TextEncodeQwenImageEditPlus", "TextGenerate", "VAEDecode", "VAEEncode", "VAELoader",
    "WanImageToVideo",
)  # fmt: skip
# what a user has on disk: no list of it is recorded
FILES = frozenset(
    (
        ("LoadImage", "image"), ("LoadImageDataSetFromFolder", "folder"),
        ("StyleModelLoader", "style_model_name"), ("VAELoader", "vae_name"),
    )
)  # fmt: skip
KEPT = ("input", "input_order", "output", "output_name", "output_is_list", "display_name")
TOLD = (
    "default", "min", "max", "step", "multiline", "advanced", "options", "control_after_generate",
    "image_upload", "template", "forceInput",
)  # fmt: skip


def recorded(infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """/object_info -> {node: what the workflows need of it}."""
    found = {}
    for name in USED:
        kept = {key: infos[name][key] for key in KEPT}
        kept["input"] = {
            group: {key: _input(name, key, one) for key, one in inputs.items()}
            for group, inputs in infos[name]["input"].items()
            if group in ("required", "optional")
        }
        order = infos[name]["input_order"]
        kept["input_order"] = {group: order[group] for group in kept["input"]}
        found[name] = kept
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _input(node: str, name: str, spec: Any) -> list[Any]:
    """`[type, what a workflow needs to know]`; choices are COMBO with a list of options."""
    kind = spec[0]
    told = {key: spec[1][key] for key in TOLD if len(spec) > 1 and key in spec[1]}
    if isinstance(kind, list | tuple):
        kind, told = "COMBO", {**told, "options": kind}
    if kind == "COMFY_DYNAMICCOMBO_V3":
        told["options"] = [_option(node, one) for one in told["options"]]
    if (node, name) in FILES:
        told = {key: value for key, value in told.items() if key not in ("options", "default")}
    return [kind, told]


def _option(node: str, option: Mapping[str, Any]) -> dict[str, Any]:
    """A choice of a dynamic combo and the inputs that it brings."""
    brought = {
        group: {key: _input(node, key, one) for key, one in (inputs or {}).items()}
        for group, inputs in option["inputs"].items()
    }
    return {"key": option["key"], "inputs": brought}


def text(found: Mapping[str, Any]) -> str:
    """JSON, an input a line."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Ask the server, write the file."""
    with urllib.request.urlopen(f"{sys.argv[1].rstrip('/')}/object_info", timeout=60) as answer:
        infos = json.load(answer)
    RECORD.write_text(text(recorded(infos)), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
