"""The memory that VRAM Manager and Quantize Model predict is the memory that they take, on a CPU.

Two small cases; `bench_memory.py` has the others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import write_flux_like

from .comfy import Comfy
from .inprocess import run_inside

WITHIN = 0.10  # of all private memory of the process
OVER_HELD = 0.25  # of what came on top, which is small here
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="private memory from /proc"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX of 0.14 GB, 1024 wide."""
    path = tmp_path_factory.mktemp("memory") / "flux.safetensors"
    write_flux_like(path, FluxConfig(1024, 1, 1, 4096, 768, True))
    return path


def test_a_step(comfy: Comfy, model: Path) -> None:
    (row,) = run_inside(
        comfy, "memory_jobs", job="sample", model=model, family="flux", latent=[1, 16, 64, 64],
        text=256, scheme="int8",
    )  # fmt: skip
    assert row["parts"]["step"] > 100 * 2**20
    _within(row)
    assert "peak measured" in row["text"] and "held before" in row["text"]


def test_quantizing(comfy: Comfy, model: Path, tmp_path: Path) -> None:
    (row,) = run_inside(
        comfy, "memory_jobs", job="quantize", model=model, scheme="int8", cache="off",
        user=tmp_path,
    )  # fmt: skip
    _within(row)
    assert row["text"].startswith("peak while it was made") and "RAM measured" in row["text"]


def _within(row: dict[str, Any]) -> None:
    assert abs(row["error"]) < WITHIN, row
    assert abs(row["error_over_held"]) < OVER_HELD, row
