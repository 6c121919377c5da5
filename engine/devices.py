"""A scheme and a device in, whether it runs there natively, emulated or not at all, and why, out.

Reads no torch: a device is its class, such as `sm_89`, `rocm`, `mps` or `cpu`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from .errors import Refused
from .scheme_names import schemes

NATIVE, EMULATED, REFUSED = "native", "emulated", "refused"

# NVIDIA by compute capability, oldest first: the newest that a device reaches is its class
CUDA = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
DEVICES = (*CUDA, "rocm", "xpu", "mps", "cpu")
TITLES = {
    "sm_70": "GTX 10, V100",
    "sm_75": "RTX 20, T4",
    "sm_80": "A100",
    "sm_86": "RTX 30",
    "sm_89": "RTX 40, L4",
    "sm_90": "H100, H200",
    "sm_100": "B200",
    "sm_120": "RTX 50",
    "rocm": "AMD",
    "xpu": "Intel Arc",
    "mps": "Apple",
    "cpu": "CPU",
}
ANY = "*"  # in a row: every scheme without a row of its own
USE_8_BIT = "use 8-bit"


@dataclass(frozen=True)
class DeviceRule:
    """What becomes of a scheme on a device class.

    `native`: the stored codes go into a matmul of the hardware; into one of floats on a CPU without
    int8 units or AVX2. `emulated`: they are dequantized first, so the gain is memory. `refused`:
    the device cannot hold or compute them.
    """

    scheme: str
    device: str
    support: str
    why: str


@dataclass(frozen=True)
class _Row:
    """One support and one reason for a scheme on several device classes."""

    scheme: str
    devices: tuple[str, ...]
    support: str
    why: str


_FROM_75, _FROM_80, _FROM_89, _FROM_100 = CUDA[1:], CUDA[2:], CUDA[4:], CUDA[6:]
_NO_FP8_MPS = f"no fp8 tensor can be on this device: {USE_8_BIT}"
_NO_FP8_CORES = "no fp8 tensor cores: dequantized, then multiplied in the source's dtype"
_NO_BLOCK_CORES = (
    "no tensor cores for block scales: dequantized, then multiplied in the source's dtype"
)
_BLOCK_CORES = (
    "tensor cores for block-scaled fp{}; dequantized where comfy-kitchen's kernels are off"
)
_NO_INT8 = f"no int8 matmul on this device: plain torch in float32, slow; {USE_8_BIT}"
_NO_INT8_ON = ("sm_70", "xpu", "mps")
_HIP = "int8 matrix cores through comfy-kitchen, our Triton kernels or torch"
_WIDENED = "widened to int8 before each product of codes"
_IN_FLOAT = "plain torch in float, slow"
_INT4 = (
    "int4 tensor cores through comfy-kitchen's CUDA kernels, int8 ones where they are off; "
    "activations are rotated first"
)
_INT8_FROM_4_BITS = (
    "int8 tensor cores; comfy-kitchen widens the codes inside its product, torch before it where "
    "these kernels are off"
)
_NO_4_BIT = f"4-bit is not supported on this device: {USE_8_BIT}"
_WEIGHT_ONLY = "by design: dequantized, then multiplied in the source's dtype"
# on a CPU, by our own backends
_BY_ROWS = (
    "widened some rows at a time to fp32, or to bf16 where that is computed in and the CPU has "
    "units for it"
)
_BY_ROWS_OF = (
    "fp8", "fp8_e5m2", "fp8_row", "fp8_block128", "int8_weight_only", "int4_g128", "mxfp8", "nvfp4",
)  # fmt: skip
_CODES = (
    "int8 codes on both sides: by oneDNN where the CPU has int8 units, by our own loop with AVX2 "
    "and a compiler, else in fp32"
)

_ROWS = (
    _Row("fp8", _FROM_89, NATIVE, "fp8 tensor cores"),
    _Row("fp8", CUDA[:4], EMULATED, _NO_FP8_CORES),
    _Row(
        "fp8", ("rocm",), EMULATED, "native only where ComfyUI reports fp8 compute (gfx950, 12xx)"
    ),
    _Row("fp8", ("xpu",), EMULATED, _NO_FP8_CORES),
    _Row("fp8", ("mps",), REFUSED, _NO_FP8_MPS),
    _Row(
        "fp8_e5m2",
        (*CUDA, "rocm", "xpu"),
        EMULATED,
        "no matmul takes e5m2 on both sides: dequantized first",
    ),
    _Row("fp8_e5m2", ("mps",), REFUSED, _NO_FP8_MPS),
    _Row("fp8_row", _FROM_89, NATIVE, "fp8 tensor cores, after a trial product on the device"),
    _Row("fp8_row", (*CUDA[:4], "rocm", "xpu"), EMULATED, _NO_FP8_CORES),
    _Row("fp8_row", ("mps",), REFUSED, _NO_FP8_MPS),
    _Row(
        "fp8_block128",
        ("sm_90",),
        NATIVE,
        "fp8 tensor cores through torch's product with block scales, after a trial product",
    ),
    _Row(
        "fp8_block128",
        (*CUDA[:5], *_FROM_100, "rocm", "xpu"),
        EMULATED,
        "dequantized first, unless a backend that multiplies with a scale per tile is asked for",
    ),
    _Row("fp8_block128", ("mps",), REFUSED, _NO_FP8_MPS),
    _Row("int8", _FROM_75, NATIVE, "int8 tensor cores"),
    _Row("int8", ("rocm",), NATIVE, _HIP),
    _Row("int8", ("cpu",), NATIVE, _CODES),
    _Row("int8", _NO_INT8_ON, EMULATED, _NO_INT8),
    _Row("int8_convrot", _FROM_75, NATIVE, "int8 tensor cores; activations are rotated first"),
    _Row("int8_convrot", ("rocm",), NATIVE, _HIP),
    _Row("int8_convrot", ("cpu",), NATIVE, f"{_CODES}; activations are rotated first"),
    _Row("int8_convrot", _NO_INT8_ON, EMULATED, _NO_INT8),
    _Row("int8_weight_only", (*CUDA, "rocm", "xpu"), EMULATED, _WEIGHT_ONLY),
    _Row("int8_weight_only", ("mps",), EMULATED, "dequantized, then multiplied in bf16"),
    _Row("int4_g128", (*CUDA, "rocm", "xpu"), EMULATED, _WEIGHT_ONLY),
    _Row("int4_g128", ("mps",), REFUSED, _NO_4_BIT),
    _Row("mxfp8", _FROM_100, NATIVE, _BLOCK_CORES.format(8)),
    _Row("mxfp8", (*CUDA[:6], "rocm", "xpu"), EMULATED, _NO_BLOCK_CORES),
    _Row("mxfp8", ("mps",), REFUSED, _NO_FP8_MPS),
    _Row("nvfp4", _FROM_100, NATIVE, _BLOCK_CORES.format(4)),
    _Row("nvfp4", (*CUDA[:6], "rocm", "xpu"), EMULATED, _NO_BLOCK_CORES),
    _Row("nvfp4", ("mps",), REFUSED, _NO_FP8_MPS),  # its block scales are fp8
    _Row("w4a8", _FROM_80, NATIVE, _INT8_FROM_4_BITS),
    _Row("w4a8", ("sm_75", "rocm", "cpu"), EMULATED, _WIDENED),
    _Row("w4a8", ("sm_70", "xpu"), EMULATED, _NO_INT8),
    _Row("w4a8", ("mps",), REFUSED, _NO_FP8_MPS),  # its group scales are fp8
    _Row("w4a4_convrot", _FROM_75[:4], NATIVE, _INT4),
    _Row("w4a4_convrot", CUDA[5:], NATIVE, "comfy-kitchen takes int8 activations here"),
    _Row("w4a4_convrot", ("sm_70", "xpu"), EMULATED, _IN_FLOAT),
    _Row("w4a4_convrot", ("rocm", "cpu"), EMULATED, _WIDENED),
    _Row("w4a4_convrot", ("mps",), REFUSED, _NO_4_BIT),
    *(_Row(scheme, ("cpu",), EMULATED, _BY_ROWS) for scheme in _BY_ROWS_OF),
    _Row("none", (*CUDA, "rocm", "xpu", "cpu"), NATIVE, "the source's dtype"),
    _Row("none", ("mps",), NATIVE, "bf16, never fp16"),
    _Row(ANY, (*CUDA, "rocm", "xpu", "cpu"), EMULATED, "dequantized unless the host has a kernel"),
    _Row(ANY, ("mps",), REFUSED, f"not tried on this device: {USE_8_BIT}"),
)


_ROTATED = ("int8_convrot", "int8 tensor cores; the rotation spreads outliers")

# what `auto` means, and why; fp8_row and, from sm_100 on, nvfp4 wait for a measured table that has
# them faster
AUTO = {
    **dict.fromkeys(CUDA, _ROTATED),
    "sm_70": ("int8_weight_only", "no int8 tensor cores: the gain is memory"),
    "rocm": ("int8_convrot", "int8 matrix cores; the rotation spreads outliers"),
    "xpu": ("int8_weight_only", "computes in bf16"),
    "mps": ("int8_weight_only", "computes in bf16; no fp8 or fp64 tensor reaches the device"),
    "cpu": ("int8", "faster than fp32, measured with AVX2, in a quarter of its memory"),
}


@cache
def rules() -> Mapping[tuple[str, str], DeviceRule]:
    """{(scheme, device class): rule} for every scheme that there is on every device class."""
    found = {}
    for name in schemes():
        own = [row for row in _ROWS if row.scheme == name]
        for row in own or [row for row in _ROWS if row.scheme == ANY]:
            for device in row.devices:
                found[name, device] = DeviceRule(name, device, row.support, row.why)
    return MappingProxyType(found)


def rule(scheme: str, device: str) -> DeviceRule:
    """What becomes of a scheme (its own name, no alias) on a device class of `DEVICES`."""
    try:
        return rules()[scheme, device]
    except KeyError:
        raise Refused(
            "unknown-device-rule",
            found=f"{scheme} on {device}",
            expected=f"one of {', '.join(schemes())} on one of {', '.join(DEVICES)}",
            fix="correct the name",
        ) from None


def device_class(
    kind: str, capability: tuple[int, int] | None = None, hip: bool = False
) -> str:  # fmt: skip
    """A torch device type (`cuda`, `mps`, ...), its CUDA capability and whether torch is built for
    ROCm -> a name of `DEVICES`. A kind that is not known counts as a CPU, the plainest of them.
    """
    kind = kind.split(":")[0]
    if kind != "cuda":
        return kind if kind in DEVICES else "cpu"
    if hip:
        return "rocm"
    reached = capability or (0, 0)
    older = [name for name in CUDA if _capability(name) <= reached]
    return older[-1] if older else CUDA[0]


def check(scheme: str, device: str) -> DeviceRule:
    """The rule of a scheme on a device class; a refused one is raised as what the user can do."""
    found = rule(scheme, device)
    if found.support == REFUSED:
        raise Refused(
            "scheme-not-on-device",
            found=f"{scheme} on {TITLES[device]} ({device}): {found.why}",
            expected=f"one of {', '.join(_running(device))}",
            fix="pick 8-bit, or auto",
        )
    return found


def table() -> str:
    """The device classes by the schemes as a Markdown table, the reasons as notes below it."""
    notes: dict[str, int] = {}
    names = list(schemes())
    head = " | ".join(f"`{name}`" for name in names)
    lines = [f"| device | `auto` is | {head} |", "| --- | --- |" + " --- |" * len(names)]
    for device in DEVICES:
        found = [rule(name, device) for name in names]
        numbers = [notes.setdefault(one.why, len(notes) + 1) for one in found]
        cells = [f"{one.support} [{n}]" for one, n in zip(found, numbers, strict=True)]
        chosen = AUTO[device][0]
        lines.append(f"| {TITLES[device]} (`{device}`) | `{chosen}` | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {why}" for why, number in notes.items())]
    return "\n".join(lines)


def _capability(name: str) -> tuple[int, int]:
    digits = name.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def _running(device: str) -> list[str]:
    return [name for name in schemes() if rule(name, device).support != REFUSED]
