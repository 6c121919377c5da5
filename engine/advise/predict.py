"""A machine, a job and a scheme in, predicted memory and time out. Nothing here is measured.

memory: what stays on the card by `place`, two buffers where something is streamed, activations and
ComfyUI's reserve. time of a step: passes x (products / gain + attention) / rate, the bytes that are
streamed over the bus, and what dequantizing reads and writes. Copies that hide behind computing
are not taken off: the time is an upper bound of the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..devices import EMULATED, NATIVE, rule
from ..place.budget import RESERVE_BYTES
from ..place.step import CPU_RUN_BYTES, HEAD, query_rows, step_bytes
from ..scheme_names import schemes
from .find_card import GIB
from .job import MEMORY, Job
from .latents import Work, call_of
from .machine import Machine
from .subject import Sizes

EFFICIENCY = 0.5  # of the data sheet's rate that a transformer reaches
# of RESERVE_BYTES what ComfyUI keeps for itself; the rest is activations of a 1 megapixel picture
HOST_BYTES = int(1.25 * GIB)
PROCESS_BYTES = 3 * GIB  # RAM of ComfyUI, torch and the system's own
UNIFIED_SHARE = 0.75  # of a unified memory that Metal lets a process use
TYPICAL_RANK = 64  # of a LoRA that is only spoken of
NO_INT8_SHARE = 0.5  # of its rate where int8 products are done in float32 by plain torch

# what a scheme multiplies in where the device takes its codes; one without a row gains nothing
PRODUCTS = {
    "int8": "int8",
    "int8_convrot": "int8",
    "w4a8": "int8",
    "w4a4_convrot": "int8",
    "fp8": "fp8",
    "fp8_row": "fp8",
    "fp8_block128": "fp8",
    "mxfp8": "fp8",
    "nvfp4": "fp4",
}
# without a matmul of the device plain torch multiplies these in float32, where others are
# dequantized to 16 bits
PLAIN_INT8 = ("int8", "int8_convrot")
# families that overflow in float16: without bfloat16 units ComfyUI computes them in float32
NO_FP16 = frozenset(
    ("hidream", "hunyuan_video", "ltx2", "ltx_video", "lumina2", "qwen_image", "z_image")
)


@dataclass(frozen=True)
class Seconds:
    """Predicted times. `step`: one step; `stream`: the part that weights cross the bus.

    `exchange`: models that take turns, once a run.
    """

    compute: float
    stream: float
    dequantize: float
    exchange: float

    @property
    def step(self) -> float:
        """Everything, one after the other."""
        return self.compute + self.stream + self.dequantize

    def to_json(self) -> dict[str, object]:
        """Rounded: they are predictions."""
        found = {name: round(value, 4) for name, value in vars(self).items()}
        return {"step_s": round(self.step, 4), "basis": "predicted"} | {
            f"{name}_s": value for name, value in found.items()
        }


@dataclass(frozen=True)
class Prediction:
    """What one scheme needs for a job on a machine.

    `vram_bytes` and `ram_bytes` are peaks. `together`: all models that take turns stay on the card.
    `count`: how many there are. `text_resident`: the text encoder stays too. `error`: predicted
    relative error of a product.
    """

    scheme: str
    sizes: Sizes
    work: Work
    vram_bytes: int
    ram_bytes: int
    resident_bytes: int
    streamed_bytes: int
    count: int
    together: bool
    text_resident: bool
    seconds: Seconds
    error: float
    support: str
    gain: float

    @property
    def on_card_bytes(self) -> int:
        """Weights of all models that are on the device at once."""
        return self.resident_bytes * (self.count if self.together else 1)

    @property
    def fits(self) -> bool:
        """Everything that is sampled stays on the device."""
        return not self.streamed_bytes and self.together


def in_float32(machine: Machine, job: Job) -> bool:
    """Whether what is not quantized is computed in float32 there."""
    model = job.subject.model
    overflows = model.family.name in NO_FP16 and "vision_in.proj.1.weight" not in model.shapes
    return machine.discrete and not machine.card.architecture.bf16 and overflows


def gain_of(scheme: str, machine: Machine) -> float:
    """Times the 16-bit rate of a scheme's products; 1 where its codes are dequantized first."""
    if rule(scheme, machine.device).support != NATIVE:
        return 1.0
    return machine.card.architecture.gains.get(PRODUCTS.get(scheme, ""), 1.0)


def weight_only(scheme: str, machine: Machine) -> bool:
    """Whether codes become 16 bits before they are multiplied: saves memory, not time."""
    return scheme != "none" and rule(scheme, machine.device).support == EMULATED


def error_of(scheme: str, machine: Machine, job: Job) -> float:
    """Bounds for Gaussian numbers: of weights, of activations, of what the file lost before."""
    weights = schemes()[scheme].worst_error if scheme != "none" else 0.0
    rounded = rule(scheme, machine.device).support == NATIVE and scheme != "none"
    before = schemes()[job.stored].worst_error if _twice(scheme, job) else 0.0
    return float((weights**2 * (2 if rounded else 1) + before**2) ** 0.5)


def _twice(scheme: str, job: Job) -> bool:
    return job.stored not in ("none", scheme) and job.stored in schemes()


def reserve_of(work: Work) -> int:
    """VRAM beside weights: activations and the host's reserve, never below RESERVE_BYTES."""
    return max(RESERVE_BYTES, HOST_BYTES + work.activation_bytes)


def activation_bytes(machine: Machine, job: Job, sizes: Sizes) -> int:
    """What one call takes beside the weights, by place/step.py. A CPU keeps attention's scores."""
    wide = machine.device == "cpu" or in_float32(machine, job)
    call = call_of(job.subject.model, job.picture, 4 if wide else 2)
    net = job.subject.net(sizes.scheme, machine.device)
    if machine.device == "cpu":
        free = (machine.ram_bytes or 0) - sizes.weight_bytes
        rows = query_rows(free, call, net.hidden // HEAD)
        call = replace(call, rows=rows, run_bytes=CPU_RUN_BYTES)
    return step_bytes(net, call)


def live_bytes(job: Job, adapter_rows: int, live: bool) -> int:
    """What Live LoRA adds to the weights: the files' numbers, or those of a typical rank."""
    if not live:
        return 0
    typical = 2 * TYPICAL_RANK * adapter_rows
    return sum(typical if x.size_bytes is None else x.size_bytes for x in job.loras if not x.fixed)


@dataclass(frozen=True)
class Pace:
    """Times the 16-bit rate that products reach. `measured`: what dequantizing takes is in it."""

    gain: float
    measured: bool = False


@dataclass(frozen=True)
class _Placed:
    vram: int
    resident: int
    streamed: int
    together: bool
    text_resident: bool


def predict(
    machine: Machine,
    job: Job,
    sizes: Sizes,
    text: int,
    live: bool = False,
    pace: Pace | None = None,
    low: bool = False,
) -> Prediction | None:
    """What a scheme needs; None where even streaming it does not fit.

    `text`: bytes of the text encoders as they are loaded. `low`: no weight stays on the card.
    `pace`: in the place of the architecture's gain.
    """
    work = replace(job.work, activation_bytes=activation_bytes(machine, job, sizes))
    adapters = live_bytes(job, sizes.adapter_rows, live)
    placed = _placed(machine, job, sizes, text, reserve_of(work) + adapters, low)
    if placed is None:
        return None
    pace = pace or Pace(gain_of(sizes.scheme, machine))
    return Prediction(
        scheme=sizes.scheme,
        sizes=sizes,
        work=work,
        vram_bytes=placed.vram if machine.device != "cpu" else 0,
        ram_bytes=_ram(machine, job, sizes, placed, text, adapters),
        resident_bytes=placed.resident,
        streamed_bytes=placed.streamed,
        count=job.count,
        together=placed.together,
        text_resident=placed.text_resident,
        seconds=_seconds(machine, job, sizes, work, placed, adapters, pace),
        error=error_of(sizes.scheme, machine, job),
        support=rule(sizes.scheme, machine.device).support,
        gain=pace.gain,
    )


def _placed(
    machine: Machine, job: Job, sizes: Sizes, text: int, reserve: int, low: bool
) -> _Placed | None:
    """Where the weights live; None where they cannot. `reserve`: VRAM that is not for weights."""
    weights = sizes.weight_bytes
    if machine.device == "cpu":
        return _Placed(job.count * weights + text + reserve, weights, 0, True, True)
    if machine.unified:
        needed = job.count * weights + text + reserve
        room = int(UNIFIED_SHARE * machine.vram_bytes)
        return _Placed(needed, weights, 0, True, True) if needed <= room else None
    found = sizes.placed(0 if low else machine.vram_bytes - (reserve - RESERVE_BYTES))
    if found.fits:
        together = job.count == 1 or (
            job.goal != MEMORY and job.count * weights + reserve <= machine.vram_bytes
        )
        held = (job.count if together else 1) * weights
        both = together and held + text + reserve <= machine.vram_bytes
        return _Placed(held + reserve, weights, 0, together, both)
    needed = found.resident_bytes + 2 * sizes.largest_bytes + reserve
    if needed > machine.vram_bytes:
        return None
    return _Placed(needed, found.resident_bytes, found.streamed_bytes, False, False)


def _ram(
    machine: Machine, job: Job, sizes: Sizes, placed: _Placed, text: int, adapters: int
) -> int:
    """Main memory: what waits there. One memory holds everything where there is but one."""
    if not machine.discrete:
        return placed.vram + PROCESS_BYTES
    everything = job.count * sizes.weight_bytes + text
    on_card = placed.resident * (job.count if placed.together else 1)
    waiting = everything - on_card - (text if placed.text_resident else 0)
    return PROCESS_BYTES + waiting + adapters


def _share(machine: Machine, job: Job, scheme: str) -> float:
    """Of the 16-bit rate that plain products reach."""
    fp32 = machine.card.architecture.fp32_share
    if scheme in PLAIN_INT8 and weight_only(scheme, machine):
        return min(fp32, NO_INT8_SHARE)
    return fp32 if in_float32(machine, job) else 1.0


def _seconds(
    machine: Machine, job: Job, sizes: Sizes, work: Work, placed: _Placed, adapters: int, pace: Pace
) -> Seconds:  # fmt: skip
    card = machine.card
    share = _share(machine, job, sizes.scheme)
    codes = pace.gain != 1.0 or pace.measured
    rate = card.tflops * 1e12 * EFFICIENCY
    products = work.products / (pace.gain if codes else share)
    beside = 2.0 * (adapters / 2) * work.tokens * job.picture.batch  # Live LoRA's own products
    compute = (products + (work.attention + beside) / share) / rate
    bus = card.bus_gb_s * 1e9
    copied = 0.0
    if weight_only(sizes.scheme, machine) and not pace.measured:
        # codes are read, 16 bits are written and read again
        bits = schemes()[sizes.scheme].bits
        copied = sizes.quantized_elements * (bits / 8 + 4) / (card.bandwidth_gb_s * 1e9)
    turns = job.count > 1 and not placed.together and bool(bus)
    return Seconds(
        compute=work.passes * compute,
        stream=work.passes * placed.streamed / bus if bus else 0.0,
        dequantize=work.passes * copied,
        exchange=placed.resident / bus if turns else 0.0,
    )
