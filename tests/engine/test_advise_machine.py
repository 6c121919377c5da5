"""The machine: read or named, what limits it, and what stands in its way, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusequant.engine.advise import machine as machines
from fusequant.engine.advise.blockers import BLOCKERS, blockers
from fusequant.engine.advise.find_card import GIB
from fusequant.engine.advise.machine import (
    Accelerator,
    Machine,
    Software,
    device_of_result,
    machine_of,
    torch_build,
    version_of,
)
from fusequant.engine.errors import Refused


def test_a_named_gpu_is_another_machine_of_which_nothing_else_is_known() -> None:
    found = machine_of("RTX 3080")
    assert (found.device, found.vram_bytes) == ("sm_86", 10 * GIB)
    assert found.ram_bytes is None and found.disk_bytes is None and found.named
    assert found.software == Software()
    assert machine_of("RTX 3080", 12, 32).ram_bytes == 32 * GIB


def test_a_mac_has_one_memory() -> None:
    found = machine_of("M2", 24)
    assert found.unified and not found.discrete
    assert found.vram_bytes == found.ram_bytes == 24 * GIB
    assert machine_of("M2", ram_gb=24).vram_bytes == 24 * GIB


def test_no_gpu_can_be_named() -> None:
    found = machine_of("cpu", ram_gb=64)
    assert (found.device, found.vram_bytes, found.ram_bytes) == ("cpu", 0, 64 * GIB)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    build = {"__version__": "2.13.0+cpu", "cuda": None, "hip": None}
    monkeypatch.setattr(machines, "torch_build", lambda: build)


@pytest.mark.usefixtures("without")
def test_this_machine_without_a_gpu() -> None:
    found = machine_of(ram_gb=16)
    assert found.device == "cpu" and not found.named and not found.listed
    assert found.disk_bytes is not None and found.disk_bytes > 0
    with pytest.raises(Refused, match="vram-without-gpu"):
        machine_of(vram_gb=8)


@pytest.fixture
def with_card(monkeypatch: pytest.MonkeyPatch) -> None:
    build = {"__version__": "2.9.0+cu128", "cuda": "12.8", "hip": None}
    found = Accelerator("NVIDIA GeForce RTX 4090", "sm_89", 24 * GIB - 7, "570.124.06")
    monkeypatch.setattr(machines, "torch_build", lambda: build)
    monkeypatch.setattr(machines, "_accelerator", lambda: found)
    monkeypatch.setattr(machines, "_kitchen", lambda: {"cuda": None, "triton": "switched off"})


@pytest.mark.usefixtures("with_card")
def test_this_machine_with_a_card_of_the_table() -> None:
    found = machine_of()
    assert found.card.name == "RTX 4090" and found.listed
    assert found.vram_bytes == 24 * GIB - 7
    assert machine_of(vram_gb=12).vram_bytes == 12 * GIB
    assert found.software.cuda == (12, 8) and found.software.driver == "570.124.06"
    assert machine_of(cpu=True).device == "cpu"
    told = found.to_json()
    assert told["source"] == "read" and told["cuda"] == "12.8"


def test_a_card_that_is_not_listed_counts_as_a_middling_one(
    monkeypatch: pytest.MonkeyPatch, with_card: None
) -> None:
    laptop = Accelerator("NVIDIA GeForce RTX 4070 Laptop GPU", "sm_89", 8 * GIB)
    monkeypatch.setattr(machines, "_accelerator", lambda: laptop)
    found = machine_of()
    assert not found.listed and found.device == "sm_89"
    assert found.name == "NVIDIA GeForce RTX 4070 Laptop GPU"


def test_the_build_of_torch_is_read_without_importing_it() -> None:
    import torch

    build = torch_build()
    assert build["__version__"] == torch.__version__
    assert build.get("cuda") == torch.version.cuda


@pytest.mark.parametrize(
    ("text", "version"), [("12.8", (12, 8)), ("13.0.1", (13, 0)), (None, None), ("x", None)]
)
def test_versions_are_numbers(text: str | None, version: tuple[int, int] | None) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("gpu", "device"),
    [
        (None, "cpu"),
        ({"capability": "sm_86"}, "sm_86"),
        ({"capability": "sm_120"}, "sm_120"),
        ({"capability": "sm_110", "rocm": "7.0"}, "rocm"),
        ({"capability": "mps"}, "mps"),
    ],
)
def test_a_result_file_says_on_which_class_it_was_measured(gpu: object, device: str) -> None:
    assert device_of_result({"gpu": gpu}) == device


def _with(gpu: str, named: bool = False, **software: object) -> Machine:
    return replace(machine_of(gpu), named=named, software=Software(**software))  # type: ignore[arg-type]


_OFF = "switched off"
_ON, _SWITCHED = {"cuda": _OFF, "triton": None}, {"cuda": _OFF, "triton": _OFF}
OLD_CUDA = "torch is built for CUDA 12.8: comfy-kitchen's CUDA kernels are off"
# blocker: (machine where it speaks, a part of what it says, machine where it does not)
SPEAKS = {
    "torch for the CPU alone": (
        _with("cpu", torch="2.13.0+cpu"), "built for the CPU alone", _with("cpu", torch="2.13.0")
    ),
    "a card too old for this torch": (
        _with("GTX 1080", cuda=(13, 0)), "install the build for CUDA 12.6",
        _with("GTX 1080", cuda=(12, 6)),
    ),
    "a card too new for this torch": (
        _with("RTX 5090", cuda=(12, 6)), "knows no RTX 5090", _with("RTX 5090", cuda=(12, 8))
    ),
    "comfy-kitchen's CUDA kernels": (
        _with("RTX 4090", cuda=(12, 8), triton=True, kitchen=_ON), f"{OLD_CUDA}, and int8 ",
        _with("RTX 4090", cuda=(13, 0), triton=True),
    ),
    "no matrix units": (
        _with("RX 6800 XT", hip=True), "no matrix units", _with("RX 7900 XTX", hip=True)
    ),
    "no Triton": (
        _with("RTX 3090", triton=False), "torch.compile stays off",
        _with("RTX 3090", triton=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", BLOCKERS, ids=lambda row: row.name)
def test_each_blocker_speaks_where_it_should_and_nowhere_else(row: object) -> None:
    where, part, elsewhere = SPEAKS[row.name]  # type: ignore[attr-defined]
    said = row.says(where)  # type: ignore[attr-defined]
    assert said is not None and part in said and said in blockers(where)
    assert row.says(elsewhere) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("gpu", "triton", "kitchen", "left"),
    [
        ("RTX 3090", True, _SWITCHED, "and int8 is multiplied by Triton kernels."),
        ("RTX 3090", True, _ON, "and int8 is multiplied by Triton kernels."),
        (
            "RTX 3090",
            True,
            {"cuda": None, "triton": None},
            "and int8 is multiplied by Triton kernels.",
        ),
        ("RTX 2060", True, {}, "by torch's own product between Triton passes."),
        ("RTX 3090", False, {}, "Triton is not installed, and int8 is multiplied by torch's own "),
        ("RTX 5090", True, _SWITCHED, "16 bits first unless ComfyUI is started with --enable-"),
        ("RTX 5090", True, {"cuda": None, "triton": None}, "--enable-"),  # outside ComfyUI
        ("RTX 5090", True, _ON, "and int8 is multiplied by Triton kernels."),
    ],
)
def test_below_cuda_13_the_sentence_says_who_multiplies(
    gpu: str, triton: bool, kitchen: dict[str, str | None], left: str
) -> None:
    machine = _with(gpu, cuda=(12, 8), triton=triton, kitchen=kitchen)
    (said,) = (one for one in blockers(machine) if "comfy-kitchen" in one)
    assert said.startswith(OLD_CUDA) and left in said


def test_nothing_is_in_the_way_of_a_machine_that_is_only_named() -> None:
    for gpu in ("RTX 3080", "GTX 1080", "RTX 5090", "M4", "cpu"):
        assert blockers(machine_of(gpu)) == ()
