"""`fusequant compare`: two files in, the error of each layer (or of a picture), a verdict out."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.errors import Refused
from ..options import add_rotated, lora_argument
from ..progress import Bar
from ..text import columns
from ..verb import Answer, Verb

if TYPE_CHECKING:
    from ...engine.measure.errors import LayerError
    from ...engine.measure.verdict import Measured

SHOWN = 15
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LEVELS = ("strict", "normal", "loose")


def arguments(parser: argparse.ArgumentParser) -> None:
    """`compare A B [--lora F[:S]]... [--require LEVEL] [--chart PNG] [--rotated [GROUP]]`."""
    parser.add_argument("first", type=Path, metavar="A", help="the reference: model or picture")
    parser.add_argument("second", type=Path, metavar="B", help="the version to judge")
    parser.add_argument("--all", action="store_true", help="norms and biases too")
    parser.add_argument(
        "--lora", action="append", default=[], type=lora_argument, metavar="FILE[:S]",
        help="B has this LoRA fused and A has not: compare with A + LoRA, and tell what is left "
        "of it in B; repeat for more",
    )  # fmt: skip
    parser.add_argument("--rslora", action="store_true", help="LoRAs are rank-stabilised")
    parser.add_argument(
        "--require", choices=LEVELS, help="exit with 2 where B is not as good as this"
    )
    parser.add_argument("--chart", type=Path, metavar="PNG", help="a heat map over the blocks")
    add_rotated(parser)


def run(args: argparse.Namespace) -> Answer:
    """Every common layer, worst first; two pictures by their likeness."""
    pictures = [path.suffix.lower() in PICTURES for path in (args.first, args.second)]
    if all(pictures):
        return _pictures(args)
    from ...engine.files.open import open_source

    first, second = open_source(args.first), open_source(args.second)
    from ...engine.compare import compare
    from ...engine.fuse.lora import open_lora
    from ...engine.measure.delta import finite
    from ...engine.measure.verdict import Measured

    loras = [open_lora(path, strength, args.rslora) for path, strength in args.lora]
    bar = Bar("compare", quiet=args.json)
    try:
        found = compare(first, second, not args.all, bar, loras, args.rotated)
    finally:
        bar.close()
        first.close()
        second.close()
        for lora in loras:
            lora.close()
    answer = {
        "layers": [layer.to_json() for layer in found.layers],
        "worst": finite(found.worst),
        "mean": finite(found.mean),
        "loras": [lora.to_json() for lora in found.loras],
        "only_in_a": list(found.only_first),
        "only_in_b": list(found.only_second),
    }
    chart = _drawn(args, found.layers)
    return answer | chart | _judged(args, Measured(found.layers, found.loras))


def _pictures(args: argparse.Namespace) -> Answer:
    """The likeness of two picture files."""
    from ...engine.measure.images import likeness
    from ...engine.measure.picture import read_picture
    from ...engine.measure.verdict import Measured

    image = likeness(read_picture(args.first), read_picture(args.second))
    return {"image": image.to_json()} | _judged(args, Measured(image=image))


def _judged(args: argparse.Namespace, measured: Measured) -> dict[str, object]:
    """The verdict by the level that is asked for; `normal` is told where none is."""
    from ...engine.measure.verdict import judge, thresholds

    verdict = judge(measured, thresholds(args.require))
    return {
        "level": args.require or "normal",
        "required": args.require is not None,
        "passed": verdict.passed,
        "failures": list(verdict.failures),
    }


def _drawn(args: argparse.Namespace, layers: Sequence[LayerError]) -> dict[str, object]:
    """The heat map, where it is asked for."""
    if args.chart is None:
        return {}
    from ...engine.measure.heatmap import heatmap
    from ...engine.measure.picture import write_png

    figure = heatmap(layers, f"{args.second.name} against {args.first.name}")
    if isinstance(figure, str):
        return {"chart": None, "chart_refusal": figure}
    try:
        write_png(figure, args.chart)
    except OSError as fault:
        raise Refused(
            "cannot-write",
            found=f"{args.chart}: {fault.strerror}",
            expected="a PNG file that can be written",
            fix="give another path with --chart",
        ) from fault
    return {"chart": str(args.chart)}


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.5f}"


def text(answer: Answer) -> str:
    """The worst layers as a table, the LoRAs, the verdict."""
    lines = _image_lines(answer["image"]) if "image" in answer else _layer_lines(answer)
    if answer.get("chart") or answer.get("chart_refusal"):
        lines.append(f"  chart {answer.get('chart') or answer['chart_refusal']}")
    said = "passed" if answer["passed"] else "not passed"
    return "\n".join(
        [*lines, f"{said} ({answer['level']})", *(f"  {x}" for x in answer["failures"])]
    )


def _image_lines(image: Answer) -> list[str]:
    psnr = "the same" if image["psnr"] is None and not image["not_finite"] else image["psnr"]
    psnr = f"{psnr:.2f} dB" if isinstance(psnr, float) and math.isfinite(psnr) else psnr
    lpips = image["lpips_refusal"] or _number(image["lpips"])
    return [
        f"PSNR {psnr}, SSIM {_number(image['ssim'])}, LPIPS: {lpips}",
        f"luminosity {image['luminosity']} of 255, the reference {image['luminosity_reference']}",
    ]


def _layer_lines(answer: Answer) -> list[str]:
    rows = [("layer", "error", "worst row", "cosine")]
    for layer in answer["layers"][:SHOWN]:
        numbers = [layer[name] for name in ("relative_error", "worst_row", "cosine")]
        rows.append((layer["name"], *map(_number, numbers)))
    more = len(answer["layers"]) - SHOWN
    head = f"mean {_number(answer['mean'])}, worst {_number(answer['worst'])}"
    lines = [head, *columns(rows)]
    if more > 0:
        lines.append(f"  and {more} layers with less error")
    for lora in answer["loras"]:
        lines.append(
            f"  {lora['lora']}: {_number(lora['kept'])} of its effect is left on {lora['layers']} "
            f"layers (norm ratio {_number(lora['norm_ratio'])}, cosine {_number(lora['cosine'])}; "
            f"least on {lora['worst_layer']}: {_number(lora['worst_kept'])})"
        )
    for side in ("a", "b"):
        if answer[f"only_in_{side}"]:
            lines.append(f"  only in {side.upper()}: {len(answer[f'only_in_{side}'])} tensors")
    return lines


def failed(answer: Answer) -> bool:
    """A level was required and is not met."""
    return bool(answer["required"] and not answer["passed"])


VERB = Verb(
    "compare", "tell how far one file is from another, layer by layer", arguments, run, text, failed
)
