"""`fusequant repair`: a checkpoint of any dialect in, the same codes spelled for core out."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..options import add_rotated, add_source
from ..verb import Answer, Verb
from .convert import text, write


def arguments(parser: argparse.ArgumentParser) -> None:
    """`repair SRC --out DST [--rotated [GROUP]]`."""
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DST", help="the file to write")
    add_rotated(parser)


def run(args: argparse.Namespace) -> Answer:
    """Respell; say which layers core has no format for."""
    from ...engine.files.open import open_source

    source = open_source(args.source)
    from ...engine.rewrite import prepare_repair

    return write(prepare_repair(source, args.rotated), args.out, quiet=args.json)


VERB = Verb("repair", "write the file that stock ComfyUI reads right", arguments, run, text)
