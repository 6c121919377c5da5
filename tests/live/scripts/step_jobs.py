"""One step of a FLUX-shaped model in ComfyUI on the CPU, by every way to hold its weights.

`steps`: all of them loaded in this process and asked in turns, each compared with fp32 before it is
timed. `memory`: each in a process of its own. A step is what the sampler asks for once: everything
from the noisy latent to what the model predicts.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMPORTED = (
    "comfy.sample", "comfy.sd", "fusequant.host.cached", "fusequant.host.fuse_lora",
    "fusequant.host.live_lora", "fusequant.host.load", "fusequant.host.speed",
)  # fmt: skip


def _models() -> Any:
    path = Path(__file__).with_name("step_models.py")
    spec = importlib.util.spec_from_file_location("step_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["step_models"] = module
    spec.loader.exec_module(module)
    return module


m = _models()


def run(job: str, **options: Any) -> Iterator[dict[str, Any]]:
    """`steps` or `memory` and its options -> a row for each contender."""
    for name in IMPORTED:
        importlib.import_module(name)
    yield from {"steps": steps, "memory": memory}[job](**options)


# --- seconds ---


@dataclass
class Turn:
    """A contender while it is measured."""

    contender: Any
    timed: Any
    row: dict[str, Any]
    samples: list[float] = field(default_factory=list)
    slow: bool = False

    def take(self, given: Any) -> tuple[float, Any]:
        """(seconds, prediction) of a step."""
        with _passes(self.contender.plain):
            return self.timed.step(given)


LEFT = "left as it is for this contender"


@contextlib.contextmanager
def _passes(plain: bool) -> Iterator[None]:
    """Passes over memory compiled at their first call, as after a few steps, or not at all.

    Where nothing is to be compiled the loop for AVX2 is not there either.
    """
    from fusequant.kernels import passes, registry

    if not plain:
        with passes.at_once():
            yield
        return
    modules = [x for name, x in list(sys.modules.items()) if name.startswith("fusequant.kernels.")]
    found = {x for module in modules for x in vars(module).values() if isinstance(x, passes.Pass)}
    before = {one: one.refusal for one in found}
    for one in found:
        one.refusal = LEFT
    asked = registry.refusal
    registry.refusal = lambda name: LEFT if name == "avx2" else asked(name)
    try:
        yield
    finally:
        registry.refusal = asked
        for one, refusal in before.items():
            one.refusal = refusal


def steps(
    files: Mapping[str, str], given: Mapping[str, Any], rounds: int, limit_s: float, slower: float
) -> Iterator[dict[str, Any]]:
    """A row for each contender: seconds of its first step, and of one in each round.

    After the first no round begins that would end later than `limit_s` seconds from now. What is
    `slower` times as slow as fp32 with SHORT is asked for no more; what is as slow as that beside
    ours at its first step is not taken into the rounds.
    """
    import torch

    ended, inputs = time.monotonic() + limit_s, m.Given.of(**given)
    short = m.Given.of(**{**given, **m.SHORT})
    with torch.inference_mode():
        turns, left_out = _first(files, inputs, short, slower)
        asked = [turn for turn in turns if "first_s" in turn.row]
        ours = next(turn.row["first_s"] for turn in asked if turn.contender.name == m.OURS)
        for turn in asked:
            turn.slow = turn.row["first_s"] > slower * ours
        taking = [turn for turn in asked if not turn.slow and not turn.contender.once]
        for number in range(rounds):
            takes = sum((turn.samples or [turn.row["first_s"]])[-1] for turn in taking)
            if number and time.monotonic() + takes > ended:
                break
            start = number % len(taking)
            for turn in taking[start:] + taking[:start]:
                turn.samples.append(turn.take(inputs)[0])
    for turn in turns:
        yield turn.row | {"samples_s": turn.samples, "slow": turn.slow}
    yield from left_out


def _first(
    files: Mapping[str, str], given: Any, short: Any, slower: float
) -> tuple[list[Turn], list[dict[str, Any]]]:
    """Every contender loaded and asked once, its prediction compared; rows of those that cannot."""
    loaded: dict[str, Any] = {}
    predicted: dict[str, Any] = {}
    shorter: dict[str, Any] = {}
    turns: list[Turn] = []
    left_out: list[dict[str, Any]] = []
    # the references first
    for contender in sorted(m.CONTENDERS, key=lambda one: one.reference != one.name):
        row = _facts(contender)
        why_not = _why_not(contender)
        if why_not is not None:
            left_out.append({**row, "why_not": why_not})
            continue
        if contender.model not in loaded:
            began = time.perf_counter()
            loaded[contender.model] = m.MODELS[contender.model](files, loaded)
            row["load_s"] = time.perf_counter() - began
        compute = m.compute_of(contender)
        timed = m.Timed(loaded[contender.model], contender.attention, compute)
        turn = Turn(contender, timed, row)
        if contender.doubtful:
            row |= _asked(turn, short, shorter, "short_s")
            turn.slow = row["short_s"] > slower * turns[0].row["short_s"]
        if not turn.slow:
            row |= _asked(turn, given, predicted, "first_s")
        if contender.probed:
            row["short_s"] = _asked(turn, short, shorter, "short_s")["short_s"]
        if contender.name == m.WITH_LORA:
            loaded.pop(contender.model)  # it was there to be compared with
        else:
            turns.append(turn)
    return turns, left_out


def _asked(turn: Turn, given: Any, predicted: dict[str, Any], what: str) -> dict[str, Any]:
    """Seconds of one step under the name `what`, how far off it is, and what multiplied."""
    from fusequant.engine.measure.errors import relative_error
    from fusequant.kernels.registry import noted

    contender = turn.contender
    with noted() as calls:
        seconds, prediction = turn.take(given)
    reference = predicted.setdefault(contender.reference, prediction)
    row = {"error": relative_error(reference.flatten(1), prediction.flatten(1))}
    if contender.reference == m.WITH_LORA:
        without = predicted[m.BASELINE]
        row["error_without_lora"] = relative_error(without.flatten(1), prediction.flatten(1))
    row["bound"] = m.BOUNDS[contender.scheme]
    return {what: seconds} | row | _ran(contender, turn.timed.patcher, calls)


def _facts(contender: Any) -> dict[str, Any]:
    import torch

    return {
        "contender": contender.name, "scheme": contender.scheme, "ours": contender.ours,
        "attention": contender.attention, "compared_with": contender.reference,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _why_not(contender: Any) -> str | None:
    """Why a contender has nothing to show on this machine."""
    from fusequant.kernels import passes, registry

    if not contender.plain:
        return None
    why = passes.no_compiler() or (registry.refusal("onednn") and registry.refusal("avx2"))
    return f"nothing is compiled here in any case: {why}" if why else None


def _ran(contender: Any, patcher: Any, calls: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What multiplied. Raised: our layers were there and were widened without a word."""
    from fusequant.host.ops import compute_dtype_of

    weights = m.quantized(patcher)
    products = Counter(call for call in calls if call[0].endswith("_linear"))
    widened = [op for op, _ in calls if op.startswith("dequantize")]
    answered = weights and all(hasattr(weight.layout_cls, "linear") for weight in weights)
    enough = sum(products.values()) >= len(weights)
    if contender.ours and (widened or not answered or not enough):
        raise RuntimeError(
            f"{contender.name}: {len(weights)} quantized layers, {dict(products)}, "
            f"{len(widened)} dequantized"
        )
    return {
        "quantized_layers": len(weights),
        "products": {op: count for (op, _), count in products.items()},
        "backends": sorted({backend for _, backend in products}),
        "compute": str(compute_dtype_of(patcher)).removeprefix("torch."),
    }


# --- private memory ---


def memory(files: Mapping[str, str], jobs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each job (`model` of MODELS, `given`) the private memory of a process that makes a step.

    Each is forked from this one, where ComfyUI is imported and torch has not started a thread.
    """
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        yield from pool.imap(_held, [{"files": files, **job} for job in jobs])


def _held(job: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from fusequant.engine.measure.timing import PrivatePeak, private_bytes

    given = job["given"]
    before, mapped = private_bytes(), _file_bytes()
    with torch.inference_mode():
        patcher = m.MODELS[job["model"]](job["files"], {})
        loaded = private_bytes()
        timed = m.Timed(patcher, m.SDPA)
        with PrivatePeak() as peak:
            seconds, _ = timed.step(m.Given.of(**given))
    return {
        "contender": job["model"], "image_tokens": given["latent"][-1] * given["latent"][-2] // 4,
        "text_tokens": given["text"], "before_bytes": before, "loaded_bytes": loaded,
        "peak_bytes": peak.peak_bytes, "step_s": seconds,
        "file_bytes": _file_bytes() - mapped,
    }  # fmt: skip


def _file_bytes() -> int:
    """Pages of mapped files that this process has, which the system may drop; 0 if untold."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))
