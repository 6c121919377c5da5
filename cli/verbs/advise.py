"""`fusequant advise`: a machine, a model and a goal in, ranked setups with their reasons out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.errors import Refused
from ..options import count_argument, lora_argument, open_spec_or_file, size_argument
from ..verb import Answer, Verb

if TYPE_CHECKING:
    from ...engine.advise.job import Wishes
    from ...engine.source import Source

_RESOLUTION = re.compile(r"(\d+)\s*[xX*]\s*(\d+)")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Everything is optional: this machine, all public models, speed."""
    parser.add_argument(
        "--model", action="append", default=[], type=Path, metavar="FILE|SPEC",
        help="a checkpoint or a public model by name (default: all of them); give it twice for "
        "models that take turns",
    )  # fmt: skip
    parser.add_argument(
        "--lora", action="append", default=[], type=lora_argument, metavar="F",
        help="a LoRA; repeat for more",
    )  # fmt: skip
    parser.add_argument(
        "--text-encoder", action="append", default=[], type=Path, metavar="F",
        help="a text encoder (default: the model's own); repeat for more",
    )  # fmt: skip
    parser.add_argument("--resolution", type=resolution_argument, metavar="WxH")
    parser.add_argument("--frames", type=count_argument, metavar="N", help="of a video")
    parser.add_argument("--batch", type=count_argument, default=1, metavar="N")
    parser.add_argument("--gpu", metavar="NAME", help="such as 'RTX 3080' (default: this machine)")
    parser.add_argument("--vram", type=size_argument, metavar="GB", help="memory of the GPU in GiB")
    parser.add_argument("--ram", type=size_argument, metavar="GB", help="main memory in GiB")
    parser.add_argument("--goal", choices=("speed", "memory", "quality"), default="speed")
    parser.add_argument(
        "--measured", type=Path, metavar="FILE.json", help="a result of `fusequant bench ops`"
    )


def resolution_argument(text: str) -> tuple[int, int]:
    """`1024x768` -> (1024, 768)."""
    found = _RESOLUTION.fullmatch(text.strip())
    if found is None or not (int(found[1]) and int(found[2])):
        raise argparse.ArgumentTypeError(f"{text} is no resolution: give one such as 1024x768")
    return int(found[1]), int(found[2])


def run(args: argparse.Namespace) -> Answer:
    """Advice for one job, or the first of each public model."""
    from ...engine.advise.advisor import advise
    from ...engine.advise.claims import rows
    from ...engine.advise.job import diffusion_specs, job_of
    from ...engine.advise.machine import machine_of
    from ...engine.advise.measured import measured_from

    opened: list[Source] = []
    try:
        wishes = _wishes(args, opened)
        models = _open(args.model, opened)
        machine = machine_of(args.gpu, args.vram, args.ram)
        measured = measured_from(args.measured) if args.measured else None
        if models:
            found = [advise(machine, job_of(models, wishes), measured).to_json()]
        else:
            found = []
            for name in diffusion_specs():
                job = job_of(_open([Path(name)], opened), wishes)
                try:
                    found.append(advise(machine, job, measured, most=1).to_json())
                except Refused as refusal:
                    found.append({"model": name, "title": job.title, "error": refusal.to_json()})
        claims = [{"topic": t, "says": s, "basis": b} for t, s, b in rows()]
        return {
            "machine": machine.to_json(),
            "goal": args.goal,
            "models": found,
            "claims": claims,
            "measured": args.measured.name if args.measured else None,
        }
    finally:
        for source in opened:
            source.close()


def _open(paths: Sequence[Path], opened: list[Source]) -> list[Source]:
    found = []
    for path in paths:
        found.append(open_spec_or_file(path))
        opened.append(found[-1])
    return found


def _wishes(args: argparse.Namespace, opened: list[Source]) -> Wishes:
    from ...engine.advise.job import Wishes, lora_named

    loras = _open([path for path, _ in args.lora], opened)
    strengths = [strength for _, strength in args.lora]
    width, height = args.resolution or (None, None)
    return Wishes(
        goal=args.goal,
        width=width,
        height=height,
        frames=args.frames,
        batch=args.batch,
        loras=tuple(lora_named(x, s) for x, s in zip(loras, strengths, strict=True)),
        text=tuple(_open(args.text_encoder, opened)),
    )


def text(answer: Answer) -> str:
    """A page for a reader."""
    from ...engine.advise.report import page

    return page(answer["machine"], answer["goal"], answer["models"])


VERB = Verb("advise", "say how to run a model on a machine, and why", arguments, run, text)
