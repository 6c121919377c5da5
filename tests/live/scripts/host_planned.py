"""A plan on Quantize Model and VRAM Manager inside ComfyUI: what it decides, what it leaves."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


def _sampling() -> Any:
    path = Path(__file__).with_name("host_sampling.py")
    spec = importlib.util.spec_from_file_location("host_sampling", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_sampling"] = module
    spec.loader.exec_module(module)
    return module


def _plan() -> Any:
    from fusequant.engine.setup import LIMIT, Needs, Setup

    return Setup(
        "fp8_row", Needs(7 * GIB, GIB, 0, GIB), keep=("single_blocks.0.*",), text_scheme="int8",
        mode=LIMIT, limit_bytes=10 * GIB, buffer_bytes=2 * GIB,
    )  # fmt: skip


def run(model: str, clip: str) -> Iterator[dict[str, Any]]:
    """The files of a FLUX and a CLIP-L -> facts."""
    import comfy.sd

    torch.set_num_threads(1)
    source = comfy.sd.load_diffusion_model(model)
    text = comfy.sd.load_clip([clip], clip_type=comfy.sd.CLIPType.SD3)
    with torch.inference_mode():
        yield from _quantized(source, text)
    yield from _placed(source)
    yield {"fact": "refused", "kinds": list(_refused(source))}


def _quantized(source: Any, text: Any) -> Iterator[dict[str, Any]]:
    """Quantize Model with choices left open and made."""
    from fusequant.host.planned import quantize
    from fusequant.host.pristine import Request
    from fusequant.nodes.quantize_model import NODE

    cases = {
        "open": (source, Request()), "own scheme": (source, Request("int8")),
        "own keep": (source, Request(keep=("double_blocks.*",))), "clip": (text, Request()),
    }  # fmt: skip
    for name, (target, request) in cases.items():
        _, report = quantize(target, request, _plan())
        yield {"fact": "quantized", "name": name, "schemes": dict(report.schemes),
               "text": report.text()}  # fmt: skip
    check = NODE.validate_inputs
    node = NODE.execute(source, {"scheme": "auto"}, plan=_plan())
    yield {"fact": "node", "text": node.result[1],
           "plan": check(scheme="auto", input_types={"plan": "FQ_PLAN"}),
           "other": check(scheme="auto", input_types={"plan": "STRING"})}  # fmt: skip


def _placed(source: Any) -> Iterator[dict[str, Any]]:
    """What VRAM Manager has ComfyUI reserve on a card of 24 GiB, 3 of them held by others."""
    from fusequant.host import memory

    sampling = _sampling()
    cases = {"open": ("auto", None, None), "own limit": ("limit", 5.0, 0.0),
             "own mode": ("low VRAM", 0.0, 0.0), "own buffer": ("auto", 0.0, 15.0)}  # fmt: skip
    with sampling._card():
        for name, choice in cases.items():
            managed, report = memory.manage(source, memory.asked(*choice, _plan()), _plan())
            probe = sampling.Probe(managed)
            sampling._sample(managed)
            yield {"fact": "placed", "name": name, "text": report.text(),
                   "free": sampling.TOTAL - probe.seen[0][0] - sampling.FOREIGN}  # fmt: skip


def _refused(source: Any) -> Iterator[str]:
    from fusequant.engine.errors import Refused
    from fusequant.host import memory
    from fusequant.host.planned import quantize
    from fusequant.host.pristine import Request

    for call in (lambda: memory.asked("auto", None, None, "int8"),
                 lambda: quantize(source, Request(), {"scheme": "int8"})):  # fmt: skip
        try:
            call()
        except Refused as refused:
            yield refused.kind
