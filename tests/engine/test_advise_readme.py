"""The tables of the README, row by row: what they say is what the Advisor says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from fusequant.engine.advise import guide
from fusequant.engine.advise.advisor import advise
from fusequant.engine.advise.claims import CLAIMS
from fusequant.engine.advise.find_card import GIB
from fusequant.engine.advise.job import Wishes, job_of
from fusequant.engine.advise.machine import machine_of
from fusequant.engine.advise.modes import MODES, Mode
from fusequant.engine.errors import Refused
from fusequant.engine.specs import spec

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURE = re.compile(r"\d+\.\d+(?: GiB| s a step)?")


def section(name: str) -> str:
    return README.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]


def cells(name: str, first: str) -> list[str]:
    """The row of a section that begins so."""
    lines = [line for line in section(name).splitlines() if line.startswith(f"| {first} |")]
    assert len(lines) == 1, f"{len(lines)} rows of {first}"
    return [cell.strip() for cell in lines[0].strip("|").split(" | ")]


@pytest.fixture(scope="module")
def make_readme() -> ModuleType:
    path = ROOT / "benchmarks" / "make_readme.py"
    found = importlib.util.spec_from_file_location("make_readme", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_making_the_readme_again_changes_nothing(make_readme: ModuleType) -> None:
    assert make_readme.filled(README) == README, "run benchmarks/make_readme.py"


@pytest.mark.parametrize("tier", guide.TIERS, ids=str)
def test_each_card_has_the_modes_that_are_advised(tier: tuple[str, int | None]) -> None:
    card, vram = tier
    machine = machine_of(card, vram, 64)
    row = cells("tiers", f"{machine.name}, {vram} GB" if vram else machine.name)
    for name, cell in zip(guide.MODELS, row[1:], strict=True):
        try:
            found = advise(machine, job_of([spec(name)], Wishes()), most=1)
        except Refused:
            assert cell == "does not fit"
            continue
        needs = found.best.needs
        figure = (needs.vram_bytes if vram else needs.ram_bytes) / GIB
        assert f"`{found.best.scheme}`: {figure:.1f} GiB predicted" in cell
        assert cell.startswith(found.options[0].title)
        streamed = found.options[0].case.found.streamed_bytes / GIB
        assert ("streamed" in cell) == (streamed > 0)
        assert not streamed or f"{streamed:.1f} GiB more streamed predicted" in cell


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_each_mode_says_what_is_predicted_and_what_is_measured(mode: Mode) -> None:
    _, vram, speed, quality, best = cells("modes", mode.name)
    found = guide.mode_prediction(mode)
    assert vram == f"{found.vram_bytes / GIB:.1f} GiB predicted"
    assert speed.startswith(f"{found.seconds.step:.1f} s a step predicted")
    assert (found.resident_bytes == 0) == mode.low
    assert best == mode.best_for
    if mode.scheme != "none":
        assert "weight error 0.0265 measured" in quality  # of fp8 in the table of conversions
        assert ("beside" in quality) == (mode.loras == "live")


def test_the_five_modes_are_the_known_ones() -> None:
    assert [mode.name for mode in MODES] == [
        "Original BF16", "FP8 standard", "FP8 optimized", "Low VRAM", "Low VRAM optimized",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["tiers", "modes"])
def test_every_figure_says_what_it_is(name: str) -> None:
    _, _, *rows = [line for line in section(name).splitlines() if line.startswith("| ")]
    assert rows
    for line in rows:
        for cell in line.strip("|").split(" | ")[1:]:
            for figure in FIGURE.finditer(cell):
                after = cell[figure.end() :]
                assert re.match(r"[^0-9]*(?:predicted|measured)", after), (figure.group(), cell)


@pytest.mark.parametrize("topic", CLAIMS)
def test_each_claim_stands_with_what_it_rests_on(topic: str) -> None:
    claim = CLAIMS[topic]
    _, says, basis = cells("speed", topic)
    assert says == claim.says and claim.basis in basis
