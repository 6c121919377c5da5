"""`fusequant dequant`: a quantized checkpoint in, the same numbers as plain floating point out."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..options import add_rotated, add_source, dtype_argument
from ..verb import Answer, Verb
from .convert import text, write


def arguments(parser: argparse.ArgumentParser) -> None:
    """`dequant SRC --out DST [--dtype D] [--rotated [GROUP]]`."""
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DST", help="the file to write")
    parser.add_argument("--dtype", default="fp32", help="fp32 (default), bf16 or fp16")
    add_rotated(parser)


def run(args: argparse.Namespace) -> Answer:
    """Names stay as they are in the file."""
    from ...engine.files.open import open_source

    source, dtype = open_source(args.source), dtype_argument(args.dtype)
    from ...engine.rewrite import prepare_dequant

    return write(prepare_dequant(source, dtype, args.rotated), args.out, quiet=args.json)


VERB = Verb("dequant", "write every layer as plain floating point", arguments, run, text)
