"""One file of a recipe in, its prepared conversion out: everything open, nothing written."""

from __future__ import annotations

from ..accelerator import capability
from ..files.open import open_source
from ..fuse.lora import LoraFile, open_lora
from ..pipeline import Prepared, Request, prepare
from .entry import Part


def prepared_for(part: Part, workers: int | None = None) -> Prepared:
    """Open the source and the LoRAs and plan; on a refusal everything is closed again."""
    source = open_source(part.source)
    loras: list[LoraFile] = []
    try:
        for lora in part.loras:
            loras.append(open_lora(lora.path, lora.strength, lora.rslora))
        device = part.options["device"]
        known = capability(device) if part.options["scheme"] == "auto" else None
        request = Request(**part.options, capability=known, workers=workers)
        return prepare(source, loras, request)
    except BaseException:
        for opened in loras:
            opened.close()
        source.close()
        raise
