"""One question each: a built model in, facts for a result row out; what is wrong raises Wrong.

A check is a function here; cases.py names it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch.utils._triton import has_triton

from fusequant.host.model import quantize_model
from fusequant.host.pristine import Request

from .card import GB, Skipped, cuda_device, empty, of_size, torch_within
from .cases import Case, Model
from .limits import limited, watched
from .models import weight_bytes, with_lora
from .sampling import Run, difference, sample

Facts = dict[str, Any]
# largest relative distance of a latent after two steps from the one of bfloat16
BOUNDS = {"int4_g128": 0.4, "fp8_e5m2": 0.2}
BOUND = 0.1
SAME = 1e-3  # a second run of the same model; kernels may add in another order
COMPILED = 0.05
OVER_LIMIT = 1.05


class Wrong(Exception):  # noqa: N818 - it is an answer, not an error
    """What a case found to be wrong."""


@dataclass
class Bench:
    """A built model; `quantized` is made of it once where the model was built in bfloat16."""

    model: Model
    patcher: Any
    made: dict[str, Any] = field(default_factory=dict)

    def run(self, patcher: Any) -> Run:
        """Two steps; an output that is not finite is wrong."""
        found = sample(patcher, self.model)
        if not bool(torch.isfinite(found.latent).all()):
            raise Wrong("the latent is not finite")
        return found

    def reference(self) -> Run:
        """The run of the model as it was built, made once."""
        if "reference" not in self.made:
            self.made["reference"] = self.run(self.patcher)
        return self.made["reference"]  # type: ignore[no-any-return]

    def quantized(self) -> Any:
        """The model quantized: itself where it was built so, else by Quantize Model."""
        if self.patcher.model.model_config.custom_operations is not None:
            return self.patcher
        if "quantized" not in self.made:
            self.made["quantized"] = quantize_model(self.patcher, Request("auto"))[0]
        return self.made["quantized"]


def auto(bench: Bench, case: Case) -> Facts:
    """As ComfyUI decides by itself on a card of this size."""
    managed, told = watched(bench.patcher)
    with of_size(case.cap_gb):
        found = bench.run(managed)
    return {**found.facts, **told()}


def limit(bench: Bench, case: Case) -> Facts:
    """The same with the limit of our VRAM Manager on the whole card."""
    managed, told = limited(bench.patcher, case.cap_gb or 0.0)
    with torch_within(case.cap_gb):
        found = bench.run(managed)
    facts = {**found.facts, **told()}
    cap = (case.cap_gb or 0.0) * GB
    if cuda_device() and found.peak_bytes and found.peak_bytes > OVER_LIMIT * cap:
        raise Wrong(f"took {found.peak_bytes / GB:.2f} GB with a limit of {case.cap_gb:g} GB")
    return facts


def quantize(bench: Bench, case: Case) -> Facts:
    """Quantize Model on the device, against the run in bfloat16."""
    reference = bench.reference()
    empty()
    started = time.perf_counter()
    made, report = quantize_model(bench.patcher, Request(case.scheme))
    seconds = time.perf_counter() - started
    if not report.quantized:
        raise Wrong("no layer was quantized")
    found = bench.run(made)
    error = difference(found.latent, reference.latent)
    facts = {
        **found.facts, "error": error, "quantize_s": round(seconds, 3), "layers": report.quantized,
        "unquantized_step_s": round(reference.step_s, 4),
        "weight_bytes": sum(weight_bytes(made).values()),
        "unquantized_bytes": sum(weight_bytes(bench.patcher).values()),
    }  # fmt: skip
    if error > BOUNDS.get(case.scheme, BOUND):
        raise Wrong(f"error {error:.3f} of the latent against bfloat16")
    return facts


def lora(bench: Bench, case: Case) -> Facts:
    """A stock LoRA on the quantized model: it has an effect, and goes without a trace."""
    quantized = bench.quantized()
    with of_size(case.cap_gb):
        before = bench.run(quantized)
        patched = bench.run(with_lora(quantized))
        after = bench.run(quantized)
    change = difference(patched.latent, before.latent)
    left = difference(after.latent, before.latent)
    if change < 10 * SAME or left > SAME:
        raise Wrong(f"the LoRA changed the latent by {change:.2g} and left {left:.2g} behind")
    return {**patched.facts, "plain_step_s": round(before.step_s, 4), "change": change}


def order(bench: Bench, case: Case) -> Facts:
    """A LoRA fused before quantizing against the same one put on the quantized model."""
    wanted = bench.run(with_lora(bench.patcher)).latent
    fused, report = quantize_model(with_lora(bench.patcher), Request("auto"))
    late = with_lora(bench.quantized())
    found = bench.run(fused)
    facts = {
        **found.facts, "fused_layers": report.fused,
        "fused_error": difference(found.latent, wanted),
        "after_error": difference(bench.run(late).latent, wanted),
    }  # fmt: skip
    if not report.fused or facts["fused_error"] > BOUND:
        raise Wrong(f"{report.fused} layers fused, error {facts['fused_error']:.3f}")
    return facts


def clones(bench: Bench, case: Case) -> Facts:
    """Two clones with one model between them, in turns: neither leaves anything in the other."""
    plain, patched = bench.quantized().clone(), with_lora(bench.quantized().clone())
    with of_size(case.cap_gb):
        runs = [bench.run(patcher) for patcher in (plain, patched, plain, patched)]
    kept = [difference(runs[i + 2].latent, runs[i].latent) for i in (0, 1)]
    apart = difference(runs[1].latent, runs[0].latent)
    if max(kept) > SAME or apart < 10 * SAME:
        raise Wrong(f"clones differ from their first run by {max(kept):.2g}, apart {apart:.2g}")
    return {**runs[2].facts, "again": max(kept), "apart": apart}


def evict(bench: Bench, case: Case) -> Facts:
    """The model leaves the card and comes back: the memory is free between, the numbers equal."""
    quantized, device = bench.quantized(), cuda_device()
    with of_size(case.cap_gb):
        first = bench.run(quantized)
        loaded = comfy.model_management.get_free_memory(device) if device else 0
        empty()
        freed = comfy.model_management.get_free_memory(device) - loaded if device else None
        kept = quantized.loaded_size() if device else 0
        again = bench.run(quantized)
    apart = difference(again.latent, first.latent)
    if apart > SAME or kept > sum(weight_bytes(quantized).values()) / 10:
        raise Wrong(f"{kept} bytes stayed on the card, the second run differs by {apart:.2g}")
    return {**again.facts, "freed_bytes": freed, "again": apart}


def compile(bench: Bench, case: Case) -> Facts:
    """ComfyUI's own torch.compile on the quantized model, block by block."""
    backend = _compiler()
    plain = bench.run(bench.quantized())
    patcher = bench.quantized().clone(disable_dynamic=True)
    network = patcher.model.diffusion_model
    keys = [
        f"diffusion_model.{blocks}.{index}"
        for blocks in ("double_blocks", "single_blocks")
        for index in range(len(getattr(network, blocks, ())))
    ]
    set_torch_compile_wrapper(patcher, backend, keys=keys)
    started = time.perf_counter()
    first = bench.run(patcher)
    seconds = time.perf_counter() - started
    found = bench.run(patcher)
    error = difference(first.latent, plain.latent)
    if error > COMPILED:
        raise Wrong(f"compiled by {backend} the latent is {error:.3f} away")
    return {
        **found.facts, "plain_step_s": round(plain.step_s, 4), "error": error,
        "compile_s": round(seconds, 2), "backend": backend,
    }  # fmt: skip


def _compiler() -> str:
    """The compiler to ask for: on a CPU one that makes no machine code."""
    if cuda_device() is None:
        return "aot_eager"
    if not has_triton():
        raise Skipped("Triton is not installed or does not know this card")
    if not any(shutil.which(name) for name in (os.environ.get("CC", ""), "cc", "gcc", "clang")):
        raise Skipped("there is no C compiler, which Triton needs")
    return "inductor"


CHECKS: dict[str, Callable[[Bench, Case], Facts]] = {
    run.__name__: run for run in (auto, limit, quantize, lora, order, clones, evict, compile)
}
__all__ = ["CHECKS", "Bench", "Skipped", "Wrong"]
