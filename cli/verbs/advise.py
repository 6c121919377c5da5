"""`fusequant advise`: a machine, a model and a goal in, ranked setups with their reasons out."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.errors import Refused
from ..options import count_argument, lora_argument, open_spec_or_file, size_argument
from ..text import columns
from ..verb import Answer, Verb

if TYPE_CHECKING:
    from ...engine.advise.job import Wishes
    from ...engine.source import Source

GIB = 2**30
_WIDTH = 100
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
    from ...engine.advise.claims import table
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
        claims = [{"topic": t, "says": s, "basis": b} for t, s, b in table()]
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
    """The machine, then one job in full or a line for each public model."""
    machine = answer["machine"]
    lines = [_machine_line(machine), f"goal: {answer['goal']}; times and sizes are predicted"]
    if len(answer["models"]) == 1 and "setups" in answer["models"][0]:
        return "\n".join(lines + _one(answer["models"][0]))
    rows: list[tuple[object, ...]] = [("model", "mode", "scheme", "VRAM", "RAM", "s/step")]
    rows += [_row(model) for model in answer["models"]]
    return "\n".join([*lines, *columns(rows), "give --model for the reasons"])


def _machine_line(machine: Answer) -> str:
    memory = f", {machine['vram_bytes'] / GIB:.0f} GB" if machine["vram_bytes"] else ""
    ram = machine["ram_bytes"]
    shown = f", {ram / GIB:.0f} GB RAM" if ram else ", RAM not said"
    shown = "" if machine["unified"] else shown
    torch = f", torch {machine['torch']}" if machine["torch"] else ""
    return f"{machine['gpu']} ({machine['device']}){memory}{shown}{torch}, {machine['source']}"


def _row(model: Answer) -> tuple[object, ...]:
    if "error" in model:
        return (model["model"], "does not fit", "", "", "", model["error"]["fix"])
    best = model["setups"][0]
    mode = best["mode_title"] + (", RAM or disk is short" if best["short"] else "")
    return (model["model"], mode, best["scheme"], *_figures(best))


def _figures(setup: Answer) -> tuple[str, str, str]:
    needs, seconds = setup["needs"], setup["seconds"]
    return (
        f"{needs['vram_bytes'] / GIB:.1f} GiB",
        f"{needs['ram_bytes'] / GIB:.1f} GiB",
        f"{seconds['step_s']:.2f}" if seconds else "not known",
    )


def _one(model: Answer) -> list[str]:
    best, *others = model["setups"]
    lines = [f"{model['title']}: {best['mode_title']}"]
    lines += columns(_settings(best))
    lines.append("because")
    for reason in best["reasons"]:
        lines += textwrap.wrap(reason, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    if others:
        lines.append("otherwise")
        rows = [(x["scheme"], x["mode_title"], *_figures(x), x["why_not_first"]) for x in others]
        head = ("scheme", "mode", "VRAM", "RAM", "s/step", "why not first")
        lines += columns([head, *rows])
    lines += [f"  {row['scheme']} cannot run: {row['why']}" for row in model["impossible"]]
    return lines


def _settings(best: Answer) -> list[tuple[str, str]]:
    needs = best["needs"]
    vram, ram, step = _figures(best)
    mode = best["mode"]
    mode += f", limit {best['limit_bytes'] / GIB:.1f} GiB" if best["limit_bytes"] else ""
    mode += f", buffer {best['buffer_bytes'] / GIB:.1f} GiB" if best["buffer_bytes"] else ""
    return [
        ("scheme", f"{best['scheme']}, file of {needs['file_bytes'] / 1e9:.2f} GB"),
        ("LoRAs", best["loras"]),
        ("VRAM Manager", mode),
        ("text encoder", f"{best['text_scheme']}, device {best['text_device']}"),
        ("VAE", best["vae_dtype"]),
        ("speed", f"attention {best['attention'] or 'as it is'}, "
                  f"compile {'on' if best['compile'] else 'off'}"),
        ("predicted", f"{vram} of VRAM, {ram} of RAM, {needs['disk_bytes'] / 1e9:.1f} GB of new "
                      f"files, seconds a step: {step}"),
    ]  # fmt: skip


VERB = Verb("advise", "say how to run a model on a machine, and why", arguments, run, text)
