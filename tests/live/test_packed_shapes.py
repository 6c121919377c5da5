"""Core's detection reads widths from shapes: packed codes must stay out of the layers it asks."""

from __future__ import annotations

from typing import Any

import pytest

from fusequant.engine.specs import names, spec

from .comfy import Comfy
from .inprocess import run_inside

PACKED = ("nvfp4", "w4a4_convrot", "w4a8", "int4_g128", "mxfp8")
TEXT = ("clip-", "gemma-", "llama-", "mistral-", "qwen2.5-vl", "qwen3-", "t5-", "umt5-")
ASKED = [x for x in names() if spec(x).detected_as and not x.startswith(TEXT)]


@pytest.fixture(scope="module")
def found(comfy: Comfy) -> dict[tuple[str, str], dict[str, Any]]:
    """What core says of each spec in each scheme; one process for all."""
    lines = run_inside(comfy, "packed_shapes", 500, names=ASKED, schemes=list(PACKED))
    return {(line["name"], line["scheme"]): line for line in lines}


@pytest.mark.parametrize("scheme", PACKED)
@pytest.mark.parametrize("name", ASKED)
def test_core_detects_a_packed_file_as_it_detects_the_plain_one(
    found: dict[tuple[str, str], dict[str, Any]], name: str, scheme: str
) -> None:
    line = found[name, scheme]
    assert line["plain"]
    assert line["packed"]
    assert line["converted"] == line["plain"]
