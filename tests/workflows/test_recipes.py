"""What the workflows do: fuse from 16 bits, quantize each weight once, set what is advised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest

from fusequant.authoring.models import FILES
from fusequant.authoring.tiers import ADA, ADA_24, TIERS, Wanted
from fusequant.authoring.workflow import Workflow
from fusequant.engine.advise.advisor import advise
from fusequant.engine.advise.find_card import GIB
from fusequant.engine.advise.job import Wishes, job_of
from fusequant.engine.advise.machine import machine_of
from fusequant.engine.advise.published import PUBLISHED
from fusequant.engine.scheme_names import schemes
from fusequant.engine.setup import Setup
from fusequant.engine.specs import spec

AS_STORED = "as stored"
QUANTIZES = {"FQLoadDiT", "FQLoadTextEncoder", "FQLoadClipVision", "FQQuantizeModel", "FQConvert"}

Json = dict[str, Any]


class Wired:
    """A saved workflow, to be walked against the wires."""

    def __init__(self, saved: Json) -> None:
        self.nodes: dict[int, Json] = {node["id"]: node for node in saved["nodes"]}
        self.links = {link[0]: link for link in saved["links"]}

    def of(self, kind: str) -> list[Json]:
        return [node for node in self.nodes.values() if node["type"] == kind]

    def source(self, node: Json, name: str = "model") -> Json | None:
        """The node that an input reads."""
        link = next(x["link"] for x in node["inputs"] if x["name"] == name)
        return None if link is None else self.nodes[self.links[link][1]]

    def upstream(self, node: Json) -> Iterator[Json]:
        """A node and everything on its way up the MODEL."""
        found: Json | None = node
        while found is not None:
            yield found
            names = [x["name"] for x in found["inputs"]]
            found = self.source(found) if "model" in names else None


def values(node: Json) -> Json:
    named: Json = node["widgets_values_named"]
    return named


def bits(node: Json) -> set[int]:
    """Of the files that a node loads, LoRAs apart."""
    models = node["properties"].get("models", [])
    return {FILES[x["name"]].bits for x in models if x["directory"] != "loras"}


def quantizings(path: list[Json]) -> int:
    """How often the weights on a way are rounded to codes, the file's own rounding included."""
    count = 0
    for node in path:
        count += sum(one <= 8 for one in bits(node))
        if node["type"] in QUANTIZES:
            count += values(node)["scheme"] not in (AS_STORED, "none")
    return count


def test_what_is_fused_comes_from_16_bits(saved: Json) -> None:
    wired = Wired(saved)
    for node in wired.of("FQFuseLoRA"):
        path = list(wired.upstream(node))
        assert {bit for one in path for bit in bits(one)} == {16}
        assert quantizings(path) == 0, "nothing is rounded before it is fused"
    for node in wired.of("FQConvert"):
        assert bits(node) == {16}


def test_live_loras_stand_behind_quantizing(saved: Json) -> None:
    wired = Wired(saved)
    for node in wired.of("FQLiveLoRA"):
        later = {x["type"] for x in wired.upstream(node)}
        assert "FQFuseLoRA" not in later or "FQQuantizeModel" in later


def test_each_weight_is_quantized_exactly_once(name: str, saved: Json) -> None:
    wired = Wired(saved)
    ends = [
        node
        for kind in ("KSampler", "KSamplerAdvanced", "CFGGuider", "FQBenchmark")
        for node in wired.of(kind)
    ]
    original = "_bf16_" in name
    for node in ends:
        path = list(wired.upstream(node))
        benchmark = node["type"] == "FQBenchmark"  # it quantizes by itself, in each order anew
        assert quantizings(path) == (0 if original or benchmark else 1), name
    for node in wired.of("FQQuality"):
        reference, model = (wired.source(node, x) for x in ("reference", "model"))
        assert reference and quantizings(list(wired.upstream(reference))) == 0
        assert model and quantizings(list(wired.upstream(model))) == 1
    for node in [*wired.of("FQLoadTextEncoder"), *wired.of("FQLoadClipVision")]:
        rounded = values(node)["scheme"] not in (AS_STORED, "none")
        assert not (rounded and min(bits(node)) <= 8), "codes are rounded twice"
    for node in wired.of("FQConvert"):
        assert values(node)["scheme"] in schemes() and values(node)["scheme"] != "none"


@cache
def advised(card: str, vram: int, ram: int, wanted: Wanted) -> Setup:
    """The best setup among the schemes that are wanted; the Advisor asked anew."""
    job = job_of([spec(wanted.spec)], Wishes(goal=wanted.goal, loras=wanted.loras))
    found = advise(machine_of(card, vram, ram), job, most=None if wanted.schemes else 1)
    allowed = wanted.schemes or tuple(schemes())
    return next(x.setup for x in found.options if x.setup.scheme in allowed)


def test_values_are_those_of_the_advisor(
    name: str, saved: Json, made: Mapping[str, Workflow]
) -> None:
    wired = Wired(saved)
    for choice in made[name].choices:
        wanted = choice.wanted
        best = advised(*choice.tier.cards[0], choice.tier.ram_gb, wanted)
        quantizing = [*wired.of("FQQuantizeModel"), *wired.of("FQConvert")]
        for node in quantizing:
            assert values(node)["scheme"] == best.scheme
        if not quantizing and "_quickstart_" in name and wanted.spec == "qwen-image-edit-2511":
            files = {x["name"] for n in wired.of("FQLoadDiT") for x in n["properties"]["models"]}
            assert files == set(PUBLISHED[wanted.spec, best.scheme].files)
        for node in wired.of("FQVRAMManager"):
            assert values(node)["mode"] == ("low VRAM" if wanted.low else best.mode)
            for name_, size in (
                ("limit_gb", best.limit_bytes), ("buffer_gb", best.buffer_bytes)
            ):  # fmt: skip
                said = 0.0 if wanted.low and name_ == "limit_gb" else (size or 0) / GIB
                assert values(node)[name_] == pytest.approx(said, abs=0.25)
        for node in wired.of("FQLoadTextEncoder"):
            measuring = name.startswith("tool_")
            assert measuring or values(node)["device"] == best.text_device
            kept = measuring or min(bits(node)) <= 8 or best.text_scheme == "none"
            assert values(node)["scheme"] == (AS_STORED if kept else best.text_scheme)


@pytest.mark.parametrize("tier", [*TIERS.values(), ADA, ADA_24], ids=lambda tier: tier.key)
def test_a_tier_asks_for_its_smallest_card(tier: Any) -> None:
    assert tier.cards[0][1] == min(size for _, size in tier.cards)
    for card, vram in tier.cards:
        assert machine_of(card, vram, tier.ram_gb).vram_bytes == vram * GIB


def test_the_plan_of_the_advisor_is_wired_where_it_is_taken(
    made: Mapping[str, Workflow],
) -> None:
    graph = made["tool_flux1-dev_advisor_auto_any"].graph
    readers = {
        node.type.name: node.values.get("scheme", node.values.get("mode"))
        for node in graph.nodes
        if "plan" in node.links
    }
    assert readers == {"FQQuantizeModel": "auto", "FQVRAMManager": "auto"}
