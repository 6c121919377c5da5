"""A model or LoRA file in, what it is and what is wrong with it out; and a mended copy of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import Refused
from ..engine.files.open import open_source
from ..engine.fuse.lora import open_lora
from ..engine.inspect import Report as Inspected
from ..engine.inspect import inspect
from ..engine.model import families
from ..engine.pipeline import convert
from ..engine.problem_kinds import REPAIR
from ..engine.read import formats
from ..engine.rewrite import prepare_repair
from .paths import find, names, output_file
from .progress import host_progress, tell
from .report import size

KINDS = ("diffusion_models", "text_encoders", "clip_vision", "loras")
LISTED = {"text_encoders": "clip"}  # what the host calls a folder of its output, where it differs
HERE = "write a mended copy: turn `repair` on"
LORA = ("lora-as-model", "format-lora")  # how the engine refuses a LoRA as a model


@dataclass(frozen=True)
class Diagnosis:
    """The lines for the user and, where a mended file was written, where it is."""

    lines: tuple[str, ...]
    repaired: Path | None = None

    def text(self) -> str:
        """The report."""
        return "\n".join(self.lines)


def file_names() -> list[str]:
    """`kind/name` of every file that can be looked at."""
    return [f"{kind}/{name}" for kind in KINDS for name in names(kind)]


def split_name(name: str) -> tuple[str, str]:
    """(kind, name) of a name from `file_names`."""
    kind, _, rest = name.partition("/")
    if kind in KINDS and rest:
        return kind, rest
    raise Refused(
        "file-not-found",
        found=repr(name),
        expected=f"a file below {', '.join(KINDS)}",
        fix="choose one of the list",
    )


def find_file(name: str) -> Path:
    """The path of a name from `file_names`."""
    return find(*split_name(name))


def examine(path: Path, rotated: int | None = None) -> Diagnosis:
    """What a file is. One that cannot be read is told with its fault: that is the answer.

    `rotated`: int8 rows are rotated in groups of so many inputs although the file does not say so.
    """
    try:
        found = inspect(path, rotated)
    except Refused as refused:
        if refused.kind in LORA:
            return Diagnosis(tuple(_lora_lines(path)))
        return Diagnosis(
            (
                f"{path.name}: cannot be read",
                f"PROBLEM {refused.kind}: found {refused.found}",
                f"  expected: {refused.expected}",
                f"  fix: {refused.fix}",
            )
        )
    return Diagnosis(tuple(_lines(found)))


def repair(path: Path, prefix: str, rotated: int | None = None) -> Diagnosis:
    """The diagnosis, and the mended file below the output folder with the diagnosis of that.

    Codes stay as they are wherever ComfyUI has a format for them; what had to be rounded again is
    told. Refuses what cannot be read.
    """
    found = inspect(path, rotated)
    before = _lines(found)
    if not found.problems and all(not node.startswith("FuseQuant") for node in found.loads_in):
        return Diagnosis((*before, "no mended copy was written: there is nothing to mend"))
    target = output_file(prefix)
    source = open_source(path)
    try:
        prepared = prepare_repair(source, rotated)
        tell(f"will write {prepared.plan.bytes / 1e9:.2f} GB to {target.name}")
        progress = host_progress()
        progress(0, 1)  # here and not in a thread: the bar belongs to the running node
        written = convert(prepared, target, progress)
    finally:
        source.close()
    again = Counter(
        output.choice.scheme
        for output in prepared.outputs
        if output.choice.layer.scheme != "none" and not output.as_stored
    )
    rounded = [f"{n} layers had to become {scheme}" for scheme, n in sorted(again.items())]
    lines = (
        *before, "",
        f"mended copy: {target}, {size(written.bytes)}, {written.seconds:.1f} s",
        *(rounded or ["every code is the same as before"]),
        *(f"WARNING: {warning}" for warning in prepared.plan.warnings), "",
        *examine(target).lines,
    )  # fmt: skip
    return Diagnosis(lines, target)


def repaired_name(name: str) -> str:
    """The prefix of a mended copy: where the host lists its kind, with `_repaired`."""
    kind, rest = split_name(name)
    return f"{LISTED.get(kind, kind)}/{Path(rest).with_suffix('').as_posix()}_repaired"


def _lines(found: Inspected) -> list[str]:
    """A model file: what it is, who opens it, each problem with its remedy."""
    layers = ", ".join(f"{count} {scheme}" for scheme, count in sorted(found.layers.items()))
    lines = [
        f"{Path(found.file).name}: {families()[found.family].title}",
        f"dialect: {formats()[found.dialect].title}",
        f"size: {size(found.bytes)}, {found.parameters / 1e9:.2f} B parameters, {found.dtype}",
        f"layers: {layers}",
        f"opens in: {', '.join(found.loads_in) or 'nothing as it is'}",
    ]
    for problem in found.problems:
        where = f" in {problem.layer}" if problem.layer else ""
        lines += [
            f"PROBLEM {problem.kind}{where}: found {problem.found}",
            f"  expected: {problem.expected}",
            f"  fix: {problem.fix.replace(REPAIR, HERE)}",
        ]
    return lines if found.problems else [*lines, "no problem found"]


def _lora_lines(path: Path) -> list[str]:
    """A LoRA file: how many modules it changes and what no one reads of it."""
    lora = open_lora(path)
    try:
        modules, rest = len(lora.spelled.modules), list(lora.spelled.rest)
    finally:
        lora.close()
    lines = [f"{path.name}: a LoRA of {modules} modules, {size(path.stat().st_size)}"]
    lines.append("opens in: FuseQuant: Fuse LoRA, Live LoRA; it is matched to a model there")
    if rest:
        lines.append(f"{len(rest)} tensors belong to no module: {', '.join(rest[:3])}")
    return lines
