"""The table of devices: what is in it, how it is found, what is refused."""

from __future__ import annotations

import pytest

from fusequant.engine.advise.architectures import ARCHITECTURES, MIDDLING
from fusequant.engine.advise.cards import CARDS
from fusequant.engine.advise.find_card import GIB, find, lookup
from fusequant.engine.devices import DEVICES, NATIVE, rule
from fusequant.engine.errors import Refused

# what makers sell: name, GB of each variant, class of engine/devices.py
SOLD = {
    "GTX 1060": ((6,), "sm_70"),
    "GTX 1080 Ti": ((11,), "sm_70"),
    "RTX 2060": ((6, 12), "sm_75"),
    "RTX 2080 Ti": ((11,), "sm_75"),
    "T4": ((16,), "sm_75"),
    "V100": ((16, 32), "sm_70"),
    "RTX 3060": ((8, 12), "sm_86"),
    "RTX 3070": ((8,), "sm_86"),
    "RTX 3080": ((10, 12), "sm_86"),
    "RTX 3090": ((24,), "sm_86"),
    "A10": ((24,), "sm_86"),
    "RTX A6000": ((48,), "sm_86"),
    "A100": ((40, 80), "sm_80"),
    "RTX 4060": ((8,), "sm_89"),
    "RTX 4060 Ti": ((8, 16), "sm_89"),
    "RTX 4070": ((12,), "sm_89"),
    "RTX 4070 Ti Super": ((16,), "sm_89"),
    "RTX 4080": ((16,), "sm_89"),
    "RTX 4090": ((24,), "sm_89"),
    "L4": ((24,), "sm_89"),
    "L40S": ((48,), "sm_89"),
    "RTX 6000 Ada": ((48,), "sm_89"),
    "H100": ((80,), "sm_90"),
    "H200": ((141,), "sm_90"),
    "B200": ((180,), "sm_100"),
    "RTX 5060": ((8,), "sm_120"),
    "RTX 5060 Ti": ((8, 16), "sm_120"),
    "RTX 5070": ((12,), "sm_120"),
    "RTX 5070 Ti": ((16,), "sm_120"),
    "RTX 5080": ((16,), "sm_120"),
    "RTX 5090": ((32,), "sm_120"),
    "RTX Pro 6000": ((96,), "sm_120"),
    "RX 6800 XT": ((16,), "rocm"),
    "RX 7900 XTX": ((24,), "rocm"),
    "RX 9070 XT": ((16,), "rocm"),
    "Arc A770": ((8, 16), "xpu"),
    "Arc B580": ((12,), "xpu"),
    "M1": ((8, 16), "mps"),
    "M2 Ultra": ((64, 128, 192), "mps"),
    "M3 Max": ((36, 48, 64, 96, 128), "mps"),
    "M4 Pro": ((24, 48, 64), "mps"),
}


@pytest.mark.parametrize("name", SOLD)
def test_the_cards_that_people_have_are_listed(name: str) -> None:
    card = CARDS[name]
    assert (card.memory_gb, card.architecture.device) == SOLD[name]


@pytest.mark.parametrize("name", CARDS)
def test_a_row_is_sound_and_is_found_by_its_own_name(name: str) -> None:
    card = CARDS[name]
    assert lookup(name) is card and lookup(name.upper().replace(" ", "")) is card
    assert list(card.memory_gb) == sorted(set(card.memory_gb))
    assert 0 < card.tflops < 5000 and 60 < card.bandwidth_gb_s < 10_000
    assert card.architecture.device in DEVICES
    assert card.architecture.unified == (card.bus_gb_s == 0) == (name[0] == "M" and name[1] < "5")


def test_a_gain_is_claimed_only_where_the_device_multiplies_such_codes() -> None:
    kinds = {"int8": "int8", "fp8": "fp8"}
    for found in ARCHITECTURES.values():
        for kind, gain in found.gains.items():
            assert gain >= 1
            if found.device.startswith("sm_") and kind in kinds:
                assert rule(kinds[kind], found.device).support == NATIVE


def test_there_is_a_middling_card_for_every_class() -> None:
    assert set(MIDDLING) == set(DEVICES)
    assert all(ARCHITECTURES[row[0]].device == device for device, row in MIDDLING.items())


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("NVIDIA GeForce RTX 3080 Ti", "RTX 3080 Ti"),
        ("rtx3080ti", "RTX 3080 Ti"),
        ("3080 ti", "RTX 3080 Ti"),
        ("RTX-4070-Ti-SUPER", "RTX 4070 Ti Super"),
        ("GeForce RTX 2060 SUPER", "RTX 2060 Super"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX Pro 6000"),
        ("a6000", "RTX A6000"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Intel(R) Arc(TM) A770 Graphics", "Arc A770"),
        ("b580", "Arc B580"),
        ("Apple M2 Max", "M2 Max"),
        ("m4max", "M4 Max"),
    ],
)
def test_spelling_is_forgiven(said: str, meant: str) -> None:
    assert find(said).card.name == meant


def test_the_smallest_variant_is_meant_unless_memory_says_more() -> None:
    assert find("RTX 3080").memory_bytes == 10 * GIB
    assert "10 GB or 12 GB" in str(find("RTX 3080").note)
    assert find("RTX 3080", 12).memory_bytes == find("RTX 3080 12GB").memory_bytes == 12 * GIB
    assert find("RTX 3080", 12).note is None
    assert find("RTX 4090").note is None
    assert find("NVIDIA A100-SXM4-80GB").memory_bytes == 80 * GIB
    odd = find("RTX 3080", 20)
    assert odd.memory_bytes == 20 * GIB and "No RTX 3080 is sold with 20 GB" in str(odd.note)


@pytest.mark.parametrize(
    ("said", "near"), [("RTX 3085", "RTX 3080"), ("RTX 4090 Laptop", "RTX 4090"), ("M5", "M1")]
)
def test_an_unknown_name_is_refused_with_near_ones(said: str, near: str) -> None:
    with pytest.raises(Refused) as refused:
        find(said)
    assert refused.value.kind == "unknown-gpu"
    assert near in refused.value.expected and said in refused.value.found


def test_nonsense_is_refused_too() -> None:
    with pytest.raises(Refused, match="unknown-gpu"):
        find("???")
