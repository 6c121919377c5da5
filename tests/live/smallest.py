"""A workflow's API graph in, the same graph at the smallest sizes out; its files are made.

Pixels, frames and steps shrink and seeds are fixed. Schemes, strengths, memory modes and every
other value stay as shipped.
"""

from __future__ import annotations

import copy
import zlib
from pathlib import Path
from typing import Any

import torch

from .server import ComfyServer
from .stand_ins import StandIns

Prompt = dict[str, dict[str, Any]]

# name of an input of any node but ours: its value
SMALLEST: dict[str, Any] = {
    "width": 64, "height": 64, "length": 5, "batch_size": 1, "steps": 1, "seed": 1, "noise_seed": 1,
    "megapixels": 0.01, "max_length": 4, "sampling_mode.seed": 1,
}  # fmt: skip
# of a node in particular: two samplers that share the steps keep a step each
OF_NODE: dict[tuple[str, str], Any] = {
    ("KSamplerAdvanced", "steps"): 2,
    ("FQBenchmark", "what.rounds"): 1,
    ("FQBenchmark", "what.steps"): 2,
    ("FQBenchmark", "what.tokens"): 16,
    ("FQQuality", "steps"): 1,
}
HALVES = ("start_at_step", "end_at_step")


def smallest(
    prompt: Prompt, server: ComfyServer, files: StandIns, folders: dict[str, str]
) -> Prompt:
    """`folders`: file name -> the models folder that it belongs in."""
    made = copy.deepcopy(prompt)
    for node in made.values():
        kind, inputs = node["class_type"], node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, list):
                continue
            if isinstance(value, str) and (file := value.rpartition("/")[2]) in folders:
                files.make(folders[file], file)
            elif (kind, name) in OF_NODE:
                inputs[name] = OF_NODE[kind, name]
            elif kind == "KSamplerAdvanced" and name in HALVES:
                inputs[name] = value and min(value, 1) if value < 1000 else value
            elif kind == "LoadImage" and name == "image":
                picture(server.base / "input" / value)
            elif kind == "LoadImageDataSetFromFolder" and name == "folder":
                for number in (1, 2):
                    picture(server.base / "input" / value / f"{number}.png")
            elif not kind.startswith("FQ") and name in SMALLEST:
                inputs[name] = SMALLEST[name]
    return made


def picture(path: Path, size: int = 64) -> Path:
    """A small PNG of noise: truecolor, no filter, one chunk; alpha for masks."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(1)
        rows = torch.randint(0, 256, (size, size * 4), generator=generator, dtype=torch.uint8)
        raw = b"".join(b"\0" + bytes(row.tolist()) for row in rows)
        header = size.to_bytes(4, "big") * 2 + bytes((8, 6, 0, 0, 0))
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
            for kind, data in parts
        ))  # fmt: skip
    return path
