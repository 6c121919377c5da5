"""A path in, a report out: what the file is, who opens it right, what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .bits import not_finite
from .files.open import open_source
from .format import Contents
from .model import Model, recognise
from .problem import Problem
from .problem_kinds import KINDS, tell
from .read import examine, formats
from .repairable import CORE, LATER, homes, stored_forms
from .source import Source
from .tensors import FLOATS

SMALL_BYTES = 64 * 1024
UNKNOWN = "unknown"
CHECKPOINT = "Load Checkpoint (CheckpointLoaderSimple)"
# what a stock node is called on the screen
STOCK_TITLES = {
    "UNETLoader": "Load Diffusion Model (UNETLoader)",
    "CLIPLoader": "Load CLIP (CLIPLoader)",
    "CLIPVisionLoader": "Load CLIP Vision (CLIPVisionLoader)",
}
# our loader for each kind of family
OUR_LOADERS = {
    "diffusion": "FuseQuant: Load FP8 DiT",
    "text": "FuseQuant: Quantized T5/CLIP Loader",
    "vision": "FuseQuant: Quantized CLIP Vision Loader",
}
# unquantized files in other names that stock ComfyUI converts while it loads
STOCK_CONVERTS = frozenset((x, "diffusers") for x in ("flux", "sd3", "z_image"))


@dataclass(frozen=True)
class Report:
    """What a file is. `layers` counts parameters by scheme; `dtype` is that of most numbers."""

    file: str
    family: str
    dialect: str
    layers: Mapping[str, int]
    bytes: int
    loads_in: tuple[str, ...]
    problems: tuple[Problem, ...]
    prefix: str
    dtype: str
    parameters: int

    def to_json(self) -> dict[str, object]:
        """The shape that the command line prints."""
        return {
            "file": self.file,
            "family": self.family,
            "dialect": self.dialect,
            "layers": dict(self.layers),
            "bytes": self.bytes,
            "loads_in": list(self.loads_in),
            "problems": [problem.to_json() for problem in self.problems],
            "prefix": self.prefix,
            "dtype": self.dtype,
            "parameters": self.parameters,
        }


def inspect(path: str | Path, rotated: int | None = None) -> Report:
    """Open, recognise, check; refuses only what cannot be read at all. `rotated` as in `read`."""
    source = open_source(Path(path))
    try:
        return report(source, rotated)
    finally:
        source.close()


def report(source: Source, rotated: int | None = None, numbers: bool = True) -> Report:
    """The report of an opened source; faults that `read` refuses are among its problems.

    Without `numbers` norms and biases are not looked at for NaN: that decides nothing else.
    """
    contents = examine(source, rotated)
    model = recognise(contents)
    problems = (
        *contents.problems,
        *storage_problems(contents, model),
        *tool_problems(contents),
        *spelling_problems(source, contents, model),
        *(number_problems(source, contents) if numbers else ()),
    )
    return Report(
        file=str(source.path),
        family=model.family.name,
        dialect=contents.format,
        layers=dict(Counter(layer.scheme for layer in contents.layers)),
        bytes=size_bytes(source),
        loads_in=loads_in(contents, model, problems),
        problems=problems,
        prefix=model.prefix,
        dtype=model.dtype,
        parameters=sum(
            layer.elements
            for layer in contents.layers
            if layer.scheme != "none" or layer.dtype in FLOATS
        ),
    )


def size_bytes(source: Source) -> int:
    """The size of the file; of the tensors where a source is more than one file."""
    if source.path.is_file() and source.kind != "sharded":
        return source.path.stat().st_size
    return sum(spec.size_bytes for spec in source.tensors.values())


def storage_problems(contents: Contents, model: Model) -> list[Problem]:
    """Schemes that stock ComfyUI 0.33 has no format or no loader for, each told once."""
    # what only a codec reads is a format of ComfyUI's under its markers alone: see tool_problems
    stored = stored_forms() if formats()[contents.format].core_reads else homes()
    counts = Counter(layer.scheme for layer in contents.layers if layer.scheme in stored)
    if counts and model.family.kind == "vision":
        return [tell("vision-quantized", f"{sum(counts.values())} quantized layers")]
    # a bare cast is read right: its codes are the numbers
    scaled = sum("scale" in layer.parts[0].tensors for layer in contents.layers)
    unseen = model.family.name == "clip" and scaled > 0
    found = [tell("clip-quantized", f"{scaled} quantized layers")] if unseen else []
    return found + [
        tell(
            "needs-newer-core" if stored[scheme].opened_by == LATER else "no-core-format",
            f"{count} layers in {scheme} ({stored[scheme].format_id})",
        )
        for scheme, count in counts.items()
        if stored[scheme].opened_by != CORE
    ]


def tool_problems(contents: Contents) -> list[Problem]:
    """Quantized layers as another tool stores them, where its format tells no other fault."""
    form = formats()[contents.format]
    stored = Counter(layer.scheme for layer in contents.layers if layer.scheme != "none")
    told = any(KINDS[problem.kind].stock_wrong for problem in contents.problems)
    if form.core_reads or told or not stored:
        return []
    counted = ", ".join(f"{count} layers in {name}" for name, count in stored.items())
    return [tell("other-tool", f"{form.title}: {counted}")]


def spelling_problems(source: Source, contents: Contents, model: Model) -> list[Problem]:
    """Names and files that no stock loader takes."""
    found = []
    if source.kind == "sharded":
        found.append(tell("several-files", "a checkpoint in several files"))
    if model.family.name == UNKNOWN:
        found.append(tell("family-unknown", "layer names of no known family"))
    elif model.spelling != "core":
        plain = all(layer.scheme == "none" for layer in contents.layers)
        if not plain or (model.family.name, model.spelling) not in STOCK_CONVERTS:
            found.append(tell("names-not-core", f"{model.spelling} layer names"))
    return found


def number_problems(source: Source, contents: Contents) -> list[Problem]:
    """NaN and infinity in small plain tensors: norms, biases, modulations."""
    found = []
    for layer in contents.layers:
        spec = source.tensors[layer.parts[0].tensors["weight"]]
        small = len(spec.shape) == 1 or spec.size_bytes <= SMALL_BYTES
        if layer.scheme == "none" and small and not_finite(source, spec):
            found.append(tell("not-finite", "NaN or infinity", layer.key))
    return found


def stock_reads(contents: Contents, problems: Iterable[Problem]) -> bool:
    """Stock ComfyUI 0.33 gets every number of such a file right."""
    wrong = any(KINDS[problem.kind].stock_wrong for problem in problems)
    return formats()[contents.format].core_reads and not wrong


def loads_in(contents: Contents, model: Model, problems: tuple[Problem, ...]) -> tuple[str, ...]:
    """The stock nodes where they get every number right, else ours, else none."""
    if model.family.name == UNKNOWN or any(KINDS[problem.kind].refuses for problem in problems):
        return ()
    if not stock_reads(contents, problems):
        return (OUR_LOADERS[model.family.kind],)
    node = STOCK_TITLES.get(model.family.loads_in, model.family.loads_in)
    return (CHECKPOINT, node) if model.others else (node,)
