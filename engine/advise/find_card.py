"""What a user calls a GPU in, its row of the table and its memory out; tolerant of spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from ..errors import Refused
from .cards import CARDS, Card

GIB = 2**30
# words of makers, of memory and of slots that tell no two cards apart
_NOISE = frozenset(
    (
        "nvidia", "geforce", "tesla", "amd", "radeon", "intel", "apple", "graphics", "gpu", "card",
        "chip", "instinct", "generation", "blackwell", "workstation", "server", "edition", "sxm",
        "sxm2", "sxm4", "sxm5", "pcie", "pci", "nvl", "hbm2", "hbm2e", "hbm3", "hbm3e", "tm", "r",
    )
)  # fmt: skip
_PREFIXES = ("rtx", "gtx", "rx", "arc", "tesla", "pro")
_MEMORY = re.compile(r"(\d+)\s*gi?b\b")


@dataclass(frozen=True)
class Found:
    """A card and how many bytes it has."""

    card: Card
    memory_bytes: int
    note: str | None = None


def plain(name: str) -> str:
    """`NVIDIA GeForce RTX 3080 Ti` -> `rtx3080ti`: what tells one card from another."""
    words = re.findall(r"[a-z0-9]+", _MEMORY.sub(" ", name.lower()))
    return "".join(word for word in words if word not in _NOISE)


@cache
def _names() -> dict[str, str]:
    """{plain spelling: name of the table}; a card is also known without its line's prefix."""
    found = {plain(name): name for name in CARDS}
    for name in CARDS:
        whole = plain(name)
        for prefix in _PREFIXES:
            if whole.startswith(prefix):
                found.setdefault(whole.removeprefix(prefix), name)
    return found


def lookup(name: str) -> Card | None:
    """The card of a name, or None."""
    known = _names().get(plain(name))
    return CARDS[known] if known else None


def find(name: str, vram_gb: float | None = None) -> Found:
    """A card by name; the smallest variant, unless the name or `vram_gb` says which one."""
    card = lookup(name)
    if card is None:
        raise _unknown(name)
    said = _MEMORY.search(name.lower())
    wanted = vram_gb if vram_gb is not None else float(said[1]) if said else None
    if wanted is None:
        several = len(card.memory_gb) > 1
        sold = " or ".join(f"{gb} GB" for gb in card.memory_gb)
        note = f"The {card.name} is sold with {sold}: the smallest is meant, say --vram for another"
        return Found(card, card.memory_gb[0] * GIB, f"{note}." if several else None)
    odd = wanted not in card.memory_gb
    note = f"No {card.name} is sold with {wanted:g} GB: taken as said."
    return Found(card, int(wanted * GIB), note if odd else None)


def _unknown(name: str) -> Refused:
    wanted, names = plain(name), _names()
    near = [names[key] for key in get_close_matches(wanted, names, n=8, cutoff=0.5)]
    near = list(dict.fromkeys(near))[:4] or ["RTX 3060", "RX 7900 XTX", "Arc B580", "M4 Max"]
    return Refused(
        "unknown-gpu",
        found=repr(name),
        expected=f"a device of the table, such as {', '.join(near)}, or cpu",
        fix=f"ask for {near[0]}, or leave --gpu out to use this machine",
    )
