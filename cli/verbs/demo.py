"""`fusequant demo`: nothing in, the main job on an embedded model out, measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..text import gigabytes
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """`demo [--out DIR]`."""
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")


def run(args: argparse.Namespace) -> Answer:
    """Make everything in the folder."""
    from ...engine.demo import run_demo
    from ...engine.files.writer import unwritable

    def tell(line: str) -> None:
        sys.stderr.write(f"  {line}\n")

    try:
        return run_demo(args.out, tell).to_json()
    except OSError as fault:
        raise unwritable(args.out, fault) from fault


def text(answer: Answer) -> str:
    """The measured table, the cards, the chart."""
    from ...engine.measure.table import text_table
    from ...engine.specs import names

    rows = [
        (
            row["scheme"],
            f"{row['bytes'] / 1e6:.1f} MB",
            f"{row['weight_error_fused']:.4f}",
            f"{row['weight_error_after']:.4f}",
            f"{row['output_error_fused']:.4f}",
            f"{row['output_error_after']:.4f}",
            f"{row['seconds']:.2f} s",
        )
        for row in answer["schemes"]
    ]
    head = ("scheme", "file", "weight: fused", "after", "output: fused", "after", "convert")
    cards = answer["cards"]
    return "\n".join(
        [
            f"\nembedded model, {gigabytes(answer['source_bytes'])} in bf16, two LoRAs; errors",
            "against float32 with the same LoRAs. fused: LoRAs first, then quantize once;",
            "after: quantize first, add the LoRAs to the quantized weights.\n",
            text_table(head, rows),
            "\npublic models, predicted from names and shapes: what stays on a card\n",
            text_table(tuple(cards[0]), [tuple(row.values()) for row in cards]),
            f"{len(names()) - len(cards)} more, and any scheme: fusequant plan NAME --scheme S",
            f"\nchart {answer['chart'] or answer['chart_refusal']}",
            f"files {answer['folder']}, {answer['seconds']:.0f} s",
        ]
    )


VERB = Verb("demo", "fuse, quantize and measure an embedded model", arguments, run, text)
