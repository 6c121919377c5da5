"""`fusequant batch`: a file of recipes in, every file that they ask for out, or why not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch_text import end_line, plan_text, summary_text
from ..options import count_argument, size_argument
from ..progress import Bar
from ..text import duration
from ..verb import Answer, Verb

if TYPE_CHECKING:
    from ...engine.batch.run import Batch
    from ...engine.batch.told import Row


def arguments(parser: argparse.ArgumentParser) -> None:
    """`batch RECIPES.toml [--on local|ray] [--dry-run] ...`."""
    add = parser.add_argument
    add("recipes", type=Path, metavar="RECIPES.toml", help="see docs/batch.md")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add(
        "--keep-going",
        action="store_true",
        help="leave out recipes that cannot be done instead of refusing the batch",
    )
    add(
        "--on",
        choices=("local", "ray"),
        default="local",
        help="local: processes of this machine; ray: a Ray cluster, all of whose machines "
        "reach the files by the same paths",
    )
    add("--jobs", type=count_argument, metavar="N", help="recipes side by side")
    add(
        "--memory",
        type=size_argument,
        metavar="GB",
        help="GiB for all processes of this machine together, pages of mapped files not counted "
        "(default: three quarters of what is available)",
    )
    add(
        "--retries",
        type=_retries,
        default=2,
        metavar="N",
        help="how often a recipe is tried again whose process was killed (default 2)",
    )
    add(
        "--address",
        metavar="auto|HOST:PORT",
        help="a Ray cluster that is running (default: one of this machine, for this batch)",
    )
    add("--log", type=Path, metavar="FILE", help="default: RECIPES.toml.log beside the recipes")


def _retries(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text} is too few: give 0 or more")
    return count


def run(args: argparse.Namespace) -> Answer:
    """Plan all, tell it, then run it."""
    batch = _planned(args)
    if args.dry_run:
        return batch.to_json()
    from ...engine.batch.run import run_batch

    sys.stderr.write(plan_text(batch.to_json()) + "\n")
    watch = _Watch(batch, quiet=args.json)
    try:
        return run_batch(batch, watch)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nfusequant: {watch.done} of {len(batch.planned)} recipes are done; the same "
            "command goes on with the others\n"
        )
        raise
    finally:
        watch.close()


def _planned(args: argparse.Namespace) -> Batch:
    """Everything that can be refused is, before anything runs."""
    from ...engine.batch.gather import gather

    _check_usage(args)
    elsewhere = args.address is not None
    entries, troubles = gather(args.recipes, remote=elsewhere, keep_going=args.keep_going)
    from ...engine.batch.run import Asked, plan_batch

    asked = Asked(
        on=args.on,
        jobs=args.jobs,
        memory_bytes=int(args.memory * 2**30) if args.memory else None,
        retries=args.retries,
        address=args.address,
        keep_going=args.keep_going,
        log=args.log,
    )
    bar = Bar("planning", quiet=args.json)
    try:
        return plan_batch(args.recipes, entries, troubles, asked, bar.count)
    finally:
        bar.close()


def _check_usage(args: argparse.Namespace) -> None:
    if args.address is None or args.on == "ray":
        return
    from ...engine.errors import Refused

    raise Refused(
        "bad-usage",
        found="--address without --on ray",
        expected="--on ray --address auto|HOST:PORT",
        fix="add --on ray, or leave --address out",
    )


class _Watch:
    """A line on stderr for each recipe as it ends, and a bar over all where a person looks on."""

    def __init__(self, batch: Batch, *, quiet: bool) -> None:
        self._bar = Bar("batch", quiet=quiet)
        self._number, self._total = 0, len(batch.todo)
        self.done = len(batch.planned) - self._total

    def moved(self, done_bytes: int, total_bytes: int) -> None:
        """The bar."""
        self._bar(done_bytes, total_bytes)

    def ended(self, row: Row, left_s: float | None) -> None:
        """The line."""
        self._number += 1
        self.done += row.state == "done"
        left = f", {duration(left_s)} left" if left_s and self._number < self._total else ""
        self._say(f"[{self._number}/{self._total}{left}] {end_line(row.to_json())}")

    def died(self, name: str, how: str) -> None:
        """A process was killed."""
        self._say(f"{name}: its process ended by {how}; tried again")

    def _say(self, line: str) -> None:
        self._bar.clear()
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """The end."""
        self._bar.clear()


def text(answer: Answer) -> str:
    """The plan of a dry run, or how everything ended."""
    return plan_text(answer) if _is_plan(answer) else summary_text(answer)


def _is_plan(answer: Answer) -> bool:
    return any(row["state"] == "planned" for row in answer["recipes"])


def failed(answer: Answer) -> bool:
    """Some recipe was refused."""
    return _has(answer, "refused")


def faulty(answer: Answer) -> bool:
    """Some recipe failed though nothing is wrong with it."""
    return _has(answer, "failed")


def _has(answer: Answer, state: str) -> bool:
    recipes: Sequence[Answer] = answer["recipes"]
    return any(row["state"] == state for row in recipes)


VERB = Verb(
    "batch", "convert by the hundred, from a file of recipes", arguments, run, text, failed, faulty
)
