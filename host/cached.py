"""A MODEL and what is asked of it in, the quantized MODEL out: from the cache where it is there.

A result that can be made from the source file is written into the cache layer by layer and loaded
from there; the same recipe is a file load from then on. Anything else is quantized in memory.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from ..engine.errors import Refused
from ..engine.model import families
from ..engine.recipe import VERSION, digest_of, header
from ..engine.rounding_names import NEAREST
from ..engine.tensors import torch_dtype
from . import budget, cache, entry, making, model
from .fingerprint import Key, Unnamed, key_of
from .model import asked, owned_clone, quantize_asked, quantizing_device, rebuild
from .origin import file_of
from .paths import cache_folder
from .pristine import Init, Recipe, Request
from .progress import host_progress, tell
from .report import Report, size

log = logging.getLogger(__name__)

AUTO, ON, OFF = "auto", "on", "off"
POLICIES = (AUTO, ON, OFF)
LARGE_BYTES = 2 * 10**9  # of a source file: smaller ones are quantized in the time of a load
LIVE_HINT = (
    "a cached result differs from this one only in LoRA strength: Live LoRA after Quantize Model "
    "changes strengths without quantizing again"
)


def quantize_model(patcher: Any, request: Request) -> tuple[Any, Report]:
    """(new patcher, report), as host.model.quantize_model, with the cache that is asked for."""
    report = Report(f"Quantize Model: {request.scheme}")
    with making.measured(report, quantizing_device(patcher.load_device)):
        made = quantize(patcher, asked(patcher, request, report), report)
    return making.noted(made, report), report


def quantize_clip(clip: Any, request: Request) -> tuple[Any, Report]:
    """(new CLIP, report). Text encoders are made in memory: their files are several, and small."""
    made, report = model.quantize_clip(clip, request)
    if request.cache == ON:
        report.notes.append("not cached: text encoders are quantized in memory")
    return made, report


def quantize(patcher: Any, recipe: Recipe, report: Report) -> Any:
    """The new patcher that `recipe` describes, from its file in the cache or made in memory."""
    policy = recipe.request.cache
    if policy != OFF:
        try:
            return _from_cache(patcher, recipe, report)
        except (entry.NotCached, Unnamed) as why:
            if policy == ON or not isinstance(why, _Small):
                report.notes.append(f"not cached: {why}")
    return quantize_asked(patcher, recipe, report)


class _Small(entry.NotCached):
    """Too small to be worth a file."""


def _from_cache(patcher: Any, recipe: Recipe, report: Report) -> Any:
    """The model from its entry, which is written first where there is none."""
    started = time.perf_counter()
    path = file_of(recipe.init)
    if path is None:
        raise entry.NotCached("the model comes from no single file that is read as it is")
    if recipe.request.cache == AUTO and _source_bytes(path) < LARGE_BYTES:
        raise _Small(f"a source below {LARGE_BYTES / 1e9:.0f} GB is quantized in memory")
    key, folder = key_of(path, recipe.request, recipe.patches), cache_folder()
    found = cache.find(folder, key)
    if found is None:
        recipe = budget.settled(recipe, patcher, quantizing_device(patcher.load_device), report)
        found = _make(patcher, path, recipe, key, folder, report)
    else:
        report.notes.append(f"from the cache, {size(found.path.stat().st_size)}: {found.path}")
    made = _load(patcher, recipe, found, report)
    report.seconds = time.perf_counter() - started
    return made


def _source_bytes(path: str) -> int:
    where = Path(path)
    files = where.rglob("*") if where.is_dir() else [where]
    return sum(file.stat().st_size for file in files if file.is_file())


def _make(
    patcher: Any, path: str, recipe: Recipe, key: Key, folder: Path, report: Report
) -> cache.Entry:
    """Write the entry of a key. Raises NotCached where it cannot be written."""
    if cache.kin(folder, key):
        report.notes.append(LIVE_HINT)
    device = quantizing_device(patcher.load_device)
    target = folder / key.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with entry.drafted(patcher, path, recipe, device) as plain:
            draft = _with_header(plain, recipe, key)
            will = f"will write {draft.prepared.plan.bytes / 1e9:.2f} GB into {folder}"
            if not cache.make_room(folder, draft.prepared.plan.bytes):
                raise entry.NotCached(
                    f"the result takes {draft.prepared.plan.bytes / 1e9:.2f} GB, the cache may "
                    f"take {cache.limit_bytes(folder) / 1e9:.2f} GB"
                )
            log.info("%s: %s", report.title, will)
            tell(will)
            report.predicted = {making.RAM: entry.peak_bytes(draft)}
            entry.write(draft, target, host_progress())
        report.notes.append(f"{will}: written to {target.name}")
        return cache.read(target)
    except OSError as fault:
        raise entry.NotCached(f"{folder} cannot be written: {fault}") from fault
    except Refused as refused:
        if recipe.request.on_failure == "refuse":
            raise
        raise entry.NotCached(str(refused)) from refused


def _with_header(draft: entry.Draft, recipe: Recipe, key: Key) -> entry.Draft:
    """The draft with its recipe and its facts in the header."""
    facts = _facts(draft) | {"told": recipe.told}
    metadata = header(draft.prepared.source, json.dumps(described(recipe, key)))
    return entry.with_metadata(draft, metadata | {cache.FACTS: json.dumps(facts)})


def _facts(draft: entry.Draft) -> dict[str, Any]:
    """What a report tells of a file, so that it can be told again when the file is used."""
    prepared, counted = draft.prepared, Counter[str]()
    before, after, kept = 0, 0, dict[str, list[str]]()
    for output in prepared.outputs:
        choice = output.choice
        if output.as_stored:
            why = f"stored as {choice.scheme} already, its codes are not touched"
            kept.setdefault(why, []).append(choice.layer.name)
        elif choice.scheme != "none":
            counted[choice.scheme] += 1
            names = {name for part in choice.layer.parts for name in part.tensors.values()}
            before += sum(prepared.source.tensors[name].size_bytes for name in names)
            after += sum(spec.size_bytes for spec in output.tensors.values())
        elif choice.layer.is_matrix:
            kept.setdefault(choice.why, []).append(choice.layer.name)
    fused = {key.removesuffix(".bias").removesuffix(".weight") for key in draft.patches}
    return {
        "consumed": draft.consumed, "fused": len(fused), "dtype": draft.dtype,
        "family": families()[prepared.plan.family].title, "schemes": counted,
        "before": before, "after": after, "kept": kept, "warnings": prepared.plan.warnings,
    }  # fmt: skip


def described(recipe: Recipe, key: Key) -> dict[str, object]:
    """A recipe for the header of a file: what its content depends on."""
    strengths = sorted({float(patch[0]) for found in recipe.patches.values() for patch in found})
    return {
        "version": VERSION,
        "source": key.source,
        "scheme": recipe.request.scheme,
        "patches": {"content": key.patches, "strengths": strengths} if recipe.patches else {},
        "keep": list(recipe.request.keep),
        **_more(recipe.request),
    }


def _more(request: Request) -> dict[str, object]:
    """What few ask for."""
    facts: dict[str, object] = {}
    if request.max_bytes is not None:
        facts |= {"max_bytes": request.max_bytes, "candidates": list(request.candidates)}
    if request.rounding != NEAREST:
        facts["rounding"] = request.rounding
    calibration = digest_of(request.inputs, request.input_scales)
    return facts | ({"calibration": calibration} if calibration else {})


def _load(patcher: Any, recipe: Recipe, found: cache.Entry, report: Report) -> Any:
    """A clone of `patcher` that holds the model of an entry."""
    facts = found.facts
    loading = entry.Loading(
        str(found.path), recipe.compute_dtype, entry.held_dtype(patcher, facts["dtype"]),
        recipe.request.backend,
    )  # fmt: skip
    report.predicted = report.predicted or making.mapped(patcher.load_device)
    own = entry.load(loading)
    report.family, report.baseline = facts["family"], str(torch_dtype(facts["dtype"]))[6:]
    report.schemes.update(facts["schemes"])
    report.bytes_before, report.bytes_after = facts["before"], facts["after"]
    report.fused = facts["fused"]
    for why, names in facts["kept"].items():
        for name in names:
            report.keep(name, why)
    for warning in facts["warnings"]:
        report.warn(warning)
    report.notes += [line for line in facts.get("told", ()) if line not in report.notes]
    again = partial(_reusing, loading)
    return owned_clone(patcher, own, recipe, facts["consumed"], report, again)


def _reusing(loading: entry.Loading, recipe: Recipe) -> Init:
    return (reuse, (recipe, loading))


def reuse(recipe: Recipe, loading: entry.Loading, disable_dynamic: bool = False) -> Any:
    """The factory of a cached model: its file again, or its recipe where the file is gone."""
    try:
        cache.read(Path(loading.path))
        fresh = entry.load(loading, disable_dynamic)
    except (Refused, OSError, entry.NotCached) as fault:
        log.info("%s is not in the cache any more, quantized again: %s", loading.path, fault)
        return rebuild(recipe, disable_dynamic)
    fresh.cached_patcher_init = _reusing(loading, recipe)
    return fresh
