"""`fusequant plan`: headers in, what a conversion would write and need out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...engine.plan import Choice, Tried
from ..options import add_conversion, add_source, prepare_from, size_argument
from ..text import (
    budget_lines,
    columns,
    counted_reasons,
    gigabytes,
    lora_lines,
    warning_lines,
)
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """`plan SRC [--lora F[:S]]... --scheme S [--max-gb G] [--vram GB]`."""
    add_source(parser)
    add_conversion(parser)
    parser.add_argument(
        "--vram", type=size_argument, metavar="GB", help="memory of the card in GiB"
    )


def run(args: argparse.Namespace) -> Answer:
    """The plan, and with --vram what stays on the card."""
    prepared = prepare_from(args)
    try:
        plan = prepared.plan
        tried = prepared.measured.tried() if prepared.measured else {}
        answer: dict[str, object] = {
            "file": str(args.source),
            "family": plan.family,
            "scheme": prepared.request.scheme,
            "bytes": plan.bytes,
            "peak_private_bytes": plan.peak_private_bytes,
            "vram_bytes": plan.vram_bytes,
            "layers": [_layer(choice, tried) for choice in plan.choices],
            "loras": [report.to_json() for report in prepared.fused.report],
            "warnings": list(plan.warnings),
        }
        if plan.budget is not None:
            answer["budget"] = asdict(plan.budget)
        if args.vram is not None:
            from ...engine.pipeline import placement

            placed = placement(prepared, int(args.vram * 2**30))
            answer["vram"] = {
                "card_bytes": int(args.vram * 2**30),
                "fits": placed.fits,
                "resident_bytes": placed.resident_bytes,
                "streamed_bytes": placed.streamed_bytes,
                "reserve_bytes": placed.reserve_bytes,
            }
        return answer
    finally:
        prepared.close()


def _layer(choice: Choice, tried: Mapping[str, Sequence[Tried]]) -> Answer:
    """What a layer gets, and within a budget its error in every scheme that it might have."""
    found: dict[str, Any] = {"name": choice.layer.name, "scheme": choice.scheme, "why": choice.why}
    if choice.layer.name in tried:
        found["tried"] = [asdict(one) for one in tried[choice.layer.name]]
    return found


def text(answer: Answer) -> str:
    """The plan as a page: totals, then how many layers get what and why."""
    rows = [
        ("file", gigabytes(answer["bytes"])),
        ("memory", f"{gigabytes(answer['peak_private_bytes'])} at most while converting"),
        ("weights", f"{gigabytes(answer['vram_bytes'])} on the device"),
    ]
    if "vram" in answer:
        rows.append(("card", _card(answer["vram"])))
    budget = answer.get("budget")
    return "\n".join(
        [
            f"{answer['file']}: {answer['family']}, to {answer['scheme']}",
            *columns(rows),
            *(budget_lines(budget) if budget else ()),
            "layers",
            *(_each(answer["layers"]) if budget else counted_reasons(answer["layers"])),
            *lora_lines(answer["loras"]),
            *warning_lines(answer["warnings"]),
        ]
    )


def _each(layers: Sequence[Answer]) -> list[str]:
    """Each layer whose scheme was chosen by its error, then how many stay for which reason."""
    chosen = [layer for layer in layers if layer.get("tried")]
    rest = [layer for layer in layers if not layer.get("tried")]
    return [*columns([(layer["name"], layer["why"]) for layer in chosen]), *counted_reasons(rest)]


def _card(vram: Answer) -> str:
    size = f"{vram['card_bytes'] / 2**30:g} GiB"
    if vram["fits"]:
        return f"{size}: everything stays on it"
    return (
        f"{size}: {gigabytes(vram['resident_bytes'])} stay, "
        f"{gigabytes(vram['streamed_bytes'])} are streamed in every step"
    )


VERB = Verb("plan", "say what a conversion would write and need", arguments, run, text)
