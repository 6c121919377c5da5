"""Core's own loaders take the tiny files for what they are, in ComfyUI's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

# maker, its sizes, core's class, what core derives
DETECTED = {
    "flux": (tiny.flux, {}, "Flux", {"hidden_size": 256, "num_heads": 2, "guidance_embed": True}),
    "schnell": (tiny.flux, {"guidance": False, "hidden": 512, "single": 1}, "Flux",
                {"num_heads": 4, "depth": 2, "depth_single_blocks": 1, "guidance_embed": False}),
    "wan": (tiny.wan, {}, "WAN21", {"dim": 256, "num_heads": 2, "model_type": "t2v"}),
    "wan i2v": (tiny.wan, {"image": True}, "WAN21", {"in_dim": 36, "model_type": "i2v"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def detected(
    comfy: Comfy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    """What core says of each file; one process for all."""
    folder = tmp_path_factory.mktemp("tiny")
    paths = [
        make(folder / f"{number}.safetensors", **sizes)
        for number, (make, sizes, _, _) in enumerate(DETECTED.values())
    ]
    yield dict(zip(DETECTED, run_inside(comfy, "detect", paths=paths), strict=True))


@pytest.mark.parametrize("name", DETECTED)
def test_core_detects_the_tiny_model(detected: dict[str, dict[str, Any]], name: str) -> None:
    _, _, expected, config = DETECTED[name]
    line = detected[name]
    assert line["class"] == expected
    assert {key: line["config"][key] for key in config} == config
    assert (line["missing"], line["unexpected"]) == ([], [])


def test_core_runs_a_small_clip_l_and_t5_by_its_model_options(comfy: Comfy, tmp_path: Path) -> None:
    small = {"width": 256, "layers": 2}
    files = [
        tiny.clip_l(tmp_path / "clip_l.safetensors", **small),
        tiny.t5(tmp_path / "t5.safetensors", width=128),
    ]
    options: dict[str, Any] = {**tiny.clip_l_options(**small), **tiny.t5_options(width=128)}
    (line,) = run_inside(comfy, "encode", paths=files, kind="FLUX", options=options)
    assert (line["text"][-1], line["pooled"]) == (128, [1, 256])
    assert line["finite"]
    assert line["spread"] > 0.01


def test_core_runs_a_small_umt5_by_its_model_options(comfy: Comfy, tmp_path: Path) -> None:
    words = comfy.path / "comfy" / "text_encoders" / "t5_pile_tokenizer" / "tokenizer.model"
    path = tiny.t5(tmp_path / "umt5.safetensors", spiece=words.read_bytes())
    options = tiny.t5_options(umt5=True)
    (line,) = run_inside(comfy, "encode", paths=[path], kind="WAN", options=options)
    assert line["text"][-1] == 128
    assert line["finite"]
    assert line["spread"] > 0.01


def test_core_runs_a_small_qwen_vl_by_its_model_options(comfy: Comfy, tmp_path: Path) -> None:
    path = tiny.qwen_vl(tmp_path / "qwen.safetensors")
    options = tiny.qwen_vl_options()
    (line,) = run_inside(comfy, "encode", paths=[path], kind="QWEN_IMAGE", options=options)
    assert line["text"][-1] == 512
    assert line["finite"]
    assert line["spread"] > 0.01
