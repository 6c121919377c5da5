"""Nothing in, the devices that people have out: memory, bandwidth, 16-bit rate. A table.

`tflops` are dense 16-bit matrix products summed in float32, from the makers' data sheets; where a
maker publishes none, what its shaders do. GB of memory are 2**30 bytes. Where the variants of a
card differ in more than memory, the smallest is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architectures import ARCHITECTURES, Architecture


@dataclass(frozen=True)
class Card:
    """One product. `memory_gb`: its variants, smallest first. `bandwidth_gb_s` in 10^9 bytes."""

    name: str
    architecture: Architecture
    memory_gb: tuple[int, ...]
    bandwidth_gb_s: float
    tflops: float

    @property
    def bus_gb_s(self) -> float:
        """What comes in from RAM a second, in 10^9 bytes."""
        return self.architecture.bus_gb_s * (0.5 if self.name in _EIGHT_LANES else 1.0)


# name, memory in GB, memory bandwidth in GB/s, 16-bit TFLOPS
_Row = tuple[str, tuple[int, ...], float, float]
_ROWS: dict[str, tuple[_Row, ...]] = {
    "Pascal": (
        ("GTX 1060", (6,), 192, 4.4),
        ("GTX 1070", (8,), 256, 6.5),
        ("GTX 1070 Ti", (8,), 256, 8.2),
        ("GTX 1080", (8,), 320, 8.9),
        ("GTX 1080 Ti", (11,), 484, 11.3),
        ("P40", (24,), 346, 11.8),
    ),
    "Volta": (("V100", (16, 32), 900, 112),),
    "Turing": (
        ("RTX 2060", (6, 12), 336, 25.8),
        ("RTX 2060 Super", (8,), 448, 28.7),
        ("RTX 2070", (8,), 448, 29.9),
        ("RTX 2070 Super", (8,), 448, 36.3),
        ("RTX 2080", (8,), 448, 40.3),
        ("RTX 2080 Super", (8,), 496, 44.6),
        ("RTX 2080 Ti", (11,), 616, 53.8),
        ("T4", (16,), 320, 65),
    ),
    "A100": (("A100", (40, 80), 1555, 312),),
    "Ampere": (
        ("RTX 3050", (6, 8), 168, 13.5),
        ("RTX 3060", (8, 12), 240, 25.5),
        ("RTX 3060 Ti", (8,), 448, 32.4),
        ("RTX 3070", (8,), 448, 40.6),
        ("RTX 3070 Ti", (8,), 608, 43.5),
        ("RTX 3080", (10, 12), 760, 59.5),
        ("RTX 3080 Ti", (12,), 912, 68.2),
        ("RTX 3090", (24,), 936, 71.2),
        ("RTX 3090 Ti", (24,), 1008, 80.0),
        ("A10", (24,), 600, 125),
        ("RTX A4000", (16,), 448, 76.7),
        ("RTX A5000", (24,), 768, 111),
        ("RTX A6000", (48,), 768, 154.8),
    ),
    "Ada": (
        ("RTX 4060", (8,), 272, 30.2),
        ("RTX 4060 Ti", (8, 16), 288, 44.1),
        ("RTX 4070", (12,), 504, 58.3),
        ("RTX 4070 Super", (12,), 504, 71.0),
        ("RTX 4070 Ti", (12,), 504, 80.2),
        ("RTX 4070 Ti Super", (16,), 672, 88.2),
        ("RTX 4080", (16,), 717, 97.5),
        ("RTX 4080 Super", (16,), 736, 104.4),
        ("RTX 4090", (24,), 1008, 165.2),
        ("L4", (24,), 300, 121),
        ("L40S", (48,), 864, 362),
        ("RTX 6000 Ada", (48,), 960, 364),
    ),
    "Hopper": (("H100", (80,), 3350, 989), ("H200", (141,), 4800, 989)),
    "Blackwell server": (("B200", (180,), 8000, 2250),),
    "Blackwell": (
        ("RTX 5050", (8,), 320, 26.3),
        ("RTX 5060", (8,), 448, 38.4),
        ("RTX 5060 Ti", (8, 16), 448, 47.4),
        ("RTX 5070", (12,), 672, 61.7),
        ("RTX 5070 Ti", (16,), 896, 87.9),
        ("RTX 5080", (16,), 960, 112.6),
        ("RTX 5090", (32,), 1792, 209.5),
        ("RTX Pro 6000", (96,), 1792, 500),
    ),
    "RDNA 2": (
        ("RX 6600", (8,), 224, 17.9),
        ("RX 6600 XT", (8,), 256, 21.2),
        ("RX 6700 XT", (12,), 384, 26.4),
        ("RX 6800", (16,), 512, 32.3),
        ("RX 6800 XT", (16,), 512, 41.5),
        ("RX 6900 XT", (16,), 512, 46.1),
        ("RX 6950 XT", (16,), 576, 47.3),
    ),
    "RDNA 3": (
        ("RX 7600", (8,), 288, 43.5),
        ("RX 7600 XT", (16,), 288, 45.1),
        ("RX 7700 XT", (12,), 432, 70.3),
        ("RX 7800 XT", (16,), 624, 74.6),
        ("RX 7900 GRE", (16,), 576, 91.9),
        ("RX 7900 XT", (20,), 800, 103),
        ("RX 7900 XTX", (24,), 960, 122.8),
        ("Pro W7900", (48,), 864, 122.6),
    ),
    "RDNA 4": (
        ("RX 9060 XT", (8, 16), 320, 103),
        ("RX 9070", (16,), 640, 145),
        ("RX 9070 XT", (16,), 640, 195),
    ),
    "CDNA 3": (("MI300X", (192,), 5300, 1307),),
    "Alchemist": (
        ("Arc A380", (6,), 186, 33),
        ("Arc A580", (8,), 512, 98),
        ("Arc A750", (8,), 512, 118),
        ("Arc A770", (8, 16), 512, 138),
    ),
    "Battlemage": (
        ("Arc B570", (10,), 380, 101),
        ("Arc B580", (12,), 456, 117),
        ("Arc Pro B50", (16,), 224, 85),
        ("Arc Pro B60", (24,), 456, 98),
    ),
    "Apple": (
        ("M1", (8, 16), 68, 2.6),
        ("M1 Pro", (16, 32), 200, 5.3),
        ("M1 Max", (32, 64), 400, 10.4),
        ("M1 Ultra", (64, 128), 800, 21),
        ("M2", (8, 16, 24), 100, 3.6),
        ("M2 Pro", (16, 32), 200, 6.8),
        ("M2 Max", (32, 64, 96), 400, 13.5),
        ("M2 Ultra", (64, 128, 192), 800, 27),
        ("M3", (8, 16, 24), 100, 4.1),
        ("M3 Pro", (18, 36), 150, 7.4),
        ("M3 Max", (36, 48, 64, 96, 128), 300, 16.3),
        ("M3 Ultra", (96, 256, 512), 819, 28),
        ("M4", (16, 24, 32), 120, 4.6),
        ("M4 Pro", (24, 48, 64), 273, 9.2),
        ("M4 Max", (36, 48, 64, 128), 410, 18.4),
    ),
}


# their bus has eight lanes where others have sixteen
_EIGHT_LANES = frozenset(
    (
        "RTX 3050",
        "RTX 4060",
        "RTX 4060 Ti",
        "RTX 5050",
        "RTX 5060",
        "RTX 5060 Ti",
        "RX 6600",
        "RX 6600 XT",
        "RX 7600",
        "RX 7600 XT",
        "Arc A380",
        "Arc B570",
        "Arc B580",
        "Arc Pro B50",
        "Arc Pro B60",
    )
)

CARDS = {
    row[0]: Card(row[0], ARCHITECTURES[kind], *row[1:])
    for kind, rows in _ROWS.items()
    for row in rows
}
