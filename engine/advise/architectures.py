"""The name of a GPU architecture in, what predictions need to know of it out: a table.

No figure here is measured. Gains are assumptions until a result file says better (`--measured`):
8-bit tensor cores have twice the 16-bit rate and more, but quantizing activations takes much of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EIGHT_BIT_GAIN = 1.3  # of 8-bit products over 16-bit ones, activations quantized on the way
FOUR_BIT_GAIN = 1.6
# what arrives of a bus with 16 lanes: about three quarters of its nominal rate
GEN3_GB_S, GEN4_GB_S, GEN5_GB_S = 12.0, 24.0, 48.0

_INT8 = {"int8": EIGHT_BIT_GAIN}
_INT8_FP8 = {**_INT8, "fp8": EIGHT_BIT_GAIN}
_DOWN_TO_FP4 = {**_INT8_FP8, "fp4": FOUR_BIT_GAIN}


@dataclass(frozen=True)
class Architecture:
    """`device`: its class in engine/devices.py. `gains`: kind of product -> times the 16-bit rate.

    `fp32_share`: rate of float32 products over that of 16-bit ones. `bus_gb_s`: weights that come
    in from RAM a second, in 10^9 bytes; 0 where the memory is one.
    """

    name: str
    device: str
    bus_gb_s: float
    fp32_share: float
    bf16: bool = True
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def unified(self) -> bool:
        """Weights, text encoders and the system share one memory."""
        return self.device == "mps"


ARCHITECTURES = {
    found.name: found
    for found in (
        Architecture("Pascal", "sm_70", GEN3_GB_S, 1.0, bf16=False),
        Architecture("Volta", "sm_70", GEN3_GB_S, 0.125, bf16=False),
        Architecture("Turing", "sm_75", GEN3_GB_S, 0.25, bf16=False, gains=_INT8),
        Architecture("A100", "sm_80", GEN4_GB_S, 0.06, gains=_INT8),
        Architecture("Ampere", "sm_86", GEN4_GB_S, 0.5, gains=_INT8),
        Architecture("Ada", "sm_89", GEN4_GB_S, 0.5, gains=_INT8_FP8),
        Architecture("Hopper", "sm_90", GEN5_GB_S, 0.07, gains=_INT8_FP8),
        Architecture("Blackwell server", "sm_100", GEN5_GB_S, 0.04, gains=_DOWN_TO_FP4),
        Architecture("Blackwell", "sm_120", GEN5_GB_S, 0.5, gains=_DOWN_TO_FP4),
        Architecture("RDNA 2", "rocm", GEN4_GB_S, 0.5, bf16=False),
        # its matrix units multiply int8 no faster than 16 bits
        Architecture("RDNA 3", "rocm", GEN4_GB_S, 0.5, gains={"int8": 1.0}),
        Architecture("RDNA 4", "rocm", GEN5_GB_S, 0.25, gains=_INT8_FP8),
        Architecture("CDNA 3", "rocm", GEN5_GB_S, 0.13, gains=_INT8_FP8),
        Architecture("Alchemist", "xpu", GEN4_GB_S, 0.13),
        Architecture("Battlemage", "xpu", GEN4_GB_S, 0.12),
        Architecture("Apple", "mps", 0.0, 1.0),
        Architecture("CPU", "cpu", 0.0, 1.0, bf16=False),
    )
}

# of a device class whose card is not in the table: (architecture, 16-bit TFLOPS, memory GB/s) of
# a middling card, so that setups can be ranked; times are not shown then
MIDDLING = {
    "sm_70": ("Pascal", 8.0, 300.0),
    "sm_75": ("Turing", 35.0, 450.0),
    "sm_80": ("A100", 312.0, 1555.0),
    "sm_86": ("Ampere", 45.0, 500.0),
    "sm_89": ("Ada", 70.0, 500.0),
    "sm_90": ("Hopper", 756.0, 2000.0),
    "sm_100": ("Blackwell server", 2250.0, 8000.0),
    "sm_120": ("Blackwell", 70.0, 700.0),
    "rocm": ("RDNA 3", 70.0, 500.0),
    "xpu": ("Alchemist", 100.0, 450.0),
    "mps": ("Apple", 7.0, 200.0),
    "cpu": ("CPU", 0.5, 20.0),
}
