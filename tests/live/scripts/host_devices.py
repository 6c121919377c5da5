"""A tiny FLUX on a machine whose rules are those of MPS, the arithmetic on the CPU: facts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, folder: str) -> Iterator[dict[str, Any]]:
    """The file of a FLUX and a folder to save in -> facts."""
    import comfy.sd

    from fusequant.engine.errors import Refused
    from fusequant.host import devices
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    torch.set_num_threads(1)
    h = _models()
    source = comfy.sd.load_diffusion_model(model)
    reference, files = h.output(source), {}
    for scheme in ("fp8", "int8", "int8_weight_only"):
        files[scheme] = f"{folder}/{scheme}.safetensors"
        comfy.sd.save_checkpoint(files[scheme], quantize_model(source, Request(scheme))[0])
    devices.class_of = lambda device: "mps"
    for scheme, path in files.items():
        loaded, report = load_diffusion_model(path)
        again = loaded.clone(force_deepcopy=True)
        yield {"fact": "stored", "scheme": scheme, "text": report.text(),
               "error": h.error(h.output(loaded), reference),
               "again": torch.equal(h.output(again), h.output(loaded)),
               "fp8": [k for k, v in h.state(loaded).items() if v.dtype in FP8],
               "layouts": sorted({m.layout_type for m in loaded.model.modules()
                                  if getattr(m, "layout_type", None)})}  # fmt: skip
    for scheme in ("fp8", "int4_g128", "4-bit"):
        for name, make in {
            "load": lambda scheme=scheme: load_diffusion_model(model, scheme),
            "quantize": lambda scheme=scheme: quantize_model(source, Request(scheme)),
        }.items():
            try:
                make()
                told = ""
            except Refused as refused:
                told = str(refused)
            yield {"fact": "refused", "scheme": scheme, "by": name, "told": told}
    loaded, _ = load_diffusion_model(files["fp8"], "8-bit")
    state = h.state(loaded)
    yield {"fact": "fp8 to 8-bit", "fp8": [k for k, v in state.items() if v.dtype in FP8],
           "int8": sum(v.dtype == torch.int8 for v in state.values()),
           "error": h.error(h.output(loaded), reference)}  # fmt: skip
