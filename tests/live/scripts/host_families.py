"""Quantize Model on other models than FLUX: Wan, CLIP-L and T5, with every scheme."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch


def run(wan: str, clip: str, t5: str, layers: int, width: int) -> Iterator[dict[str, Any]]:
    """The files of a Wan, a CLIP-L and a T5 -> output error and layers for each scheme.

    Both encoders have so many layers; the CLIP-L is `width` wide.
    """
    import small_sizes.tokenizers  # noqa: F401
    import tiny

    torch.set_num_threads(1)
    with torch.inference_mode():
        yield from _wan(wan)
        yield from _text("clip", clip, tiny.clip_l_options(width, layers))
        yield from _text("t5", t5, tiny.t5_options(layers=layers))


def _schemes() -> list[str]:
    from fusequant.engine.scheme_names import schemes

    return [name for name in schemes() if name != "none"]


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def _wan(path: str) -> Iterator[dict[str, Any]]:
    import comfy.model_management
    import comfy.sd

    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    def output(patcher: Any) -> torch.Tensor:
        comfy.model_management.load_models_gpu([patcher])
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, 16, 2, 8, 8), generator=generator)
        text = torch.randn((1, 16, 4096), generator=generator)
        return patcher.model.apply_model(x, torch.tensor([0.7]), c_crossattn=text)

    source = comfy.sd.load_diffusion_model(path)
    reference = output(source)
    for scheme in _schemes():
        made, report = quantize_model(source, Request(scheme))
        yield {"model": "wan", "scheme": scheme, "error": _error(output(made), reference),
               "layers": report.quantized}  # fmt: skip


def _text(name: str, path: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import comfy.sd

    from fusequant.host.model import quantize_clip
    from fusequant.host.pristine import Request

    kind = comfy.sd.CLIPType.SD3
    source = comfy.sd.load_clip([path], clip_type=kind, model_options=copy.deepcopy(options))

    def output(clip: Any) -> torch.Tensor:
        return clip.encode_from_tokens(clip.tokenize("a cat on a mat"))

    reference = output(source)
    for scheme in _schemes():
        made, report = quantize_clip(source, Request(scheme))
        yield {"model": name, "scheme": scheme, "error": _error(output(made), reference),
               "layers": report.quantized,
               "upstream": torch.equal(output(source), reference)}  # fmt: skip
