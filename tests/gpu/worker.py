"""A list of groups in, one JSON line for each case out: ComfyUI in this process, a model at a time.

Its main.py is imported, not run: that sets everything up as for a server, dynamic VRAM included.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import Case, Group, groups, title
from .start import HERE, load

log = logging.getLogger(__name__)

Line = Callable[[dict[str, Any]], None]
SMALL_SIZES = HERE.parent / "live" / "small_sizes"
BROKEN_CONTEXT = ("CUDA error", "device-side assert", "illegal memory access")
TRACE_LINES = 6


@dataclass(frozen=True)
class Job:
    """What the driver asks of one process; `groups` maps names to (titles of cases, time's end)."""

    comfy: str
    base: str
    lines: str
    tiny: bool
    cpu: bool
    dynamic: bool
    groups: dict[str, tuple[list[str], float]]


class Unusable(Exception):  # noqa: N818 - the driver starts another process
    """The device cannot be used by this process any more."""


def start(job: Job) -> None:
    """Import ComfyUI as its own start does, with no custom node and a folder of its own."""
    flags = ["--disable-all-custom-nodes", "--disable-api-nodes", "--base-directory", job.base]
    flags += ["--cpu"] if job.cpu else []
    flags += [] if job.dynamic or job.cpu else ["--disable-dynamic-vram"]
    sys.argv = ["main.py", *flags]
    sys.path.insert(0, job.comfy)
    import comfy.options

    comfy.options.enable_args_parsing()
    import cuda_malloc  # noqa: F401  chooses torch's allocator
    import main  # noqa: F401

    if job.tiny:
        load("small_sizes", SMALL_SIZES / "__init__.py", SMALL_SIZES)
        import small_sizes.replaced  # noqa: F401


def main(arguments: list[str]) -> int:
    """The file of a job -> 0 when every case has its line, 3 when the device became unusable."""
    job = Job(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    with Path(job.lines).open("a", encoding="utf-8") as out:

        def line(facts: dict[str, Any]) -> None:
            out.write(json.dumps(facts) + "\n")
            out.flush()

        line({"event": "starting"})
        start(job)
        line({"event": "started"})
        import torch

        try:
            with torch.inference_mode():  # as ComfyUI's executor does
                for group in groups(job.tiny):
                    if group.name in job.groups:
                        run_group(group, *job.groups[group.name], line)
        except Unusable:
            return 3
    return 0


def run_group(group: Group, wanted: list[str], until: float, line: Line) -> None:
    """Build the group's model and ask each wanted case; time that is up skips the rest."""
    from . import card, checks, models

    cases = [case for case in group.cases if title(group, case) in wanted]
    reason = _no_room(group)
    if reason is None and time.time() + group.build_s > until:
        reason = _late(until, group.build_s)
    if reason is not None:
        for case in cases:
            line({"case": title(group, case), "status": "skipped", "why": reason})
        return
    name = f"{group.name}: build"
    line({"event": "asking", "case": name, "limit_s": 4 * group.build_s})
    build = models.Build(group.model, "auto" if group.quantized else None)
    made: list[Any] = []
    line(answer(name, lambda: built(models, build, made)))
    if not made:
        for case in cases:
            line({"case": title(group, case), "status": "failed", "why": "no model to ask it on"})
        return
    bench = checks.Bench(group.model, made.pop())
    for case in cases:
        ask(group, case, bench, until, line)
        card.empty()


def built(models: Any, build: Any, made: list[Any]) -> dict[str, Any]:
    """Build into `made` -> its facts."""
    patcher = models.build(build)
    made.append(patcher)
    held = models.weight_bytes(patcher)
    kind = {"patcher": type(patcher).__name__, "device": str(patcher.load_device)}
    return {"weight_bytes": sum(held.values()), "model": build.model.name, **kind}


def ask(group: Group, case: Case, bench: Any, until: float, line: Line) -> None:
    """One case -> its line."""
    from .checks import CHECKS

    name = title(group, case)
    if time.time() + case.expects_s > until:
        line({"case": name, "status": "skipped", "why": _late(until, case.expects_s)})
        return
    line({"event": "asking", "case": name, "limit_s": case.limit_s})
    found = answer(name, lambda: CHECKS[case.check](bench, case))
    line({**found, "model": group.model.name, "cap_gb": case.cap_gb})
    if found["status"] == "failed" and any(word in found["why"] for word in BROKEN_CONTEXT):
        raise Unusable


def answer(name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run one question -> its line: ok with facts, skipped or failed with a reason."""
    from .checks import Skipped, Wrong

    log.info("asking %s", name)
    started = time.perf_counter()
    try:
        facts = {"status": "ok", **run()}
    except Skipped as skipped:
        facts = {"status": "skipped", "why": str(skipped)}
    except Wrong as wrong:
        facts = {"status": "failed", "why": str(wrong)}
    except Exception as error:  # noqa: BLE001  any error is this case's answer, not the end
        trace = traceback.format_exc().splitlines()[-TRACE_LINES:]
        facts = {"status": "failed", "why": f"{type(error).__name__}: {error}"[:500],
                 "trace": trace}  # fmt: skip
    return {"case": name, **facts, "seconds": round(time.perf_counter() - started, 2)}


def _late(until: float, needs_s: float) -> str:
    return f"time: {max(0.0, until - time.time()):.0f} s left, it takes about {needs_s:.0f} s"


def _no_room(group: Group) -> str | None:
    """Why this machine has not the RAM for the group's model, or None. Its weights rest there."""
    import psutil

    from .models import header

    numbers = sum(tensor.elements for tensor in header(group.model).tensors.values())
    needs = 1.1 * numbers * (1.1 if group.quantized else 3.2)
    free = psutil.virtual_memory().available
    if free > needs:
        return None
    return f"{free / 1e9:.0f} GB of RAM are free, the model needs {needs / 1e9:.0f}"
