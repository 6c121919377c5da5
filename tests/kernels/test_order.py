"""The measured order of backends: whose file counts, classes of rows, files that are no order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fusequant.kernels import cpu, order, registry
from fusequant.kernels.order import Measured
from fusequant.kernels.registry import NoBackend, choose, use_backend

CPU = torch.device("cpu")
CALL = {
    "x": torch.ones(20, 64), "weight": torch.ones(8, 64, dtype=torch.int8), "bias": None,
    "scale": torch.ones(8, 1),
}  # fmt: skip


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own file, which is not there yet; nothing is shipped."""
    path = tmp_path / "config" / "order.json"
    monkeypatch.setenv(order.ENVIRONMENT, str(path))
    monkeypatch.setattr(order, "SHIPPED", tmp_path / "shipped.json")
    order.forget()
    yield path
    monkeypatch.undo()
    order.forget()


def chosen(rows: int = 20) -> str:
    """The module of what the registry takes for an int8 product."""
    call = {**CALL, "x": torch.ones(rows, 64)}
    return choose("int8_linear", call).run.__module__.rpartition(".")[2]


def facts(**orders: dict[str, tuple[str, ...]]) -> Measured:
    return Measured("", "2026-01-02", "a processor", orders)


def test_the_measured_order_comes_before_the_backends_own(mine: Path) -> None:
    usual = chosen()
    assert usual != "reference"
    order.write(
        mine, order.device_class(CPU), facts(int8_linear={"some": ("reference", "torch_native")})
    )
    assert chosen(20) == "reference"
    assert chosen(1) == chosen(600) == usual  # other rows: nothing was measured
    other = choose("quantize_int8", {"weight": torch.ones(20, 4)}).run.__module__
    assert other.endswith("torch_native")
    with use_backend("torch_native"):
        assert chosen() == "torch_native"  # what is forced stays forced


def test_what_cannot_run_is_passed_over_and_a_forced_one_still_refuses(mine: Path) -> None:
    ranked = ("no_such_backend", "onednn", "reference")
    order.write(mine, order.device_class(CPU), facts(int8_linear={"some": ranked}))
    if registry.refusal("onednn"):
        assert chosen() == "reference"
        with use_backend("onednn"), pytest.raises(NoBackend, match="VNNI"):
            chosen()
    else:
        assert chosen() == "onednn"


def test_the_users_file_comes_before_the_shipped_one(mine: Path) -> None:
    machine = order.device_class(CPU)
    shipped = facts(int8_linear={"some": ("kitchen",), "many": ("reference",)})
    order.write(order.SHIPPED, machine, shipped)
    assert order.ranking("int8_linear", CPU, 20) == ("kitchen",)
    order.write(mine, machine, facts(int8_linear={"some": ("reference",)}))
    assert order.ranking("int8_linear", CPU, 20) == ("reference",)
    assert order.ranking("int8_linear", CPU, 5000) == ("reference",)  # measured by us alone
    assert [Path(found.path).name for found in order.measured(machine)] == [
        "order.json", "shipped.json",
    ]  # fmt: skip


def test_writing_keeps_the_other_machines(mine: Path) -> None:
    order.write(mine, "cuda-sm_89", facts(fp8_linear={"many": ("a",)}))
    order.write(mine, "cpu-amx", facts(int8_linear={"many": ("b",)}))
    order.write(mine, "cpu-amx", facts(int8_linear={"few": ("c",)}))
    machines = json.loads(mine.read_text())["machines"]
    assert machines["cuda-sm_89"]["order"] == {"fp8_linear": {"many": ["a"]}}
    assert machines["cpu-amx"]["order"] == {"int8_linear": {"few": ["c"]}}


@pytest.mark.parametrize(
    "content",
    ("", "[]", "{}", '{"version": 2}', '{"version": 1}', '{"version": 1, "machines": 3}',
     '{"version": 1, "machines": {"MACHINE": 3}}',
     '{"version": 1, "machines": {"MACHINE": {"date": "", "hardware": "", "order": [1]}}}'),
)  # fmt: skip
def test_a_file_that_is_no_order_is_told_and_not_used(content: str, mine: Path) -> None:
    usual, machine = chosen(), order.device_class(CPU)
    mine.parent.mkdir()
    mine.write_text(content.replace("MACHINE", machine))
    order.forget()
    assert chosen() == usual
    assert "is not used" in str(order.measured(machine)[0].problem)
    order.write(mine, machine, facts(int8_linear={"some": ("reference",)}))
    assert chosen() == "reference"


def test_rows_and_processors_have_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (1, 16, 17, 512, 513, 10**6)
    assert [order.row_class(count) for count in rows] == [
        "few", "few", "some", "some", "many", "many",
    ]  # fmt: skip
    wanted = {
        "amx_int8": "cpu-amx", "avx512_vnni": "cpu-vnni", "avx_vnni": "cpu-vnni",
        "avx512_f": "cpu-avx512", "avx2": "cpu-avx2",
    }  # fmt: skip
    for unit, name in wanted.items():
        monkeypatch.setattr(cpu, "is_x86", lambda: True)
        monkeypatch.setattr(cpu, "features", lambda unit=unit: frozenset({"avx2", unit}))
        assert order.device_class.__wrapped__(CPU) == name


def test_the_users_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(order.ENVIRONMENT, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert order.user_file() == Path("/somewhere/fusequant/order.json")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert order.user_file() == Path("/local/fusequant/order.json")


def test_the_shipped_file_names_ops_and_backends_that_exist() -> None:
    facts = json.loads(order.SHIPPED.read_text())
    ops = {claim.op for backend in registry.backends().values() for claim in backend.claims}
    for machine in facts["machines"].values():
        assert set(machine["order"]) <= ops
        for classes in machine["order"].values():
            assert set(classes) <= {name for name, _ in order.CLASSES}
            assert all(set(names) <= set(registry.backends()) for names in classes.values())


def test_importing_the_registry_reads_no_file() -> None:
    code = (
        "import pathlib, torch\n"
        "def fail(*a, **k): raise AssertionError\n"
        "pathlib.Path.read_text = fail\n"
        "import fusequant.kernels.registry, fusequant.kernels.ops\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
