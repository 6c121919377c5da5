"""Convert once: a 16-bit file and its LoRAs in, one quantized file out, for each family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..graph import Graph
from ..models import File, file
from ..parts import Strengths
from ..tiers import DISTILL, TIERS, Wanted, choose
from ..workflow import Workflow, dashed
from .flux1 import HYPER
from .qwen_edit import LIGHTNING, SOURCE
from .wan22 import LORAS, NOISES, SOURCES


@dataclass(frozen=True)
class Conversion:
    """A family: its files, and the tier whose scheme is written."""

    media: str
    model: str
    spec: str
    files: tuple[tuple[File, Strengths], ...]
    tier: str = "10-12gb"


CONVERSIONS = (
    Conversion("image", "qwen-edit-2511", "qwen-image-edit-2511", ((SOURCE, ((LIGHTNING, 1.0),)),)),
    Conversion("image", "flux1-dev", "flux1-dev", ((file("flux1-dev"), HYPER),)),
    Conversion("image", "flux1-schnell", "flux1-schnell", ((file("flux1-schnell"), ()),)),
    Conversion(
        "image", "flux2-klein-4b", "flux2-klein-4b", ((file("flux-2-klein-4b"), ()),), "8gb"
    ),
    Conversion(
        "image", "z-image-turbo", "z-image-turbo", ((file("z_image_turbo_bf16"), ()),), "8gb"
    ),
    Conversion(
        "video", "wan22-i2v", "wan2.2-i2v-14b",
        tuple((SOURCES[noise], ((LORAS[noise], 1.0),)) for noise in NOISES),
    ),
    Conversion(
        "video", "wan21-t2v", "wan2.1-t2v-14b",
        (
            (
                file("wan2.1_t2v_14B_bf16"),
                ((file("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32"), 1.0),),
            ),
        ),
    ),
)  # fmt: skip


def workflow_of(row: Conversion) -> Workflow:
    """One node a file, with its report."""
    tier = TIERS[row.tier]
    loras = (DISTILL,) if any(strengths for _, strengths in row.files) else ()
    choice = choose(tier, Wanted(row.spec, loras))
    graph = Graph()
    with graph.step("Convert"):
        for source, strengths in row.files:
            given: dict[str, Any] = {"count": str(len(strengths))}
            for number, (lora, strength) in enumerate(strengths, start=1):
                given |= {f"count.lora_{number}": lora, f"count.strength_{number}": strength}
            stem = source.name.removesuffix(".safetensors")
            made = graph.add(
                "FQConvert", file=source, scheme=choice.scheme,
                filename_prefix=f"diffusion_models/{stem}_{choice.scheme}", **given,
            )  # fmt: skip
            graph.add("PreviewAny", "What was written", source=made.out("report"))
    fused = "its LoRA fused, " if loras else ""
    return Workflow(
        name=f"{row.media}_{row.model}_convert-once_{dashed(choice.scheme)}_any",
        purpose=f"{choice.cases[0][1].job.title}, converted once: {fused}every weight quantized "
        "once, layer by layer, in a GiB of memory. Load the written file with Load FP8 DiT or "
        "ComfyUI's own loader.",
        graph=graph,
        card="any: the file is never in memory as a whole",
        choices=(choice,),
        changes=(
            f"`{choice.scheme}` is what the Advisor picks for {tier.title}. Another scheme: the "
            "node's `scheme`.",
            "The same without ComfyUI: `fusequant convert`.",
        ),
    )


def workflows() -> Iterator[Workflow]:
    """All of them."""
    yield from (workflow_of(row) for row in CONVERSIONS)


WORKFLOWS = workflows
