"""Private memory predicted and measured on a CPU; run by name, not with the tests.

    python -m pytest tests/live/bench_memory.py -s

Each job is a process of its own, so that nothing is there from the one before. The rows go to
benchmarks/results. `error` is of all private memory of the process, `error_over_held` of what came
on top of what it held before.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.hardware import hardware
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.results import Result, write_result
from fusequant.engine.measure.synthetic import write_flux_like

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
LIMIT_S = 1800.0
GOAL = 0.10
SMALL, LARGE = [1, 16, 32, 32], [1, 16, 64, 64]  # latents: 256 and 1024 tokens
VIDEO = [1, 16, 5, 32, 32]
# of 1.3 GB: real widths, few blocks
FLUX_LIKE = FluxConfig(3072, 1, 3, 4096, 768, True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models and some of 1 GB or so, with LoRAs."""
    folder = tmp_path_factory.mktemp("bench-memory")
    found = {
        "flux": tiny.flux(folder / "flux.safetensors"),
        "wan": tiny.wan(folder / "wan.safetensors"),
        "wan-large": tiny.wan(folder / "wan-large.safetensors", 1536, 8960, 12),
        "qwen": tiny.qwen_image(folder / "qwen.safetensors"),
        "flux-like": folder / "flux-like.safetensors",
        "flux-like lora": folder / "flux-like-lora.safetensors",
    }
    write_flux_like(found["flux-like"], FLUX_LIKE)
    write_lora(found["flux-like lora"], FLUX_LIKE, "kohya", 32)
    found["flux lora"] = tiny.lora(folder / "lora.safetensors", found["flux"])
    return found


def sampled() -> Iterator[dict[str, Any]]:
    """Model, latent, text tokens, and what is out of the ordinary."""
    for name, latent, text in (
        ("flux", SMALL, 256), ("wan", VIDEO, 512), ("qwen", SMALL, 64), ("qwen", LARGE, 128),
        ("flux-like", SMALL, 256), ("flux-like", LARGE, 256), ("wan-large", VIDEO, 512),
    ):  # fmt: skip
        yield {"model": name, "latent": latent, "text": text}
    base = {"model": "flux-like", "latent": SMALL, "text": 256}
    for scheme in ("fp8", "int8", "fp8_row"):
        yield base | {"scheme": scheme}
    yield base | {"loader": "stock"}
    yield base | {"lora": "flux-like lora"}
    yield {"model": "flux", "latent": LARGE, "text": 256, "cfg": 3.0}
    yield {"model": "flux", "latent": LARGE, "text": 256, "scheme": "int8"}


def made() -> Iterator[dict[str, Any]]:
    """Loading, and quantizing with and without the cache and a LoRA."""
    yield {"job": "load", "model": "flux-like"}
    for cache in ("off", "on"):
        for lora in ("", "flux-like lora"):
            yield {"job": "quantize", "model": "flux-like", "scheme": "int8", "cache": cache,
                   "lora": lora}  # fmt: skip


@pytest.fixture(scope="module")
def rows(
    comfy: Comfy, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Every job once."""
    jobs = [{"job": "sample", **wanted} for wanted in sampled()] + list(made())
    found = []
    for job in jobs:
        more: dict[str, Any] = {"model": files[job["model"]]}
        if job["job"] == "sample":
            more["family"] = job["model"].removesuffix("-large")
        if job["job"] == "quantize":
            more["user"] = tmp_path_factory.mktemp("user")
        if job.get("lora"):
            more["lora"] = files[job["lora"]]
        (row,) = run_inside(comfy, "memory_jobs", LIMIT_S, **{**job, **more})
        found.append({**job, **row})
    result = Result(
        benchmark="memory", date=datetime.date.today().isoformat(), rows=found,
        hardware=hardware(),
        settings={"comfyui": (comfy.path / "comfyui_version.py").read_text()[-10:]},
    )  # fmt: skip
    write_result(RESULTS, result)
    return found


def test_what_is_predicted_is_within_ten_per_cent(rows: list[dict[str, Any]]) -> None:
    assert {str(row): row["error"] for row in rows if abs(row["error"]) > GOAL} == {}
