"""`fusequant bench ops`: every scheme and backend on a model's own layer shapes, timed here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..bench import Bench, Rows
from ..options import count_argument, device_argument, dtype_argument, open_spec_or_file
from ..text import columns


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench ops [--model FILE|SPEC] [--tokens N] [--device D] [--dtype D] [--seconds S]`."""
    parser.add_argument("--model", type=Path, help="a model file, or the name of a public model")
    parser.add_argument(
        "--tokens", type=count_argument, default=4096,
        help="rows of x: 4096 is a picture of 1024 x 1024, plus its text",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where the arithmetic runs")
    parser.add_argument("--dtype", help="of x and of the baseline (fp32 on a CPU, else bf16)")
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long it may take")
    parser.add_argument("--scheme", action="append", metavar="S", help="only this one; repeat")


def measure(args: argparse.Namespace) -> Rows:
    """The heaviest shapes of the model, or those of FLUX and Wan."""
    import torch

    from ...engine.bench.ops import USUAL, Bench, bench_ops, shapes_of
    from ...engine.scheme_names import resolve
    from ...engine.tensors import torch_dtype

    device = device_argument(args.device)
    usual = "F32" if device == "cpu" else "BF16"
    asked = Bench(
        torch.device(device), torch_dtype(dtype_argument(args.dtype) if args.dtype else usual),
        args.tokens, args.seconds, [resolve(name)[0] for name in args.scheme or ()],
    )  # fmt: skip
    shapes = list(USUAL)
    if args.model is not None:
        from ...engine.pipeline import Request, prepare

        prepared = prepare(open_spec_or_file(args.model), (), Request(scheme="int8"))
        chosen = [c.layer.shape for c in prepared.plan.choices if c.scheme != "none"]
        prepared.close()
        shapes = shapes_of((n, k) for n, k in chosen)

    def tell(line: str) -> None:
        sys.stderr.write(f"  {line}\n")

    rows = bench_ops(shapes, asked, tell)
    for who, why in asked.refused.items():
        tell(f"not run: {who}: {why}")
    return rows


def text(found: Rows) -> str:
    """Each contender over all shapes, fastest first."""
    from ...engine.bench.ops import totals

    rows = [("scheme", "backend", "auto", "seconds", "times as fast", "error")]
    for row in totals(found):
        rows.append(
            (
                row["scheme"],
                row["backend"],
                "auto" if row["auto"] else "",
                f"{row['seconds']:.4f}",
                f"{row['ratio']:.2f}",
                f"{row['error']:.4f}",
            )
        )
    shapes = dict.fromkeys(f"{r['n']} x {r['k']} ({r['count']})" for r in found)
    head = f"all layers of these shapes once, {found[0]['tokens']} tokens: {', '.join(shapes)}"
    return "\n".join([head, *columns(rows)])


def chart(found: Rows, path: Path) -> str | None:
    """How many times as fast as the unquantized product, a bar a scheme and backend."""
    from ...engine.bench.ops import speed_chart
    from ...engine.measure.picture import write_png

    figure = speed_chart(found)
    if isinstance(figure, str):
        return figure
    write_png(figure, path)
    return None


BENCH = Bench(
    "ops",
    "every scheme and backend on a model's own layer shapes",
    arguments,
    measure,
    text,
    lambda args: {
        "model": args.model.name if args.model else None,
        "tokens": args.tokens,
        "device": args.device,
        "dtype": args.dtype,
    },
    chart,
)
