"""The reference transformer computes what ComfyUI's own FLUX computes."""

from __future__ import annotations

import pytest

from .comfy import Comfy
from .inprocess import run_inside


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ({}, "Flux"),
        ({"hidden": 256, "double_blocks": 1, "single_blocks": 3, "guidance": False}, "FluxSchnell"),
    ],
)
def test_same_weights_same_output(comfy: Comfy, sizes: dict[str, object], kind: str) -> None:
    (line,) = run_inside(comfy, "reference_transformer", **sizes)
    assert line["class"] == kind
    assert line["difference"] < 1e-5
    assert line["output_rms"] > 0.1
