"""The header-only specs are the models that ComfyUI itself detects and builds, name by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fusequant.engine.specs import names, spec

from .comfy import Comfy
from .inprocess import run_inside

# made from the published header: this model came after ComfyUI 0.33
LATER = ("qwen-image-2.1",)
ASKED = [name for name in names() if spec(name).detected_as]


@pytest.fixture(scope="module")
def found(comfy: Comfy) -> Iterator[dict[str, dict[str, Any]]]:
    """What core says of each spec; one process for all."""
    lines = run_inside(comfy, "spec_models", 400, names=list(names()))
    yield {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", ASKED)
def test_core_detects_the_spec_and_builds_the_same_model(
    found: dict[str, dict[str, Any]], name: str
) -> None:
    line = found[name]
    assert line["class"] == spec(name).detected_as
    assert line["differ"] == []
    assert line["kind"] == "text" or line["keys"] == len(spec(name).tensors)


def test_only_vision_towers_and_later_models_are_not_detected(
    found: dict[str, dict[str, Any]],
) -> None:
    undetected = {name for name, line in found.items() if not spec(name).detected_as}
    assert undetected <= set(LATER)
    assert set(names()) - set(ASKED) == {*LATER, "clip-vision-h"}
