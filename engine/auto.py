"""A device in, the scheme that `auto` means there out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoRule:
    """From CUDA capability `since` on, `scheme` is chosen because `why`."""

    since: tuple[int, int]
    scheme: str
    why: str


# newest first; the first that the device reaches holds
CUDA_RULES = (
    AutoRule((7, 5), "int8_convrot", "int8 tensor cores; the rotation spreads outliers"),
    AutoRule((0, 0), "int8_weight_only", "no int8 tensor cores: the gain is memory"),
)
DEVICE_RULES = {
    "cpu": ("int8", "int8 is the only integer matmul of a CPU"),
    "mps": ("int8_weight_only", "computes in bf16; no fp8 or fp64 tensor reaches the device"),
    "xpu": ("int8_weight_only", "computes in bf16"),
}


def auto_scheme(device: str, capability: tuple[int, int] | None = None) -> tuple[str, str]:
    """(scheme, why) for a device type and, on CUDA, its compute capability."""
    kind = device.split(":")[0]
    if kind != "cuda":
        return DEVICE_RULES.get(kind, DEVICE_RULES["cpu"])
    reached = capability or (0, 0)
    rule = next(rule for rule in CUDA_RULES if reached >= rule.since)
    return rule.scheme, rule.why
