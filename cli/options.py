"""Arguments that several verbs share, and how their spelling becomes values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.accelerator import capability, device_here
from ..engine.errors import Refused
from ..engine.fuse.strength import with_strength
from ..engine.tensors import SPELLINGS

if TYPE_CHECKING:
    from ..engine.fuse.lora import LoraFile
    from ..engine.pipeline import Prepared
    from ..engine.source import Source


def lora_argument(text: str) -> tuple[Path, float]:
    """`FILE[:STRENGTH]` -> (path, strength)."""
    path, strength = with_strength(text)
    return Path(path), strength


def dtype_argument(text: str) -> str:
    """`bf16`, `bfloat16`, `fp16`, ... as the safetensors dtype name."""
    if text.lower() not in SPELLINGS:
        raise Refused(
            "unknown-dtype",
            found=text,
            expected=", ".join(SPELLINGS),
            fix="use one of these names with --dtype",
        )
    return SPELLINGS[text.lower()]


def size_argument(text: str) -> float:
    """A size in GiB: a finite number above 0."""
    size = float(text)
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no size: give GiB above 0, such as 8")
    return size


def count_argument(text: str) -> int:
    """How often: at least 1."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few: give 1 or more")
    return count


def device_argument(text: str) -> str:
    """A device that torch has here: `cpu`, `cuda`, `cuda:1`."""
    return device_here(text)


def add_source(parser: argparse.ArgumentParser) -> None:
    """The checkpoint: a file, a folder of shards or an index."""
    parser.add_argument("source", type=Path, metavar="SRC", help="a checkpoint file or folder")


def rotation_argument(text: str) -> int:
    """The group that int8 rows were rotated by."""
    from ..engine.rotated import GROUPS

    if not text.isdecimal() or int(text) not in GROUPS:
        listed = ", ".join(map(str, GROUPS))
        raise argparse.ArgumentTypeError(
            f"{text} is no group of a rotation: put --rotated last, or give {listed} after it"
        )
    return int(text)


def add_rotated(parser: argparse.ArgumentParser) -> None:
    """The user's word on int8 files that do not say whether they are rotated."""
    parser.add_argument(
        "--rotated",
        nargs="?",
        const=256,
        type=rotation_argument,
        metavar="GROUP",
        help="int8 rows were saved Hadamard-rotated (INT8-Fast's QuaRot) in groups of GROUP inputs "
        "(256), which the file does not say",
    )


def add_conversion(parser: argparse.ArgumentParser, scheme: str | None = "auto") -> None:
    """Everything that decides what a converted file holds."""
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        type=lora_argument,
        metavar="FILE[:S]",
        help="fuse this LoRA at strength S (default 1); repeat for more",
    )
    parser.add_argument("--rslora", action="store_true", help="LoRAs are rank-stabilised")
    parser.add_argument("--scheme", default=scheme, metavar="S", help="see `fusequant backends`")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave layers whose name matches unquantized (*, ?, [..]); repeat for more",
    )
    parser.add_argument("--dtype", help="dtype of what stays unquantized (default: as in SRC)")
    parser.add_argument("--device", default="cpu", help="where the arithmetic runs")
    add_rotated(parser)
    parser.add_argument(
        "--format",
        default="core",
        metavar="NAME",
        help="who the file is for: core (ComfyUI, the default) or lightx2v (int8 or fp8_row)",
    )
    parser.add_argument(
        "--by-block",
        action="store_true",
        help="with --format lightx2v: a folder with a file for each block",
    )


def open_spec_or_file(path: Path) -> Source:
    """A checkpoint, or the header-only spec of a public model by its name."""
    if not path.exists():
        from ..engine.specs import names, spec

        if str(path) in names():
            return spec(str(path))
    from ..engine.files.open import open_source

    return open_source(path)


def prepare_from(args: argparse.Namespace) -> Prepared:
    """Open everything first (so that a broken file is refused at once), then plan."""
    source = open_spec_or_file(args.source)
    from ..engine.fuse.lora import open_lora

    loras: Sequence[LoraFile] = [open_lora(path, s, args.rslora) for path, s in args.lora]
    from ..engine.pipeline import Request, prepare
    from ..engine.scheme_names import resolve

    device = device_argument(args.device)
    request = Request(
        scheme="auto" if args.scheme == "auto" else resolve(args.scheme)[0],
        keep=tuple(args.keep),
        dtype=dtype_argument(args.dtype) if args.dtype else None,
        device=device,
        capability=capability(device),
        rotated=args.rotated,
        format=args.format,
        by_block=args.by_block,
    )
    return prepare(source, loras, request)
