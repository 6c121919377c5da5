"""Trials that kernels stand on a card before they are trusted, with kernels as cards have them."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch

from fusequant.kernels.backends import _reference_fused, _trial, reference

Tensor = torch.Tensor
CPU = torch.device("cpu")


def by_reciprocal(x: Tensor, dtype: torch.dtype, group_size: int, *more: Any) -> tuple[Tensor, ...]:
    """int8 and e4m3 as torch divides on a card: a product with 1 / 127 or 1 / 448."""
    runs = x.float().reshape(-1, group_size or x.shape[1])
    top = 127.0 if dtype == torch.int8 else 448.0
    scale = runs.abs().amax(1, keepdim=True) * (torch.ones(()) / top)
    values = (runs / scale).clamp(-top, top)
    codes = (values.round() if dtype == torch.int8 else values).to(dtype)
    return codes.reshape(x.shape), scale.reshape(x.shape[0], -1)


def test_a_scale_s_last_bit_is_no_fault_of_a_quantizer() -> None:
    x = torch.randn(64, 256)
    right = _reference_fused.quantize_activations(x, torch.int8, 0, "none", None, None, 0.0)
    assert not torch.equal(by_reciprocal(x, torch.int8, 0)[1], right[1])
    assert _trial.quantizer_refusal(by_reciprocal, CPU) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("share", (1.0, 0.05))
def test_codes_that_are_off_by_one_are(share: float) -> None:
    def run(*call: Any) -> tuple[Tensor, Tensor]:
        codes, scale = _reference_fused.quantize_activations(*call)
        wrong = torch.arange(codes.numel()).view(codes.shape) % round(1 / share) == 0
        return torch.where(wrong, -codes.float(), codes.float()).to(codes.dtype), scale

    found = _trial.quantizer_refusal(run, CPU)
    assert found == "gave wrong trial rows of torch.int8"


@pytest.mark.parametrize("dtype", (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2), ids=str)
def test_every_code_is_widened_in_a_trial(dtype: torch.dtype) -> None:
    def flushed(codes: Tensor, scale: Tensor) -> Tensor:
        """A card that takes the smallest numbers for zero."""
        values = codes.float()
        return torch.where(values.abs() < 2.0**-6, 0.0, values) * scale

    assert _trial.dequantizer_refusal(reference.dequantize_fp8, dtype, CPU) is None
    found = _trial.dequantizer_refusal(flushed, dtype, CPU)
    assert (found is None) == (dtype == torch.int8)


@pytest.mark.parametrize(
    "fault", (subprocess.CalledProcessError(1, "gcc"), FileNotFoundError("ptxas")), ids=repr
)
def test_a_compiler_that_fails_is_a_refusal(fault: Exception) -> None:
    def run(*call: Any, **named: Any) -> Any:
        raise fault

    for found in (
        _trial.refusal("int8_linear", run, 0.01, CPU),
        _trial.quantizer_refusal(run, CPU),
        _trial.dequantizer_refusal(run, torch.int8, CPU),
    ):
        assert found is not None and type(fault).__name__ in found


def test_a_full_card_is_told_and_not_remembered() -> None:
    left = [torch.cuda.OutOfMemoryError("full")]

    def run(**call: Any) -> Tensor:
        if left:
            raise left.pop()
        return reference.int8_linear(**call)

    with pytest.raises(torch.cuda.OutOfMemoryError):
        _trial.refusal("int8_linear", run, 0.01, CPU)
    assert _trial.refusal("int8_linear", run, 0.01, CPU) is None


@pytest.mark.parametrize("op", _trial._CASES)
def test_the_reference_stands_every_trial(op: str) -> None:
    assert _trial.refusal(op, _trial._CASES[op][1], 0.001, CPU) is None
