"""A way to run a job in, its setup with one sentence for each reason out: blockers first."""

from __future__ import annotations

from ..devices import rule
from ..setup import FUSE, LIVE, LOW, Needs, Setup
from . import rules
from .blockers import blockers
from .claims import CLAIMS
from .decisions import Case, answers
from .find_card import GIB
from .job import Job
from .published import PUBLISHED


def setup_of(case: Case) -> Setup:
    """Everything that a node or a user sets."""
    machine, job, found = case.machine, case.job, case.found
    mode, limit, buffer = rules.mode(machine, job, found)
    fused = () if case.loras == LIVE else job.fused
    file_bytes = job.subject.file_bytes(found.scheme, fused)
    written = found.scheme not in (job.stored, "none")
    setup = Setup(
        scheme=found.scheme,
        needs=Needs(
            vram_bytes=found.vram_bytes,
            ram_bytes=found.ram_bytes,
            disk_bytes=job.count * file_bytes if written else 0,
            file_bytes=file_bytes,
        ),
        backend=case.pick.backend if case.pick else None,
        mode=mode,
        limit_bytes=limit,
        buffer_bytes=buffer,
        text_scheme=case.text.scheme,
        text_device=case.text.device,
        vae_dtype=rules.vae_dtype(machine),
        attention=rules.attention(machine, job, found),
        compile=rules.compiles(machine, job, found),
        loras=case.loras,
        files=case.files,
    )
    return Setup(**{**vars(setup), "reasons": reasons_of(case, setup)})


def reasons_of(case: Case, setup: Setup) -> tuple[str, ...]:
    """What is in the way, then the scheme, the decisions that hold, memory, files, text, speed."""
    blocked = case.blocked if case.job.loras and case.blocked not in case.short else None
    opens = rules.opens_in(case.scheme)
    told = (
        *blockers(case.machine),
        *case.short,
        blocked,
        case.machine.note,
        _scheme(case),
        *answers(case),
        _memory(case),
        _files(case),
        case.text.why,
        *_speed(case, setup),
        opens,
        _windows(case),
    )
    return tuple(dict.fromkeys(said for said in told if said))


def _scheme(case: Case) -> str:
    name, machine = case.scheme, case.machine
    if case.pick is not None:
        by = f" by backend {case.pick.backend}" if case.pick.backend else ""
        ratio = f"{case.pick.ratio:.2f} of the time of 16 bits"
        return f"{name} on {machine.name}: measured at {ratio}{by}."
    return f"{name} on {machine.name}: {rule(name, machine.device).why}."


def _memory(case: Case) -> str:
    machine, found = case.machine, case.found
    weights = f"{found.on_card_bytes / GIB:.1f} GiB of weights"
    work = f"{found.work.activation_bytes / GIB:.1f} GiB of activations for {_picture(case.job)}"
    if not machine.discrete:
        return f"Predicted: {found.ram_bytes / GIB:.1f} GiB of memory, with {weights} and {work}."
    of = f"{found.vram_bytes / GIB:.1f} of {machine.vram_bytes / GIB:.0f} GiB of VRAM"
    if not found.streamed_bytes:
        return f"Predicted: {of}, with {weights} and {work}."
    streamed = f"{found.streamed_bytes / GIB:.1f} GiB more streamed in every pass"
    seconds = f" ({found.seconds.stream:.2f} s a step)" if machine.listed else ""
    return f"Predicted: {of}, with {weights}, {streamed}{seconds}, and {work}."


def _picture(job: Job) -> str:
    shown = f"{job.picture.width}x{job.picture.height}"
    shown += f", {job.picture.frames} frames" if job.picture.frames > 1 else ""
    return shown + (f", batch {job.picture.batch}" if job.picture.batch > 1 else "")


def _files(case: Case) -> str | None:
    """The published file, where one is loaded in the place of quantizing."""
    if not case.files:
        return None
    public = PUBLISHED[case.job.name, case.scheme]
    return f"A published file holds it: {' and '.join(case.files)} from {public.repository}."


def _speed(case: Case, setup: Setup) -> list[str]:
    """What is true about speed, where it matters to this setup."""
    quantized = case.scheme != "none"
    few = quantized and case.found.work.tokens < rules.FEW_TOKENS
    topics = {
        "compile": setup.compile,
        "sage attention": setup.attention is not None,
        "non-blocking copies": setup.mode == LOW or bool(case.found.streamed_bytes),
        "Live LoRA": setup.loras != FUSE and quantized,
        "int8 with few tokens": few and case.machine.device != "cpu",
    }
    claims = [CLAIMS[topic] for topic, matters in topics.items() if matters]
    return [f"{claim.says[:-1]} ({claim.basis})." for claim in claims]


def _windows(case: Case) -> str | None:
    if case.machine.software.os != "Windows" or case.scheme == "none":
        return None
    return "bitsandbytes is never needed: FuseQuant makes 8-bit and 4-bit weights itself."
