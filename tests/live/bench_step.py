"""One step of a FLUX-shaped model by every way to hold it; run by name, not with the tests.

    python -m pytest tests/live/bench_step.py -s

Settings, as environment variables:
    FUSEQUANT_BENCH_BLOCKS         double and single blocks, 3072 wide: 2,3 (the default) are 1.2
                                   billion parameters, 1,1 are 0.5, 1,0 are 0.4
    FUSEQUANT_BENCH_SECONDS        no round of steps but the first begins that would end later
    FUSEQUANT_BENCH_MEMORY_BLOCKS  the same for the model whose memory is measured
The rows go to benchmarks/results. Steps are taken in turns in one process; a ratio is the median of
the ratios within each round, so that a change of the machine does not count.
"""

from __future__ import annotations

import datetime
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fusequant.cli.main import main
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.results import Result, write_result
from fusequant.engine.measure.synthetic import write_flux_like

from .comfy import Comfy
from .inprocess import run_inside

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
LIMIT_S = 7200.0
ROUNDS, SLOWER = 5, 8.0
RANK = 32
BASELINES = {
    "over_bf16_sdpa": "core bf16, SDPA",
    "over_fp32": "core fp32",
    "over_int8": "int8, SDPA",
}
FULL, SHORT = {"latent": [1, 16, 64, 64], "text": 256}, {"latent": [1, 16, 8, 8], "text": 16}
# held with few tokens, for more of which ComfyUI's int8 takes minutes; and one with all of them
HELD, OURS_HELD = ("core fp32", "core bf16", "core int8", "core fp8", "int8", "fp8"), "int8"
Rows = Sequence[Mapping[str, Any]]
GIB = 2**30
MEMORY_GOAL = 2.0 * GIB  # for the 1.2 billion parameters of MEMORY_BLOCKS


@dataclass(frozen=True)
class Size:
    """A model, and the numbers that go into a step of it."""

    config: FluxConfig
    given: Mapping[str, Any]

    def asked(self, tokens: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into a step of so many tokens."""
        return {**tokens, "context": self.config.context, "vector": self.config.vector}


def image_tokens(given: Mapping[str, Any]) -> int:
    """A token is two by two numbers of the latent."""
    return int(given["latent"][-1] * given["latent"][-2] // 4)


def of_blocks(text: str) -> Size:
    """`2,3` -> a FLUX of two double and three single blocks as wide as the real one."""
    double, single = map(int, text.split(","))
    return Size(FluxConfig(3072, double, single, 4096, 768, True), FULL)


def write_files(folder: Path, config: FluxConfig) -> dict[str, Path]:
    """The model in bf16, in int8 and in fp8 as ComfyUI reads them, and a LoRA on every block."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.safetensors" for name in ("model", "lora", "int8", "fp8")}
    write_flux_like(files["model"], config)
    write_lora(files["lora"], config, "kohya", RANK)
    for scheme in ("int8", "fp8"):
        source, target = str(files["model"]), str(files[scheme])
        assert main(["convert", source, "--scheme", scheme, "--out", target]) == 0
    return files


def step_rows(
    comfy: Comfy, files: Mapping[str, Path], size: Size, limit_s: float, fresh: bool = True
) -> list[dict[str, Any]]:
    """Every contender, with its ratios."""
    found = run_inside(
        comfy, "step_jobs", LIMIT_S, fresh=fresh, job="steps", files=files,
        given=size.asked(size.given), rounds=ROUNDS, limit_s=limit_s, slower=SLOWER,
    )  # fmt: skip
    named = {row["contender"]: row for row in found}
    for row in found:
        for key, base in BASELINES.items():
            row[key] = ratio(row, named[base])
        times = row.get("samples_s") or [row.get("first_s")]
        row["median_s"] = None if times[0] is None else statistics.median(times)
        row["rounds"] = len(row.get("samples_s", ()))
    return [{"what": "step", **row} for row in found]


def ratio(row: Mapping[str, Any], base: Mapping[str, Any]) -> float | None:
    """How many times as long as `base`: of both in the same rounds, else of both first steps, else
    of both with few tokens; None where it was not asked at all.
    """
    pairs = list(zip(row.get("samples_s", ()), base["samples_s"], strict=False))
    for key in ("first_s", "short_s"):
        if not pairs and key in row:
            pairs = [(row[key], base[key])]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def lora_rows(comfy: Comfy, files: Mapping[str, Path], user: Path) -> list[dict[str, Any]]:
    """A LoRA applied, and another strength of it, each way in a process of its own."""
    lora = files["lora"]
    jobs: dict[str, dict[str, Any]] = {
        "core bf16, stock LoRA": {"job": "stock_lora", "quantized": files["model"],
                                  "dtype": "bfloat16"},
        "core int8, stock LoRA": {"job": "stock_lora", "quantized": files["int8"]},
        "core fp8, stock LoRA": {"job": "stock_lora", "quantized": files["fp8"]},
        "int8, Live LoRA": {"job": "live_lora", "quantized": files["int8"]},
        "fp8, Live LoRA": {"job": "live_lora", "quantized": files["fp8"]},
        "int8, fused LoRA, cache": {"job": "fused_lora", "model": files["model"],
                                    "scheme": "int8"},
    }  # fmt: skip
    found = []
    for name, job in jobs.items():
        (row,) = run_inside(comfy, "host_jobs", LIMIT_S, lora=lora, user=user, **job)
        found.append({**row, "what": "lora", "contender": name})
    return found


def memory_rows(comfy: Comfy, files: Mapping[str, Path], size: Size) -> list[dict[str, Any]]:
    """Private memory while a step is made, each model in a process of its own."""
    jobs = [*((model, SHORT) for model in HELD), (OURS_HELD, size.given)]
    asked = [{"model": model, "given": size.asked(tokens)} for model, tokens in jobs]
    rows = run_inside(comfy, "step_jobs", LIMIT_S, job="memory", files=files, jobs=asked)
    return [{"what": "memory", **row} for row in rows]


def measured(
    comfy: Comfy, folder: Path, size: Size, held: Size, limit_s: float, fresh: bool = True
) -> Result:
    """Steps and LoRAs of a model of `size`, the memory of one that is `held`."""
    files = write_files(folder / "steps", size.config)
    found = step_rows(comfy, files, size, limit_s, fresh)
    found += lora_rows(comfy, files, folder / "user")
    if held.config != size.config:
        for path in files.values():
            path.unlink()
        files = write_files(folder / "held", held.config)
    found += memory_rows(comfy, files, held)
    (machine,) = run_inside(comfy, "memory_jobs", jobs=[{"job": "machine"}])
    settings = {
        "comfyui": machine.pop("comfyui"), "parameters": size.config.size_bytes // 2,
        "blocks": [size.config.double_blocks, size.config.single_blocks],
        "hidden": size.config.hidden, "image_tokens": image_tokens(size.given),
        "text_tokens": size.given["text"], "memory_parameters": held.config.size_bytes // 2,
        "rank": RANK, "rounds": ROUNDS, "limit_s": limit_s, "slower": SLOWER,
    }  # fmt: skip
    today = datetime.date.today().isoformat()
    return Result("step", today, found, machine, settings=settings)


@pytest.fixture(scope="module")
def rows(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Everything once."""
    size = of_blocks(os.environ.get("FUSEQUANT_BENCH_BLOCKS", "2,3"))
    held = of_blocks(os.environ.get("FUSEQUANT_BENCH_MEMORY_BLOCKS", "2,3"))
    limit_s = float(os.environ.get("FUSEQUANT_BENCH_SECONDS", "1800"))
    result = measured(comfy, tmp_path_factory.mktemp("bench-step"), size, held, limit_s)
    write_result(RESULTS, result)
    return result.rows


def one(rows: Rows, what: str, contender: str) -> Mapping[str, Any]:
    """The first row of a contender."""
    return next(row for row in rows if (row["what"], row["contender"]) == (what, contender))


def as_right_as_said(rows: Rows) -> None:
    """Every contender that ran gave fp32's prediction within its bound, on layers that are ours."""
    for row in rows:
        if row["what"] != "step" or "why_not" in row:
            continue
        assert row["error"] <= row["bound"], row
        assert bool(row["products"]) == row["ours"], row
        if "error_without_lora" in row:
            assert row["error"] < 0.9 * row["error_without_lora"], row


def test_every_way_gives_the_same_prediction(rows: Rows) -> None:
    as_right_as_said(rows)


def test_int8_is_faster_than_bf16(rows: Rows) -> None:
    assert one(rows, "step", "int8, SDPA")["over_bf16_sdpa"] <= 0.65


def test_int8_is_faster_without_a_compiler_too(rows: Rows) -> None:
    plain = one(rows, "step", "int8, SDPA, nothing compiled")
    if "why_not" in plain:
        pytest.skip(plain["why_not"])
    assert plain["over_bf16_sdpa"] <= 0.85


@pytest.mark.parametrize("scheme", ["fp8", "fp8_row"])
def test_fp8_costs_little_beside_bf16(rows: Rows, scheme: str) -> None:
    assert one(rows, "step", f"{scheme}, SDPA")["over_bf16_sdpa"] <= 1.2


@pytest.mark.parametrize(("way", "most"), [("Live", 1.10), ("fused", 1.03)])
def test_a_lora_costs_little_in_a_step(rows: Rows, way: str, most: float) -> None:
    assert one(rows, "step", f"int8, SDPA, {way} LoRA")["over_int8"] <= most


def test_a_strength_of_live_lora_is_there_at_once(rows: Rows) -> None:
    for scheme in ("int8", "fp8"):
        live = one(rows, "lora", f"{scheme}, Live LoRA")
        assert min(live["change_s"], live["again_s"]) < 0.1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="private memory from /proc")
def test_int8_is_held_in_little_memory(rows: Rows) -> None:
    held = [row for row in rows if (row["what"], row["contender"]) == ("memory", "int8")]
    assert [row["peak_bytes"] for row in held if row["peak_bytes"] > MEMORY_GOAL] == []
