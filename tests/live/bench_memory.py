"""Private memory predicted and measured on a CPU; run by name, not with the tests.

    python -m pytest tests/live/bench_memory.py -s

Each job is a process of its own, so that nothing is there from the one before. Models have real
widths, few blocks and 0.5 to 1 GiB of weights in bf16. The rows go to benchmarks/results; those
that say `held_out` were not looked at while the constants of the prediction were measured.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.results import Result, write_result
from fusequant.engine.measure.synthetic import write_flux_like

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
LIMIT_S = 7200.0
GOAL = 0.10
FLUX = FluxConfig(2048, 1, 2, 4096, 768, True)
# latents of 144 to 588 tokens, and text tokens
SIZES = {
    "flux": (([1, 16, 24, 24], 64), ([1, 16, 40, 40], 64)),
    "wan": (([1, 16, 2, 20, 20], 64), ([1, 16, 3, 28, 28], 64)),
    "qwen": (([1, 16, 1, 24, 24], 32), ([1, 16, 1, 40, 40], 64)),
}
SCHEMES = ("", "int8", "fp8")


def write_models(folder: Path) -> dict[str, Path]:
    """A FLUX of 0.6 GB, a Wan of 0.6 and a Qwen-Image of 0.7, and a LoRA for the FLUX."""
    found = {
        "flux": folder / "flux.safetensors",
        "wan": tiny.wan(folder / "wan.safetensors", 1536, 8960, 6),
        "qwen": tiny.qwen_image(folder / "qwen.safetensors"),
        "lora": folder / "lora.safetensors",
    }
    write_flux_like(found["flux"], FLUX)
    write_lora(found["lora"], FLUX, "kohya", 32)
    return found


def sampled() -> Iterator[dict[str, Any]]:
    """Every family in several schemes at two sizes, and a FLUX in ways out of the ordinary."""
    for family, sizes in SIZES.items():
        for scheme in ("", "fp8"):
            for latent, text in sizes:
                yield {"job": "sample", "model": family, "latent": latent, "text": text,
                       "scheme": scheme, "held_out": False}  # fmt: skip
    latent, text = SIZES["flux"][0]
    base = {"job": "sample", "model": "flux", "latent": latent, "text": text, "held_out": False}
    yield base | {"cfg": 3.0}
    yield base | {"lora": "lora"}
    yield base | {"loader": "stock"}
    yield base | {"attention": "pytorch"}
    for scheme in ("fp8_row", "int8_weight_only", "int4_g128"):
        yield base | {"scheme": scheme}
    for family, ((latent, text), _) in SIZES.items():
        yield {"job": "sample", "model": family, "latent": latent, "text": text,
               "scheme": "int8", "held_out": True}  # fmt: skip
    yield base | {"scheme": "int8_convrot", "held_out": True}


def made() -> Iterator[dict[str, Any]]:
    """Loading as stored and quantizing on load, Quantize Model with cache and LoRA and without."""
    for family in SIZES:
        for scheme in SCHEMES:
            yield {"job": "load", "model": family, "scheme": scheme, "held_out": False}
        for scheme in SCHEMES[1:]:
            yield {"job": "quantize", "model": family, "scheme": scheme, "cache": "off",
                   "held_out": False}  # fmt: skip
    for cache in ("off", "on"):
        yield {"job": "quantize", "scheme": "int8", "cache": cache, "model": "flux",
               "lora": "lora", "held_out": False}  # fmt: skip


def told(job: dict[str, Any], files: dict[str, Path], user: Path) -> dict[str, Any]:
    """A job as the script takes it: files for the names of models."""
    options = {key: value for key, value in job.items() if key != "held_out"}
    options |= {key: files[job[key]] for key in ("model", "lora") if key in job}
    if job["job"] == "sample":
        options["family"] = job["model"]
    if job["job"] == "quantize":
        options["user"] = user
    return options


@pytest.fixture(scope="module")
def rows(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every job once."""
    files = write_models(tmp_path_factory.mktemp("bench-memory"))
    wanted = [*made(), *sampled()]
    jobs = [told(job, files, tmp_path_factory.mktemp("user")) for job in wanted]
    machine, *found = run_inside(comfy, "memory_jobs", LIMIT_S, jobs=[{"job": "machine"}, *jobs])
    result = Result(
        benchmark="memory", date=datetime.date.today().isoformat(),
        rows=[{**job, **row} for job, row in zip(wanted, found, strict=True)],
        hardware=machine, settings={"comfyui": machine.pop("comfyui")},
    )  # fmt: skip
    write_result(RESULTS, result)
    return list(result.rows)


def test_what_is_predicted_is_within_ten_per_cent(rows: list[dict[str, Any]]) -> None:
    assert {str(row): row["error"] for row in rows if abs(row["error"]) > GOAL} == {}
