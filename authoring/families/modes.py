"""The modes of DiffSynth's scripts by their names: LoRA apart or fused, weights streamed or not."""

from __future__ import annotations

from collections.abc import Iterator

from ...engine.advise.modes import MODES, Mode
from ...engine.setup import LIVE
from .. import parts
from ..graph import Graph
from ..parts import Model
from ..tiers import ADA, ADA_24, DISTILL, STYLE, Wanted, choose
from ..workflow import Workflow
from .qwen_edit import LIGHTNING, PROMPT, SOURCE, SPEC, TEXT, edit

MODEL = "qwen-edit-2511"


def workflow_of(mode: Mode) -> Workflow:
    """One mode on the card that it is meant for."""
    tier, live = (ADA if mode.low else ADA_24), mode.loras == LIVE
    loras = (DISTILL, STYLE) if live else (DISTILL,)
    choice = choose(tier, Wanted(SPEC, loras, schemes=(mode.scheme,), low=mode.low))
    graph = Graph()
    model: Model = parts.load(graph, SOURCE)
    text = parts.text_encoder(graph, (TEXT,), "qwen_image", choice.text_scheme, choice.text_device)
    lightning = ((LIGHTNING, 1.0),)
    model = parts.fuse(graph, model, () if live else lightning)
    model = parts.quantize(graph, model, choice.scheme)
    model = parts.live(graph, model, lightning if live else ())
    edit(graph, parts.vram(graph, model, choice), text, PROMPT, steps=4, cfg=1.0)
    kept = "kept apart with Live LoRA" if live else "fused before quantizing"
    return Workflow(
        name=f"image_{MODEL}_mode-{mode.name.lower().replace(' ', '-')}_fp8_{tier.key}",
        purpose=f"{mode.name}, as DiffSynth's scripts call it: FP8 weights, the LoRA {kept}"
        f"{', every weight streamed' if mode.low else ''}. Best for {mode.best_for}.",
        graph=graph,
        card=f"{tier.title} ({tier.card})",
        choices=(choice,),
        changes=(
            "RTX 20 and 30 do not multiply FP8: set Quantize Model to `int8_convrot` there.",
            "Strengths that still change: a `standard` mode. Settled ones: an `optimized` mode.",
        ),
    )


def workflows() -> Iterator[Workflow]:
    """All that quantize."""
    yield from (workflow_of(mode) for mode in MODES if mode.scheme != "none")


WORKFLOWS = workflows
