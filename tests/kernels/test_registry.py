"""Who takes a call: order, a forced backend, refusals that say why, and a missing package."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch

from fusequant.kernels import ops, registry
from fusequant.kernels.constraints import (
    Capability,
    CpuUnits,
    Dtypes,
    MultipleOf,
    On,
    OneNumber,
    Probe,
)
from fusequant.kernels.registry import NoBackend, choose, describe_backends, use_backend

WEIGHT = torch.ones(128, 256)


def test_the_fast_path_is_chosen_and_the_reference_takes_the_rest() -> None:
    fast = choose("quantize_int8", {"weight": WEIGHT})
    rest = choose("quantize_int8", {"weight": WEIGHT.double()})
    assert fast.run.__module__.endswith("torch_native")
    assert rest.run.__module__.endswith("reference")


def test_a_forced_backend_runs_or_says_why_not() -> None:
    with use_backend("reference"):
        assert choose("quantize_int8", {"weight": WEIGHT}).run.__module__.endswith("reference")
        with use_backend(None):
            again = choose("quantize_int8", {"weight": WEIGHT})
    assert again.run.__module__.endswith("torch_native")
    with use_backend("torch_native"), pytest.raises(NoBackend) as refused:
        ops.quantize_int8(WEIGHT.double())
    assert str(refused.value) == (
        "backend torch_native, which was asked for, cannot run quantize_int8: "
        "weight needs bfloat16 or float16 or float32, this is float64"
    )


def test_several_claims_for_one_op_each_give_their_reason() -> None:
    codes = WEIGHT.to(torch.float8_e4m3fn)
    with use_backend("torch_native"), pytest.raises(NoBackend) as refused:
        ops.fp8_row_linear(torch.ones(2, 256).double(), codes, torch.ones(128))
    assert "x needs sm_89, this is cpu, or x needs bfloat16" in str(refused.value)


def test_an_unknown_backend_names_those_that_exist() -> None:
    with pytest.raises(NoBackend, match=r"sgle.*there are avx2, deepgemm, "):
        use_backend("sgle").__enter__()


def test_when_none_can_take_a_call_all_are_listed() -> None:
    with pytest.raises(NoBackend) as refused:
        registry.run("fold", weight=WEIGHT)
    assert set(refused.value.reasons) == set(registry.backends())
    assert str(refused.value).startswith("no backend can run fold: avx2: has no fold; ")


def test_the_choice_stays_in_its_context() -> None:
    seen: list[str] = []

    def look() -> None:
        claim = choose("quantize_int8", {"weight": WEIGHT})
        seen.append(claim.run.__module__.rpartition(".")[2])

    with use_backend("reference"):
        worker = threading.Thread(target=look)
        worker.start()
        worker.join()
        look()
    assert seen == ["torch_native", "reference"]


def test_the_table_has_every_backend_and_what_it_asks() -> None:
    rows = {row.name: row for row in describe_backends()}
    assert list(rows) == sorted(rows, key=lambda name: registry.backends()[name].order)
    assert rows["reference"].refusal is None
    assert rows["reference"].ops["int8_linear"] == ("",)
    assert rows["torch_native"].ops["int8_linear"][:2] == (
        "x: on cpu, bfloat16 or float16 or float32",
        "x: sm_75, bfloat16 or float16 or float32, a trial product",
    )
    assert all(set(row.ops) <= set(rows["reference"].ops) for row in rows.values())
    assert rows["torchao"].proven == registry.RUN != rows["vllm"].proven


@pytest.mark.parametrize(
    ("constraint", "says"),
    (
        (Dtypes((torch.int8,)), "needs int8, this is float32"),
        (On(("cuda",)), "needs on cuda, this is on cpu"),
        (Capability((8, 9)), "needs sm_89, this is cpu"),
        (MultipleOf(0, 48), "needs dim 0 a multiple of 48, this has 128"),
        (OneNumber(), "needs one number, this has 32768"),
        (
            CpuUnits(("abacus", "slide_rule")),
            "needs on a cpu with abacus or slide_rule, this CPU has none of them",
        ),
        (Probe("a trial", lambda device: f"{device} failed"), "cpu failed"),
    ),
)
def test_a_constraint_says_what_it_needs_and_what_it_got(
    constraint: registry.Constraint, says: str
) -> None:
    assert constraint.check(WEIGHT) == says
    assert constraint.describe()


@pytest.mark.parametrize(
    "constraint",
    (
        Dtypes((torch.float32,)),
        On(("cpu", "cuda")),
        MultipleOf(1, 128),
        Probe("a trial", lambda device: None),
    ),
)
def test_a_constraint_that_holds_says_nothing(constraint: registry.Constraint) -> None:
    assert constraint.check(WEIGHT) is None


BARE = """
import sys
sys.modules["comfy_kitchen"] = None
import torch
from fusequant.kernels import ops, registry
codes, scale = ops.quantize_int8(torch.ones(2, 128))
assert codes.unique().tolist() == [127]
x = torch.ones(3, 128)
assert torch.allclose(ops.int8_linear(x, codes, scale), torch.full((3, 2), 128.0))
print(registry.refusal("kitchen"))
try:
    with registry.use_backend("kitchen"):
        ops.int8_linear(x, codes, scale)
except registry.NoBackend as refused:
    print(refused)
"""


def test_without_comfy_kitchen_everything_runs_and_the_refusal_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    why, forced = done.stdout.splitlines()
    assert why.startswith("comfy-kitchen cannot be imported: ")
    assert forced == (f"backend kitchen, which was asked for, cannot run int8_linear: {why}")


KITCHEN: dict[str, Callable[[torch.Tensor], object]] = {
    "fp8": lambda w: ops.quantize_fp8(w),
    "e5m2": lambda w: ops.quantize_fp8(w, dtype=torch.float8_e5m2),
    "int8": ops.quantize_int8,
}


@pytest.mark.parametrize("name", KITCHEN)
def test_codes_and_scales_are_those_of_comfy_kitchen(name: str) -> None:
    pytest.importorskip("comfy_kitchen")
    weight = torch.randn(300, 512) * torch.logspace(-8, 4, 300)[:, None]
    weight[7] = 0.0
    with use_backend("kitchen"):
        wanted = KITCHEN[name](weight)
    for got, want in zip(KITCHEN[name](weight), wanted, strict=True):  # type: ignore[call-overload]
        assert torch.equal(got.reshape(-1).view(torch.uint8), want.reshape(-1).view(torch.uint8))


def test_row_wise_scaled_mm_is_called_as_torch_wants_it() -> None:
    """Newer torch runs it on a CPU too, far too slowly to claim, but with the same arguments."""
    native = pytest.importorskip("fusequant.kernels.backends.torch_native")
    reason = native.row_scaled_mm_refusal(torch.device("cpu"))
    if reason:
        pytest.skip(reason)
    x, weight = torch.randn(5, 64).bfloat16(), torch.randn(32, 64)
    codes, scale = ops.quantize_fp8_row(weight)
    bias = torch.randn(32).bfloat16()
    with use_backend("reference"):
        want = ops.fp8_row_linear(x, codes, scale, bias).float()
    got = native.fp8_row_linear(x, codes, bias, scale).float()
    assert (got - want).norm() < 0.005 * want.norm()
