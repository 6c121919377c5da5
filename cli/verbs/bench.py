"""`fusequant bench`: a benchmark's name in, measured rows beside the plain ways out."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from ...engine.parts import discover
from .. import benches
from ..bench import Bench
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench NAME [its own arguments] [--save DIR] [--chart PNG]`, one file of `benches/` each."""
    subs = parser.add_subparsers(dest="what", metavar="NAME", required=True)
    for bench in discover(benches.__name__, "BENCH").values():
        sub = subs.add_parser(
            bench.name, help=bench.help, description=bench.help, allow_abbrev=False
        )
        bench.arguments(sub)
        sub.add_argument("--save", type=Path, metavar="DIR", help="write a result file there")
        sub.add_argument("--chart", type=Path, metavar="PNG", help="draw the result")
        for flag in ("--json", "--debug"):  # left alone where they stand before the name
            sub.add_argument(
                flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
        sub.set_defaults(bench=bench)


def run(args: argparse.Namespace) -> Answer:
    """Run one benchmark and, if asked, keep its result file and draw it."""
    from ...engine.measure.hardware import hardware
    from ...engine.measure.results import Result, write_result

    bench: Bench = args.bench
    rows = bench.measure(args)
    result = Result(
        benchmark=bench.name,
        date=datetime.date.today().isoformat(),
        rows=rows,
        hardware=hardware(),
        settings=bench.settings(args),
    )
    saved = str(write_result(args.save, result)) if args.save else None
    answer = {
        "benchmark": bench.name,
        "rows": rows,
        "hardware": result.hardware,
        "settings": result.settings,
        "saved": saved,
    }
    if args.chart is not None:
        refusal = bench.chart(rows, args.chart)
        answer |= {"chart": None if refusal else str(args.chart), "chart_refusal": refusal}
    return answer


def text(answer: Answer) -> str:
    """The benchmark's own table, then what was written."""
    bench: Bench = discover(benches.__name__, "BENCH")[answer["benchmark"]]
    written = [answer["saved"], answer.get("chart"), answer.get("chart_refusal")]
    return "\n".join([bench.text(answer["rows"]), *(line for line in written if line)])


VERB = Verb("bench", "measure this machine", arguments, run, text)
