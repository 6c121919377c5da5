"""Which scheme runs where: the table row by row, `auto` beside it, the README made from it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from fusequant.engine.auto import auto_scheme
from fusequant.engine.devices import AUTO, CUDA, DEVICES, check, device_class, rule, rules, table
from fusequant.engine.errors import Refused
from fusequant.engine.scheme_names import resolve, schemes

ROOT = Path(__file__).resolve().parents[2]
N, E, R = "native", "emulated", "refused"

# scheme: sm_70, 75, 80, 86, 89, 90, 100, 120, rocm, xpu, mps, cpu
EXPECTED = {
    "fp8": (E, E, E, E, N, N, N, N, E, E, R, E),
    "fp8_e5m2": (E, E, E, E, E, E, E, E, E, E, R, E),
    "fp8_row": (E, E, E, E, N, N, N, N, E, E, R, E),
    "fp8_block128": (E, E, E, E, E, N, E, E, E, E, R, E),
    "int8": (E, N, N, N, N, N, N, N, N, E, E, N),
    "int8_convrot": (E, N, N, N, N, N, N, N, N, E, E, N),
    "int8_weight_only": (E, E, E, E, E, E, E, E, E, E, E, E),
    "int4_g128": (E, E, E, E, E, E, E, E, E, E, R, E),
    "mxfp8": (E, E, E, E, E, E, N, N, E, E, R, E),
    "nvfp4": (E, E, E, E, E, E, N, N, E, E, R, E),
    "w4a4_convrot": (E, N, N, N, N, N, N, N, E, E, R, E),
    "w4a8": (E, E, N, N, N, N, N, N, E, E, R, E),
    "none": (N, N, N, N, N, N, N, N, N, N, N, N),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scheme", EXPECTED)
def test_each_scheme_on_each_device(scheme: str, device: str) -> None:
    found = rule(scheme, device)
    assert (found.scheme, found.device) == (scheme, device)
    assert found.support == EXPECTED[scheme][DEVICES.index(device)]
    assert found.why


def test_every_scheme_that_there_is_has_a_rule_everywhere() -> None:
    assert set(rules()) == {(scheme, device) for scheme in schemes() for device in DEVICES}


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("cuda", (6, 1), "sm_70"),
        ("cuda", (7, 0), "sm_70"),
        ("cuda:1", (7, 5), "sm_75"),
        ("cuda", (8, 7), "sm_86"),
        ("cuda", (8, 9), "sm_89"),
        ("cuda", (9, 0), "sm_90"),
        ("cuda", (10, 3), "sm_100"),
        ("cuda", (12, 1), "sm_120"),
        ("cuda", None, "sm_70"),
        ("mps", None, "mps"),
        ("xpu:0", None, "xpu"),
        ("cpu", None, "cpu"),
        ("privateuseone", None, "cpu"),
    ],
)
def test_a_device_belongs_to_the_newest_class_that_it_reaches(
    kind: str, capability: tuple[int, int] | None, expected: str
) -> None:
    assert device_class(kind, capability) == expected


def test_a_torch_for_rocm_calls_its_devices_cuda() -> None:
    assert device_class("cuda", (11, 0), hip=True) == "rocm"


@pytest.mark.parametrize("device", DEVICES)
def test_auto_picks_what_the_device_does_not_refuse(device: str) -> None:
    scheme = AUTO[device][0]
    assert check(scheme, device).support != R
    others = [name for name in ("int8", "int8_convrot") if rule(name, device).support == N]
    assert (rule(scheme, device).support == N) == bool(others)


def test_every_scheme_has_rows_of_its_own() -> None:
    assert set(EXPECTED) == set(schemes())


def test_auto_is_int8_on_tensor_cores_and_cpus() -> None:
    cuda = {device: AUTO[device][0] for device in CUDA}
    assert cuda.pop("sm_70") == "int8_weight_only"
    assert set(cuda.values()) == {"int8_convrot"}
    assert auto_scheme("cuda", (8, 6))[0] == "int8_convrot"
    assert auto_scheme("mps")[0] == "int8_weight_only"
    assert auto_scheme("cpu")[0] == "int8"


@pytest.mark.parametrize("device", DEVICES)
def test_8_bit_runs_everywhere(device: str) -> None:
    assert check(resolve("8-bit")[0], device).support == E


def test_4_bit_on_mps_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(Refused, match="4-bit is not supported on this device: use 8-bit") as info:
        check("int4_g128", "mps")
    assert info.value.kind == "scheme-not-on-device"
    assert "int8_weight_only" in info.value.expected


@pytest.mark.parametrize(
    "scheme",
    [*(name for name in EXPECTED if name.startswith("fp8")), "mxfp8", "nvfp4", "w4a8"],
)
def test_no_fp8_on_mps(scheme: str) -> None:
    with pytest.raises(Refused, match="no fp8 tensor can be on this device"):
        check(scheme, "mps")


def test_an_unknown_scheme_or_device_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="int3 on cpu"):
        rule("int3", "cpu")
    with pytest.raises(Refused, match="int8 on sm_42"):
        rule("int8", "sm_42")


def test_the_rules_need_no_torch() -> None:
    code = "import sys; from fusequant.engine import devices; devices.table(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_table_of_the_readme_is_this_one() -> None:
    spec = importlib.util.spec_from_file_location(
        "make_readme", ROOT / "benchmarks" / "make_readme.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert module.filled(readme) == readme, "run benchmarks/make_readme.py"
    assert table() in readme
