"""One way to make a file, timed in a process of its own.

`python -m fusequant.engine.bench.contender CONTENDER SCHEME SOURCE TARGET` answers with one JSON
object on stdout: seconds without imports, private bytes over the baseline that imports leave,
bytes written.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..measure.timing import PrivatePeak

# what comfy-kitchen has for a scheme; fp8 per row has no layout there, per tensor is the nearest
KITCHEN = {
    "fp8": ("float8_e4m3fn", {}),
    "fp8_row": ("float8_e4m3fn", {}),
    "int8": ("int8_tensorwise", {"per_channel": True}),
    "int8_convrot": ("int8_tensorwise", {"per_channel": True, "convrot": True}),
}


def fusequant_convert(scheme: str, source: Path, target: Path) -> Callable[[], dict[str, Any]]:
    """Our own converter."""
    from ..files.open import open_source
    from ..pipeline import Request, convert, prepare

    def run() -> dict[str, Any]:
        prepared = prepare(open_source(source), (), Request(scheme=scheme))
        written = convert(prepared, target)
        predicted = prepared.plan
        return {
            "predicted_bytes": predicted.bytes,
            "predicted_peak_bytes": predicted.peak_private_bytes,
            "layers": dict(written.layers),
        }

    return run


def kitchen_loop(scheme: str, source: Path, target: Path) -> Callable[[], dict[str, Any]]:
    """Load everything, quantize matrix by matrix with comfy-kitchen, save everything."""
    import torch
    from comfy_kitchen.tensor import TensorCoreFP8Layout, TensorWiseINT8Layout
    from safetensors.torch import load_file, save_file

    from ..files.open import open_source
    from ..pipeline import Request, prepare

    prepared = prepare(open_source(source), (), Request(scheme=scheme))
    chosen = {c.layer.key for c in prepared.plan.choices if c.scheme != "none"}
    prepared.close()
    format_id, options = KITCHEN[scheme]
    layout = TensorCoreFP8Layout if format_id == "float8_e4m3fn" else TensorWiseINT8Layout
    config: dict[str, object] = {"format": format_id}
    if "convrot" in options:
        config |= {"convrot": True, "convrot_groupsize": 256}
    marker = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)

    def run() -> dict[str, Any]:
        out = {}
        with torch.inference_mode():
            for key, weight in load_file(source).items():
                if key not in chosen:
                    out[key] = weight
                    continue
                codes, params = layout.quantize(weight, **options)
                out[key], out[key + "_scale"] = codes, params.scale
                out[key.removesuffix("weight") + "comfy_quant"] = marker.clone()
            save_file(out, target)
        _sync(target)
        return {"layers": {scheme: len(chosen)}}

    return run


def copy(scheme: str, source: Path, target: Path) -> Callable[[], dict[str, Any]]:
    """`cp` and fsync over the copy of the round before: what the disk itself needs for the source.

    Written in place: freeing the old copy's cached pages would slow down whoever comes next.
    """

    def run() -> dict[str, Any]:
        with source.open("rb") as old, target.open("r+b" if target.exists() else "wb") as new:
            shutil.copyfileobj(old, new, 1 << 24)
        _sync(target)
        return {}

    return run


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


CONTENDERS = {"fusequant": fusequant_convert, "kitchen": kitchen_loop, "cp": copy}


def main(argv: list[str]) -> int:
    """Make the file once and say what it took."""
    name, scheme, source, target = argv
    run = CONTENDERS[name](scheme, Path(source), Path(target))
    with PrivatePeak() as peak:
        started = time.perf_counter()
        facts = run()
        seconds = time.perf_counter() - started
    facts |= {
        "seconds": seconds,
        "private_peak_bytes": peak.over_baseline_bytes,
        "bytes": Path(target).stat().st_size,
    }
    sys.stdout.write(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
