"""What is said of a dialect is true: stock ComfyUI reads it right, bit for bit, or it does not."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from ..engine.dialects import NAME, READ
from ..engine.dialects_blocks import BLOCKS
from .comfy import Comfy
from .inprocess import run_inside


def test_stock_comfyui_reads_what_we_say_it_reads(comfy: Comfy, tmp_path: Path) -> None:
    files = {**READ, **BLOCKS}
    for file, (tensors, *_) in files.items():
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(own, tmp_path / f"{file}.safetensors")
    lines = run_inside(comfy, "stock_weight", folder=tmp_path, name=NAME)
    assert len(lines) == len(files)
    assert {line["file"]: line["right"] for line in lines} == {
        line["file"]: line["told"] for line in lines
    }
    assert sum(line["right"] for line in lines) >= 15 + len(BLOCKS)
