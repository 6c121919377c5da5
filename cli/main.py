"""Arguments in, exit code out: 0 done, 2 refused, 1 our fault, 130 interrupted."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from ..engine.errors import Refused
from ..engine.parts import discover
from ..engine.recipe import VERSION
from . import verbs
from .interrupts import interruptible
from .verb import Verb

DONE, FAULT, REFUSED, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Bad usage is a refusal like any other, so that --json answers it in JSON too."""

    def error(self, message: str) -> NoReturn:
        raise Refused(
            "bad-usage",
            found=message,
            expected=" ".join(self.format_usage().split()).removeprefix("usage: "),
            fix=f"see {self.prog} --help",
        )


def parser() -> argparse.ArgumentParser:
    """The whole command line, one sub-command per file of `verbs/`."""
    top = _Parser(
        prog="fusequant",
        allow_abbrev=False,
        description="Fuse LoRAs into a diffusion model, quantize it once, save one file.",
    )
    top.add_argument("--version", action="version", version=f"fusequant {VERSION}")
    subs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in discover(verbs.__name__, "VERB").values():
        sub = subs.add_parser(verb.name, help=verb.help, description=verb.help, allow_abbrev=False)
        verb.arguments(sub)
        sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
        sub.add_argument("--debug", action="store_true", help="show tracebacks and debug lines")
        sub.set_defaults(chosen=verb)
    return top


def _open_streams() -> None:
    """A closed stdout or stderr becomes one that nobody reads.

    Left closed, its number would go to the next file that is opened: the model being written.
    Names of files need not fit the terminal's encoding.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as we run
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough (`| head`)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _refuse(refusal: Refused, as_json: bool) -> int:
    if as_json:
        _say(json.dumps({"error": refusal.to_json()}))
    else:
        where = f" in {refusal.layer}" if refusal.layer else ""
        sys.stderr.write(
            f"fusequant: {refusal.kind}{where}\n"
            f"  found     {refusal.found}\n"
            f"  expected  {refusal.expected}\n"
            f"  do        {refusal.fix}\n"
        )
    return REFUSED


def _answer(verb: Verb, args: argparse.Namespace) -> int:
    answer = verb.run(args)
    _say(json.dumps(answer) if args.json else verb.text(answer))
    if verb.faulty(answer):
        return FAULT
    return REFUSED if verb.failed(answer) else DONE


def _run(argv: list[str]) -> int:
    as_json, debug = "--json" in argv, "--debug" in argv
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(message)s")
    try:
        args = parser().parse_args(argv)
        return _answer(args.chosen, args)
    except Refused as refusal:
        if debug:
            traceback.print_exc()
        return _refuse(refusal, as_json)
    except Exception as error:  # noqa: BLE001 - the door of the program: say it is our fault
        if debug:
            traceback.print_exc()
        fault = {"kind": "internal-fault", "found": f"{type(error).__name__}: {error}"}
        fault |= {"expected": "an answer", "fix": "run again with --debug and report the traceback"}
        if as_json:
            _say(json.dumps({"error": fault}))
        else:
            sys.stderr.write(f"fusequant: our fault: {fault['found']}\n  do  {fault['fix']}\n")
        return FAULT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the only place of the command line that catches everything."""
    _open_streams()
    try:
        with interruptible():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        sys.stderr.write("\nfusequant: interrupted, no unfinished file is left\n")
        return INTERRUPTED
