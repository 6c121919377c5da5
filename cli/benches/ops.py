"""`fusequant bench ops`: every way to multiply, timed here.

With `--model` every scheme and backend on that model's own layers; without, the widths of FLUX and
Wan times four numbers of rows, beside what ComfyUI, torchao and quanto make of the same weights.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench import Bench, Rows
from ..options import count_argument, device_argument, dtype_argument, open_spec_or_file
from ..text import columns

if TYPE_CHECKING:
    from ...engine.bench.grid import Grid

MODEL_TOKENS, MODEL_SECONDS, GRID_SECONDS = 4096, 8.0, 240.0
USERS = "of this machine"  # --update without a path


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench ops [--model FILE|SPEC] [--tokens N] [--device D] [--seconds S] [--update [FILE]]`."""
    parser.add_argument("--model", type=Path, help="a model file, or the name of a public model")
    parser.add_argument(
        "--tokens", type=count_argument,
        help=f"rows of x (with a model {MODEL_TOKENS}: a picture of 1024 x 1024, plus its text)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where the arithmetic runs")
    parser.add_argument("--dtype", help="of x (with a model fp32 on a CPU, else bf16)")
    parser.add_argument(
        "--seconds", type=float,
        help=f"about how long it may take ({GRID_SECONDS:.0f}, with a model {MODEL_SECONDS:.0f})",
    )  # fmt: skip
    parser.add_argument("--scheme", action="append", metavar="S", help="only this one; repeat")
    parser.add_argument(
        "--update", nargs="?", const=USERS, metavar="FILE",
        help="keep the order of the backends as measured, for every later call on this machine",
    )  # fmt: skip


def tell(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"  {line}\n")


def measure(args: argparse.Namespace) -> Rows:
    """The heaviest shapes of the model, or the grid."""
    from ...engine.errors import Refused

    args.told = {}
    if args.model is None:
        return _grid(args)
    if args.update is not None:
        raise Refused(
            "update-with-model",
            found="--update with --model",
            expected="the usual widths, from which the order is made",
            fix="leave --model out",
        )
    return _model(args)


def _model(args: argparse.Namespace) -> Rows:
    import torch

    from ...engine.bench.ops import Bench, bench_ops, shapes_of
    from ...engine.pipeline import Request, prepare
    from ...engine.tensors import torch_dtype

    device = device_argument(args.device)
    usual = "F32" if device == "cpu" else "BF16"
    asked = Bench(
        torch.device(device), torch_dtype(dtype_argument(args.dtype) if args.dtype else usual),
        args.tokens or MODEL_TOKENS, args.seconds or MODEL_SECONDS, _schemes(args),
    )  # fmt: skip
    prepared = prepare(open_spec_or_file(args.model), (), Request(scheme="int8"))
    chosen = [c.layer.shape for c in prepared.plan.choices if c.scheme != "none"]
    prepared.close()
    rows = bench_ops(shapes_of((n, k) for n, k in chosen), asked, tell)
    args.told = {"not_run": asked.refused}
    _tell_refused(asked.refused)
    return rows


def _grid(args: argparse.Namespace) -> Rows:
    import torch

    from ...engine.bench.grid import FEW_ROWS, ROWS, Grid, bench_grid
    from ...engine.tensors import torch_dtype

    asked = Grid(torch.device(device_argument(args.device)), seconds=args.seconds or GRID_SECONDS)
    if args.dtype:
        asked.dtype = torch_dtype(dtype_argument(args.dtype))
    asked.schemes = _schemes(args) or asked.schemes
    asked.rows = (args.tokens,) if args.tokens else ROWS
    if args.update is not None:
        asked.rows = (FEW_ROWS, *asked.rows)
    rows = bench_grid(asked, tell)
    args.told = {"not_run": asked.refused, "cut": asked.cut, "peak_tflops": asked.peaks}
    _tell_refused(asked.refused)
    for cell in asked.cut:
        tell(f"cut: {cell}")
    if args.update is not None:
        args.told["updated"] = _update(args, asked, rows)
    return rows


def _update(args: argparse.Namespace, asked: Grid, rows: Rows) -> str:
    """Write the order that the rows show; where to."""
    from ...engine.bench.grid import orders
    from ...engine.measure.hardware import hardware
    from ...kernels import order

    facts = hardware()
    gpu: Any = facts["gpu"]
    name = gpu["name"] if asked.device.type != "cpu" and gpu else facts["cpu"]
    path = order.user_file() if args.update == USERS else Path(args.update)
    today = datetime.date.today().isoformat()
    told = f"{name}, {facts['cores']} cores, torch {facts['torch']}"
    measured = order.Measured(str(path), today, told, orders(rows))
    order.write(path, order.device_class(asked.device), measured)
    tell(f"the order of the backends is kept in {path}")
    return str(path)


def _schemes(args: argparse.Namespace) -> list[str]:
    from ...engine.scheme_names import resolve

    return [resolve(name)[0] for name in args.scheme or ()]


def _tell_refused(refused: dict[str, str]) -> None:
    for who, why in refused.items():
        tell(f"not run: {who}: {why}")


def text(found: Rows) -> str:
    """The grid cell by cell, or each contender over all shapes of a model, fastest first."""
    if not found:
        return "nothing was measured: give more --seconds"
    return _grid_text(found) if "who" in found[0] else _model_text(found)


def _grid_text(found: Rows) -> str:
    head = ("", "dtype", "auto", "ms", "TFLOP/s", "over bf16", "over fp32", "of peak", "error")
    lines = []
    cells = dict.fromkeys((row["n"], row["k"], row["tokens"]) for row in found)
    for n, k, tokens in cells:
        here = [row for row in found if (row["n"], row["k"], row["tokens"]) == (n, k, tokens)]
        table: list[tuple[Any, ...]] = [head]
        for row in sorted(here, key=lambda row: row["median_s"]):
            table.append(
                (
                    f"{row['scheme']} on {row['backend']}", row["dtype"],
                    "auto" if row["auto"] else "", f"{row['median_s'] * 1e3:.1f}",
                    f"{row['tflops']:.3f}", f"{row['over_bf16']:.2f}", f"{row['over_fp32']:.2f}",
                    f"{row['share_of_peak']:.0%}", f"{row['error']:.4f}",
                )
            )  # fmt: skip
        lines += [f"{n} x {k}, {tokens} rows", *columns(table)]
    return "\n".join(lines)


def _model_text(found: Rows) -> str:
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

    if not found or "who" in found[0]:
        return "no chart: the chart is of a model's layers, give --model"
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
        "seconds": args.seconds,
        **args.told,
    },
    chart,
)
