"""The answer of an advice as JSON in, a page for a reader out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..measure.table import text_table
from .find_card import GIB

Answer = Mapping[str, Any]
WIDTH = 100


def page(machine: Answer, goal: str, models: Sequence[Answer]) -> str:
    """The machine, then one job in full or a line for each public model."""
    lines = [machine_line(machine), f"goal: {goal}; sizes and times are predicted"]
    if len(models) == 1 and "setups" in models[0]:
        return "\n".join([*lines, *_one(models[0])])
    head = ("model", "mode", "scheme", "VRAM", "RAM", "s/step")
    table = text_table(head, [_row(model) for model in models])
    return "\n".join([*lines, table, "name one model for the reasons"])


def machine_line(machine: Answer) -> str:
    """One line: device, memory, torch, and whether it was read or named."""
    facts = [f"{machine['gpu']} ({machine['device']})"]
    if machine["vram_bytes"]:
        facts.append(f"{machine['vram_bytes'] / GIB:.0f} GB")
    if not machine["unified"]:
        ram = machine["ram_bytes"]
        facts.append(f"{ram / GIB:.0f} GB RAM" if ram else "RAM not said")
    if machine["torch"]:
        facts.append(f"torch {machine['torch']}")
    if machine["driver"]:
        facts.append(f"driver {machine['driver']}")
    return ", ".join([*facts, machine["source"]])


def _row(model: Answer) -> tuple[str, ...]:
    if "error" in model:
        return (model["model"], f"does not fit: {model['error']['fix']}", "", "", "", "")
    best = model["setups"][0]
    mode = best["mode_title"] + (", RAM or disk is short" if best["short"] else "")
    return (model["model"], mode, best["scheme"], *_figures(best))


def _figures(setup: Answer) -> tuple[str, str, str]:
    needs, seconds = setup["needs"], setup["seconds"]
    return (
        f"{needs['vram_bytes'] / GIB:.1f} GiB",
        f"{needs['ram_bytes'] / GIB:.1f} GiB",
        f"{seconds['step_s']:.2f}" if seconds else "not known",
    )


def _one(model: Answer) -> list[str]:
    best, *others = model["setups"]
    lines = ["", f"{model['title']}: {best['mode_title']}"]
    lines += [f"  {name:<12}  {value}" for name, value in _settings(best)]
    lines += ["", "because"]
    for reason in best["reasons"]:
        lines += _wrapped(reason)
    if others:
        head = ("otherwise", "mode", "VRAM", "RAM", "s/step", "why not first")
        rows = [(x["scheme"], x["mode_title"], *_figures(x), x["why_not_first"]) for x in others]
        lines += ["", text_table(head, rows)]
    lines += [f"{row['scheme']} cannot run: {row['why']}" for row in model["impossible"]]
    return lines


def _wrapped(reason: str) -> list[str]:
    return textwrap.wrap(
        reason, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
    )


def _settings(best: Answer) -> list[tuple[str, str]]:
    needs = best["needs"]
    vram, ram, step = _figures(best)
    mode = best["mode"]
    mode += f", limit {best['limit_bytes'] / GIB:.1f} GiB" if best["limit_bytes"] else ""
    mode += f", buffer {best['buffer_bytes'] / GIB:.1f} GiB" if best["buffer_bytes"] else ""
    attention, compiled = best["attention"] or "as it is", "on" if best["compile"] else "off"
    return [
        ("scheme", f"{best['scheme']}, file of {needs['file_bytes'] / 1e9:.2f} GB"),
        ("backend", best["backend"] or "auto"),
        ("LoRAs", best["loras"]),
        ("VRAM Manager", mode),
        ("text encoder", f"{best['text_scheme']}, device {best['text_device']}"),
        ("VAE", best["vae_dtype"]),
        ("speed", f"attention {attention}, compile {compiled}"),
        ("memory", f"{vram} of VRAM, {ram} of RAM"),
        ("new files", f"{needs['disk_bytes'] / 1e9:.1f} GB"),
        ("time", f"{step} seconds a step"),
    ]
