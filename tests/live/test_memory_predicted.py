"""The memory that VRAM Manager and Quantize Model predict is the memory that they take, on a CPU.

Two small cases; `bench_memory.py` has the others.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import write_flux_like

from .comfy import Comfy
from .inprocess import run_inside

WITHIN = 0.10  # of all private memory of the process
# a model this small takes little over what ComfyUI holds: the C library's heap of a thread grows by
# as much at a time, and quantizing a layer may take less time than passes between two looks
SLACK_BYTES = 64 << 20
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="private memory from /proc"
)


@pytest.fixture(scope="module")
def rows(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A step and a Quantize Model of a FLUX of 0.14 GB, 1024 wide, each in its own process."""
    folder = tmp_path_factory.mktemp("memory")
    model = folder / "flux.safetensors"
    write_flux_like(model, FluxConfig(1024, 1, 1, 4096, 768, True))
    step = {"job": "sample", "model": model, "family": "flux", "latent": [1, 16, 64, 64],
            "text": 256}  # fmt: skip
    made = {"job": "quantize", "model": model, "scheme": "int8", "cache": "off", "user": folder}
    return run_inside(comfy, "memory_jobs", jobs=[step, made])


def test_what_is_predicted_is_what_is_taken(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 2
    for row in rows:
        allowed = max(WITHIN * row["peak_bytes"], SLACK_BYTES)
        assert abs(row["predicted_bytes"] - row["peak_bytes"]) < allowed, row


def test_the_log_and_the_report_say_both(rows: list[dict[str, Any]]) -> None:
    step, made = rows
    assert step["parts"]["step"] > 100 * 2**20
    assert "peak measured" in step["text"] and "held before" in step["text"]
    assert made["text"].startswith("peak while it was made") and "RAM measured" in made["text"]
