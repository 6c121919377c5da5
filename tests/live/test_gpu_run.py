"""tests/gpu/run reaches its end where there is no GPU, on tiny models, and says what it found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusequant.engine.measure.results import Result, read_result

from .comfy import Comfy

RUN = Path(__file__).resolve().parents[1] / "gpu" / "run"
GROUPS = ("blocks", "flux", "wan", "qwen")


@pytest.fixture(scope="module")
def done(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Result]:
    """Exit code, what was shown, the result file."""
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(RUN), "--comfy", str(comfy.path), "--python", str(comfy.python)]
    ended = subprocess.run(
        [*command, "--tiny", "--out", str(out)], capture_output=True, text=True, timeout=400
    )
    written = list(out.glob("*.json"))
    assert len(written) == 1, ended.stdout + ended.stderr
    return ended.returncode, ended.stdout, read_result(written[0])


def row(result: Result, case: str) -> dict[str, Any]:
    """The row of a case."""
    (found,) = [dict(one) for one in result.rows if one["case"] == case]
    return found


def test_every_case_that_can_run_does(done: tuple[int, str, Result]) -> None:
    code, shown, result = done
    assert [one for one in result.rows if one["status"] == "failed"] == []
    assert code == 0 and " 0 failed" in shown
    assert {str(one["case"]).split(":")[0] for one in result.rows} >= set(GROUPS)


def test_the_result_says_what_it_was_measured_on(done: tuple[int, str, Result]) -> None:
    result = done[2]
    assert result.benchmark == "gpu-run-tiny"
    assert result.hardware["torch"] and result.hardware["cpu"]
    assert result.settings["comfyui"]


def test_a_quantized_model_is_smaller_and_close(done: tuple[int, str, Result]) -> None:
    found = row(done[2], "blocks: quantize auto")
    assert 0 < found["error"] < 0.1
    assert found["weight_bytes"] < 0.5 * found["unquantized_bytes"]


def test_fusing_first_is_not_worse(done: tuple[int, str, Result]) -> None:
    found = row(done[2], "blocks: order")
    assert found["fused_layers"] > 0
    assert found["fused_error"] < 1.1 * found["after_error"]


def test_two_clones_and_an_eviction_leave_the_numbers_as_they_were(
    done: tuple[int, str, Result],
) -> None:
    assert row(done[2], "blocks: clones")["again"] == 0
    assert row(done[2], "blocks: evict")["again"] == 0


def test_without_a_comfyui_it_says_how_to_name_one(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), "--comfy", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "--comfy" in ended.stderr
