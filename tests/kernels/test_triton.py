"""Our Triton kernels: run in the interpreter, a process of its own; refused where none can run."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusequant.kernels import ops, registry
from fusequant.kernels.backends._triton_device import OnTriton
from fusequant.kernels.constraints import Among, AtMost

HERE = Path(__file__).resolve().parent
INTERPRETED = (HERE / "interpreted.py", HERE / "interpreted_kitchen.py")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton has no build for this system"
)
interpreting = os.environ.get("TRITON_INTERPRET") == "1"


@needs_triton
def test_the_kernels_are_right_in_the_interpreter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'inner'}", *map(str, INTERPRETED)],
        cwd=HERE.parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


MISSING = """
import sys
sys.modules["triton"] = None
import torch
from fusequant.kernels import ops, registry
print(registry.refusal("triton"))
ops.quantize_activations(torch.ones(2, 128))
"""


def test_without_triton_the_reason_is_told_and_the_op_runs_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("triton cannot be imported: ")


@needs_triton
@pytest.mark.skipif(interpreting or torch.cuda.is_available(), reason="there is a device")
def test_without_a_gpu_the_backend_says_so_and_imports_nothing() -> None:
    assert registry.refusal("triton") == "no CUDA or HIP device, and TRITON_INTERPRET is not 1"
    with registry.use_backend("triton"), pytest.raises(registry.NoBackend, match="no CUDA or HIP"):
        ops.quantize_int8(torch.ones(2, 128))
    assert not [name for name in sys.modules if name.endswith("triton_kernels.operators")]


class Kernel:
    """A kernel that notes its start, or fails."""

    def __init__(self, fault: Exception | None, told: list[str]) -> None:
        self.fault, self.told = fault, told

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, **constants: Any) -> None:
            self.told.append("start")
            if self.fault:
                raise self.fault

        return run


@needs_triton
def test_a_kernel_starts_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = importlib.import_module("fusequant.kernels.triton_kernels.launch")
    told: list[str] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        told.append(str(device))
        yield
        told.append("back")

    monkeypatch.setattr(torch.cuda, "device", current)
    launch.start(Kernel(None, told), (1,), SimpleNamespace(device=torch.device("cuda:1")))
    assert told == ["cuda:1", "start", "back"]
    launch.start(Kernel(None, told), (1,), torch.ones(1))
    assert told[3:] == ["start"]


@needs_triton
@pytest.mark.parametrize(
    "fault", (subprocess.CalledProcessError(1, "gcc"), FileNotFoundError("ptxas")), ids=repr
)
def test_a_compiler_that_fails_is_a_reason_and_no_crash(fault: Exception) -> None:
    launch = importlib.import_module("fusequant.kernels.triton_kernels.launch")
    with pytest.raises(RuntimeError, match=type(fault).__name__):
        launch.start(Kernel(fault, []), (1,), torch.ones(1))


def test_a_device_is_taken_by_its_capability_or_architecture() -> None:
    rule = OnTriton((8, 9), ("gfx950", "gfx12"))
    assert rule.describe() == "sm_89 or gfx950 or gfx12"
    assert rule.refuses_capability((8, 6)) == "needs sm_89 or gfx950 or gfx12, this is sm_86"
    assert rule.refuses_capability((12, 0)) is None
    assert rule.refuses_arch("gfx1201") is None
    assert rule.refuses_arch("gfx942:sramecc+:xnack-") is not None
    if not interpreting:
        assert rule.check(torch.ones(1)) == "needs sm_89 or gfx950 or gfx12, this is cpu"


def test_settings_and_sizes_are_rules_too() -> None:
    assert Among((32, 64)).check(64) is None
    assert Among((32, 64)).check(48) == "needs 32 or 64, this is 48"
    assert AtMost(1, 4).check(torch.ones(2, 4)) is None
    assert AtMost(1, 4).check(torch.ones(2, 5)) == "needs dim 1 at most 4, this has 5"


@pytest.mark.parametrize(
    ("call", "says"),
    (
        (lambda: ops.quantize_activations(torch.ones(2, 8), before="relu"), "not relu"),
        (lambda: ops.quantize_activations(torch.ones(2, 8), torch.uint8), "int8 or e4m3"),
        (lambda: ops.quantize_activations(torch.ones(2, 8), gain=torch.ones(8)), "of layer_norm"),
        (
            lambda: ops.int8_low_rank_linear(
                torch.ones(2, 8), torch.ones(4, 8, dtype=torch.int8), torch.ones(4),
                torch.ones(3, 8), torch.ones(4, 2),
            ),
            "do not fit",
        ),
    ),
)  # fmt: skip
def test_what_does_not_fit_is_named(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        call()  # type: ignore[operator]
    assert says in str(raised.value)
