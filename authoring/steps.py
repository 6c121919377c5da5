"""What tests/live/bench_step.py measured in, the tables of docs/speed.md and the README out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.measure.results import Result
from ..engine.measure.table import markdown_table

Row = Mapping[str, Any]
# of the README: what a step takes, for those who have no GPU
SHOWN = (
    "core fp32", "core bf16, SDPA", "core int8", "core fp8", "int8, SDPA", "int8_convrot, SDPA",
    "fp8, SDPA", "int4_g128, SDPA", "int8, SDPA, Live LoRA",
)  # fmt: skip
HEAD = ("", "a step", "of ComfyUI's bf16 with SDPA", "of its fp32")


def page(result: Result) -> str:
    """Steps, LoRAs and memory, each way a row, and what was not run."""
    steps = _rows(result, "step")
    asked = [row for row in steps if "why_not" not in row]
    table = [(*_times(row), f"{row['error']:.4f}", _compute(row), _rounds(row)) for row in asked]
    parts = [
        f"{_model(result, 'parameters')}, {result.settings['image_tokens']} image and "
        f"{result.settings['text_tokens']} text tokens:",
        markdown_table((*HEAD, "error", "computes in", "rounds"), table),
        *(
            f"- Not timed: {row['contender']}: {row['why_not']}."
            for row in steps
            if row not in asked
        ),
        f"A LoRA of rank {result.settings['rank']} on every block, applied to the same model:",
        markdown_table(
            ("", "first", "another strength", "one used before"),
            [
                (
                    _name(row),
                    *(_seconds(row.get(key)) for key in ("first_s", "change_s", "again_s")),
                )
                for row in _rows(result, "lora")
            ],
        ),
        f"Private memory of the process in a step, {_model(result, 'memory_parameters')}:",
        markdown_table(("", "tokens", "private", "pages of mapped files"), memory(result)),
    ]
    return "\n\n".join(parts)


def short(result: Result) -> str:
    """The README's table."""
    named = {row["contender"]: row for row in _rows(result, "step")}
    rows = [_times(named[name]) for name in SHOWN if "why_not" not in named[name]]
    return markdown_table(HEAD, rows)


def memory(result: Result) -> list[tuple[str, int, str, str]]:
    """(way, tokens, private, mapped) of each process."""
    return [
        (
            _name(row),
            row["image_tokens"] + row["text_tokens"],
            _size(row["peak_bytes"]),
            _size(row["file_bytes"]),
        )
        for row in _rows(result, "memory")
    ]


def _rows(result: Result, what: str) -> Sequence[Row]:
    return [row for row in result.rows if row["what"] == what]


def _times(row: Row) -> tuple[str, str, str, str]:
    """(way, seconds, over bf16 with SDPA, over fp32)."""
    seconds = row["median_s"]
    told = f"{seconds:.2f} s" if seconds is not None else "with 32 tokens only"
    if row["rounds"] or seconds is None:
        return _name(row), told, f"{row['over_bf16_sdpa']:.2f}", f"{row['over_fp32']:.2f}"
    return _name(row), told, "", ""  # a first step: what it is beside is no first step


def _name(row: Row) -> str:
    """`core` is ComfyUI itself."""
    name = str(row["contender"])
    return f"ComfyUI, {name.removeprefix('core ')}" if name.startswith("core ") else name


def _compute(row: Row) -> str:
    return str(row["compute"]).replace("bfloat16", "bf16").replace("float32", "fp32")


def _rounds(row: Row) -> str:
    """How often it was timed after its first step."""
    return str(row["rounds"] or ("first step only" if "first_s" in row else ""))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _size(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f} GiB"


def _model(result: Result, what: str) -> str:
    return f"{result.settings[what] / 1e9:.2f} billion parameters"
