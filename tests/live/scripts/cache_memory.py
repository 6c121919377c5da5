"""Private memory of Quantize Model inside ComfyUI: with the cache, from it, and without it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

HIDDEN = 1536


def _private_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """The most private memory inside the block over what there was before it."""

    def __enter__(self) -> Peak:
        gc.collect()
        self._base = _private_bytes()
        self.bytes, self._ended = 0, False
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._ended:
            self.bytes = max(self.bytes, _private_bytes() - self._base)
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._watch.join()


def run(folder: str) -> Iterator[dict[str, Any]]:
    """A folder for the files -> one line for each way."""
    import comfy.sd
    import comfy.utils
    import folder_paths
    import tiny

    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    folder_paths.set_user_directory(folder)
    model = tiny.flux(Path(folder) / "flux.safetensors", hidden=HIDDEN, single=3)
    lora = tiny.lora(Path(folder) / "lora.safetensors", model)
    source = comfy.sd.load_diffusion_model(str(model))
    tensors = comfy.utils.load_torch_file(str(lora), safe_load=True)
    source = comfy.sd.load_lora_for_models(source, None, tensors, 1.0, 0.0)[0]
    with torch.inference_mode():
        for way, policy in (("written", "on"), ("read", "on"), ("memory", "off")):
            with Peak() as peak:
                made, report = quantize_model(source, Request("int8", cache=policy))
            yield {"fact": way, "share": peak.bytes / model.stat().st_size,
                   "layers": report.quantized}  # fmt: skip
            del made
