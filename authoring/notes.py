"""A workflow in, its three notes out: models, predicted needs, what to change for another card."""

from __future__ import annotations

from collections.abc import Iterator

from ..engine.advise.claims import PREDICTED
from ..engine.advise.decisions import Case
from ..engine.advise.find_card import GIB
from ..engine.measure.table import markdown_table
from .graph import Note
from .models import File
from .tiers import Choice
from .workflow import Workflow

SHRINK = (
    "Out of memory: a smaller picture, fewer frames, or VRAM Manager on **low VRAM**.",
    "The whole answer for your card, with reasons: the workflow "
    '`tool_flux1-dev_advisor_auto_any`, or `fusequant advise --gpu "RTX 4070"`.',
)


def notes_of(workflow: Workflow) -> tuple[Note, ...]:
    """The three notes; the second one only where something is predicted."""
    found = [Note("Model links", models_text(workflow))]
    if workflow.choices:
        found.append(Note(f"VRAM, RAM, disk and time: {PREDICTED}", needs_text(workflow)))
    found.append(Note("Change this for your card", changes_text(workflow)))
    return tuple(found)


def download(workflow: Workflow) -> str:
    """`41.2 GB and 3 files of unknown size`."""
    known = f"{workflow.download_gb:g} GB"
    if not workflow.unsized:
        return known
    more = f"{workflow.unsized} file{'s' if workflow.unsized > 1 else ''} whose size is not known"
    return f"{known} and {more} here" if workflow.download_gb else f"{more} here"


def models_text(workflow: Workflow) -> str:
    """Links by folder, then the tree, then the sum."""
    lines = [workflow.purpose, ""]
    if not workflow.files:
        return "\n".join([*lines, "Nothing to download: choose a file of your own."])
    for directory in _directories(workflow.files):
        lines.append(f"**{directory}**")
        lines += [_line(file) for file in workflow.files if file.directory == directory]
        lines.append("")
    lines += [f"Download: about {download(workflow)}.", "", "```", *_tree(workflow.files), "```"]
    return "\n".join(lines)


def _directories(files: list[File]) -> list[str]:
    return list(dict.fromkeys(file.directory for file in files))


def _line(file: File) -> str:
    size = f", {file.size_gb:g} GB" if file.size_gb else ""
    gated = ", accept its licence and log in first" if file.gated else ""
    return f"- [{file.name}]({file.url}): {file.bits} bits{size}{gated}"


def _tree(files: list[File]) -> Iterator[str]:
    yield "ComfyUI/models/"
    for directory in _directories(files):
        yield f"  {directory}/"
        yield from (f"    {file.name}" for file in files if file.directory == directory)


def needs_text(workflow: Workflow) -> str:
    """A table for each choice, every figure predicted."""
    tables = [_needs(choice) for choice in workflow.choices]
    told = (
        f"Every figure is {PREDICTED} by the GPU Advisor from file headers and data sheets, none "
        "is measured. GiB are 2^30 bytes. VRAM is the peak while sampling, RAM what waits there. "
        "A step is the model's own time, an upper bound; text encoder and VAE come on top."
    )
    return "\n\n".join([*dict.fromkeys(tables), told])


def _needs(choice: Choice) -> str:
    head = ("card", "VRAM", "RAM", "streamed a pass", "a step")
    rows = [_row(card, case) for card, case in choice.cases]
    job = choice.cases[0][1].job
    shown = f"{job.picture.width}x{job.picture.height}"
    shown += f", {job.picture.frames} frames" if job.picture.frames > 1 else ""
    shown += f", {job.picture.batch} at once" if job.picture.batch > 1 else ""
    passes = "with guidance" if job.passes > 1 else "without guidance"
    what = f"**{job.title}** in `{choice.scheme}`, {shown}, {passes} ({PREDICTED})"
    weights = choice.cases[0][1].found.sizes.weight_bytes * job.count
    disk = f"Weights in this scheme: {weights / GIB:.1f} GiB {PREDICTED}"
    cache = "." if choice.scheme == "none" else ", also in the cache of Quantize Model."
    return f"{what}\n\n{markdown_table(head, rows)}\n\n{disk}{cache}"


def _row(card: str, case: Case) -> tuple[str, ...]:
    found = case.found
    ram = f"{found.ram_bytes / GIB:.0f} GiB" + (", short" if case.short else "")
    return (
        card,
        f"{found.vram_bytes / GIB:.1f} GiB",
        ram,
        f"{found.streamed_bytes / GIB:.1f} GiB" if found.streamed_bytes else "nothing",
        f"{found.seconds.step:.1f} s",
    )


def changes_text(workflow: Workflow) -> str:
    """What to turn, in the order in which people try."""
    return "\n".join(f"- {line}" for line in (*workflow.changes, *SHRINK))
