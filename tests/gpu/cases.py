"""What is run, as tables: models, groups that share a process and a model, and their cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CAPS_GB = (12.0, 8.0, 24.0, 6.0, 16.0, 10.0)  # the most telling first: time may run out


@dataclass(frozen=True)
class Model:
    """A network of engine/specs and what it is run on.

    `blocks` cuts lists of blocks short, `sizes` replaces sizes in the shapes. `latent` is the shape
    of the latent, `text` (tokens, width) of the prompt, `pooled` the width of the pooled one or 0.
    """

    name: str
    spec: str
    latent: tuple[int, ...]
    text: tuple[int, int]
    pooled: int = 0
    blocks: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One question: a function of checks.py, the card it is asked on and what it may take.

    `scheme` is what `quantize` makes. `expects_s` is what a middling card takes: with less than
    that left the case is skipped. `limit_s` is when a case without an answer has failed.
    """

    check: str
    cap_gb: float | None = None
    scheme: str = "auto"
    expects_s: float = 15.0
    limit_s: float = 150.0


@dataclass(frozen=True)
class Group:
    """Cases on one model in one process.

    `quantized`: built layer by layer in scheme `auto`, never whole in 16 bits; else in bfloat16.
    `dynamic`: ComfyUI's own choice of how weights reach the card; else its older patcher.
    `weight` is the group's share of the time budget.
    """

    name: str
    model: Model
    cases: tuple[Case, ...]
    quantized: bool = True
    dynamic: bool = True
    weight: float = 1.0
    build_s: float = 60.0


FLUX = Model("FLUX.1 12B", "flux1-dev", (1, 16, 128, 128), (256, 4096), 768)
FLUX_PART = Model(
    "FLUX.1, 2 + 4 blocks", "flux1-dev", (1, 16, 128, 128), (256, 4096), 768,
    {"double_blocks": 2, "single_blocks": 4},
)  # fmt: skip
QWEN = Model("Qwen-Image 20B", "qwen-image-edit-2511", (1, 16, 1, 128, 128), (128, 3584))
# 832 x 480, 17 frames
WAN = Model("Wan 2.1 14B", "wan2.1-t2v-14b", (1, 16, 5, 60, 104), (256, 4096))

TINY_SIZES = {3072 * factor: 256 * factor for factor in range(1, 8)}
TINY_FLUX = Model(
    "tiny FLUX", "flux1-dev", (1, 16, 8, 8), (8, 128), 768,
    {"double_blocks": 2, "single_blocks": 2}, {**TINY_SIZES, 4096: 128},
)  # fmt: skip
TINY_WAN = Model(
    "tiny Wan", "wan2.1-t2v-14b", (1, 16, 2, 8, 8), (8, 4096), 0, {"blocks": 2},
    {5120: 256, 30720: 1536, 13824: 768},
)  # fmt: skip
# core fixes the width
TINY_QWEN = Model(
    "Qwen-Image, 1 block", "qwen-image-edit-2511", (1, 16, 1, 8, 8), (8, 3584), 0,
    {"transformer_blocks": 1},
)  # fmt: skip

SCHEMES = (
    "fp8", "fp8_row", "fp8_block128", "fp8_e5m2",
    "int8", "int8_convrot", "int8_weight_only", "int4_g128",
    "mxfp8", "nvfp4", "w4a4_convrot", "w4a8",
)  # fmt: skip


def under_caps(caps: tuple[float, ...]) -> tuple[Case, ...]:
    """Each cap twice: as core decides, and with the limit of our VRAM Manager."""
    return tuple(Case(check, cap) for cap in caps for check in ("auto", "limit"))


ON_ONE_MODEL = (Case("lora"), Case("clones"), Case("evict"))
BLOCKS = (
    *(Case("quantize", scheme=scheme) for scheme in SCHEMES),
    Case("order", expects_s=25.0), *ON_ONE_MODEL, Case("compile", expects_s=60.0, limit_s=240.0),
)  # fmt: skip

FULL = (
    Group("blocks", FLUX_PART, BLOCKS, quantized=False, weight=1.0),
    Group(
        "flux", FLUX,
        (*under_caps(CAPS_GB[:2]), Case("lora", 12.0), Case("clones", 12.0), Case("evict", 12.0),
         *under_caps(CAPS_GB[2:])),
        weight=1.2,
    ),
    Group("qwen", QWEN, under_caps(CAPS_GB), weight=1.2, build_s=90.0),
    Group("wan", WAN, under_caps(CAPS_GB), weight=1.4, build_s=75.0),
    Group("blocks, older patcher", FLUX_PART, (Case("quantize"), *ON_ONE_MODEL),
          quantized=False, dynamic=False, weight=0.4),
    Group("flux, older patcher", FLUX, under_caps(CAPS_GB[:2]), dynamic=False, weight=0.6),
)  # fmt: skip

TINY = (
    Group(
        "blocks", TINY_FLUX,
        (*(Case("quantize", scheme=name) for name in ("auto", "fp8_row", "int4_g128")),
         Case("order"), *ON_ONE_MODEL, Case("compile")),
        quantized=False, build_s=5.0,
    ),
    Group("flux", TINY_FLUX, (*under_caps((6.0,)), Case("lora", 6.0)), build_s=5.0),
    Group("wan", TINY_WAN, under_caps((6.0,)), build_s=5.0),
    Group("qwen", TINY_QWEN, (Case("auto", 6.0),), build_s=15.0),
)  # fmt: skip


def groups(tiny: bool, only: str | None = None) -> tuple[Group, ...]:
    """The groups to run; with `only`, those cases whose name has that word."""
    found = []
    for group in TINY if tiny else FULL:
        cases = tuple(case for case in group.cases if not only or only in title(group, case))
        if cases:
            fields = {name: getattr(group, name) for name in group.__dataclass_fields__}
            found.append(Group(**{**fields, "cases": cases}))
    return tuple(found)


def title(group: Group, case: Case) -> str:
    """The name of a case: its group, the question and what tells it from its neighbors."""
    of = f" {case.scheme}" if case.check == "quantize" else ""
    return f"{group.name}: {case.check}{of}" + (f" {case.cap_gb:g} GB" if case.cap_gb else "")
