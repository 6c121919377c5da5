"""The reference transformers compute what ComfyUI's own FLUX, Wan and Qwen-Image compute."""

from __future__ import annotations

import pytest

from .comfy import Comfy
from .inprocess import run_inside


@pytest.mark.parametrize(
    ("kind", "sizes", "known_as"),
    [
        ("FluxConfig", {}, "Flux"),
        (
            "FluxConfig",
            {"hidden": 256, "double_blocks": 1, "single_blocks": 3, "guidance": False},
            "FluxSchnell",
        ),
        ("WanConfig", {"context": 4096}, "WAN21_T2V"),
        ("QwenConfig", {"context": 3584, "blocks": 2}, "QwenImage"),
    ],
)
def test_same_weights_same_output(
    comfy: Comfy, kind: str, sizes: dict[str, object], known_as: str
) -> None:
    (line,) = run_inside(comfy, "reference_transformer", kind=kind, **sizes)
    assert line["class"] == known_as
    assert line["difference"] < 1e-5
    assert line["output_rms"] > 0.1
