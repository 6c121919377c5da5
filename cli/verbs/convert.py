"""`fusequant convert`: checkpoint and LoRAs in, one fused and quantized file out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import add_conversion, add_source, prepare_from
from ..progress import Bar
from ..text import columns, counted_reasons, gigabytes, lora_lines, warning_lines
from ..verb import Answer, Verb

if TYPE_CHECKING:
    from ...engine.pipeline import Prepared, Written


def arguments(parser: argparse.ArgumentParser) -> None:
    """`convert SRC [--lora F[:S]]... [--scheme S] [--keep PATTERN]... [--format F] --out DST`."""
    add_source(parser)
    add_conversion(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DST",
        help="the file to write; with --by-block a folder",
    )


def run(args: argparse.Namespace) -> Answer:
    """Convert with a progress bar on stderr."""
    return write(prepare_from(args), args.out, quiet=args.json)


def write(prepared: Prepared, out: Path, *, quiet: bool) -> Answer:
    """Run a prepared conversion; the files are closed whatever happens."""
    from ...engine.pipeline import convert

    bar = Bar(out.name, quiet=quiet)
    try:
        return answer_of(convert(prepared, out, bar))
    finally:
        bar.close()
        prepared.close()


def answer_of(written: Written) -> Answer:
    """The JSON object of every verb that writes a model."""
    plan = written.prepared.plan
    return {
        "out": str(written.out),
        "bytes": written.bytes,
        "seconds": round(written.seconds, 3),
        "scheme": written.prepared.request.scheme,
        "layers": dict(written.layers),
        "loras": [report.to_json() for report in written.prepared.fused.report],
        "kept": [
            {"name": c.layer.name, "scheme": c.scheme, "why": c.why}
            for c in plan.choices
            if c.scheme == "none" and c.layer.is_matrix
        ],
        "warnings": list(plan.warnings),
    }


def text(answer: Answer) -> str:
    """What was written, how fast, and what stayed as it was."""
    quantized = {s: n for s, n in answer["layers"].items() if s != "none"}
    rate = answer["bytes"] / max(answer["seconds"], 1e-9)
    rows = [
        ("file", f"{gigabytes(answer['bytes'])} in {answer['seconds']:.1f} s"),
        ("rate", f"{gigabytes(rate)}/s written"),
        ("layers", ", ".join(f"{n} {s}" for s, n in quantized.items()) or "none quantized"),
    ]
    kept = [f"kept {len(answer['kept'])} matrices", *counted_reasons(answer["kept"])]
    return "\n".join(
        [
            str(answer["out"]),
            *columns(rows),
            *(kept if answer["kept"] else []),
            *lora_lines(answer["loras"]),
            *warning_lines(answer["warnings"]),
        ]
    )


VERB = Verb("convert", "fuse LoRAs, quantize once, save one file", arguments, run, text)
