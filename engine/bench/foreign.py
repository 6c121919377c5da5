"""A file and a folder of installed tools in, the same file as those tools quantize it out.

Each runs as its users run it, in the tool's own interpreter; what is missing is named. The layers
that we leave as they are stay as they are for everybody, so that files compare by their bytes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 900
SHOWN = 300  # characters of what a tool said last
LEARNED_STEPS = 20  # of convert_to_quant: its loss was smallest before, measured on these models

Command = Callable[[Path, Path, Path, Sequence[str], Sequence[str]], list[str]]


@dataclass(frozen=True)
class Foreign:
    """One way that another tool makes a file; `needs`: what must lie in the folder of tools.

    command(folder, source, target, quantized, kept) -> the command line.
    """

    who: str
    what: str
    needs: str
    command: Command


def _convert_to_quant(*options: str) -> Command:
    def command(
        folder: Path, source: Path, target: Path, quantized: Sequence[str], kept: Sequence[str]
    ) -> list[str]:
        keep = "^(?:" + "|".join(name.replace(".", r"\.") for name in kept) + r")\.weight$"
        files = ["-i", str(source), "-o", str(target), "--exclude-layers", keep]
        rest = ["--comfy_quant", "--device", "cpu", "--verbose", "MINIMAL", *options]
        return [str(folder / "ctq"), *files, *rest]

    return command


# run by the tool's interpreter: its own writers on a list of layers, because its command line
# takes Qwen-Image at its full depth alone
_COMFY_QUANTS = """
import json, sys
from safetensors import safe_open
from comfy_quants.backends.inference_model_export import (
    write_fp8_e4m3_inference_checkpoint_from_safetensors as fp8,
)
from comfy_quants.backends.int8_w8a8_model_export import (
    write_int8_w8a8_inference_checkpoint_from_safetensors as int8,
)
source, target, kind, names = sys.argv[1:]
name, storage, write = {
    "fp8": ("fp8_e4m3", "uint8", fp8), "int8": ("int8_w8a8", "int8", int8),
}[kind]
with safe_open(source, "pt") as file:
    rows = [
        {"name": n + ".weight", "source_name": n + ".weight", "quant_dtype": name,
         "storage_dtype": storage, "shape": file.get_slice(n + ".weight").get_shape()}
        for n in json.loads(names)
    ]
write(source_checkpoint=source, output_checkpoint=target, device="cpu",
      tensor_index={"format": {"name": name}, "tensors": rows})
"""


def _comfy_quants(kind: str) -> Command:
    def command(
        folder: Path, source: Path, target: Path, quantized: Sequence[str], kept: Sequence[str]
    ) -> list[str]:
        arguments = [str(source), str(target), kind, json.dumps(list(quantized))]
        return [str(folder / "python"), "-c", _COMFY_QUANTS, *arguments]

    return command


FOREIGN = (
    Foreign("convert_to_quant", "fp8", "ctq", _convert_to_quant("--simple")),
    Foreign(
        "convert_to_quant",
        "int8 convrot",
        "ctq",
        _convert_to_quant("--int8", "--scaling_mode", "row", "--convrot", "--simple"),
    ),
    Foreign(
        "convert_to_quant",
        "int8 convrot, learned rounding",
        "ctq",
        _convert_to_quant(
            "--int8", "--scaling_mode", "row", "--convrot", "--num_iter", str(LEARNED_STEPS)
        ),
    ),
    Foreign("comfy-quants", "fp8", "comfy-quants", _comfy_quants("fp8")),
    Foreign("comfy-quants", "int8 convrot", "comfy-quants", _comfy_quants("int8")),
)


def make(
    foreign: Foreign,
    folder: Path | None,
    source: Path,
    target: Path,
    quantized: Sequence[str],
    kept: Sequence[str],
) -> str | None:
    """Run the tool; None, or why there is no file."""
    if folder is None or not (folder / foreign.needs).exists():
        return f"{foreign.needs} is not installed in {folder or 'any folder that was given'}"
    target.unlink(missing_ok=True)
    command = foreign.command(folder, source, target, quantized, kept)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT_S} s"
    if done.returncode or not target.exists():
        said = (done.stderr or done.stdout).strip().splitlines()
        return said[-1][:SHOWN] if said else f"ended with {done.returncode}"
    return None


def versions(folder: Path | None) -> dict[str, str]:
    """{tool: version} of those that are installed there."""
    found = {}
    for who in dict.fromkeys(foreign.who for foreign in FOREIGN):
        if folder is None or not any((folder / f.needs).exists() for f in FOREIGN if f.who == who):
            continue
        ask = f"import importlib.metadata as m; print(m.version({who!r}))"
        command = [str(folder / "python"), "-c", ask]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found[who] = done.stdout.strip() or "unknown"
    return found
