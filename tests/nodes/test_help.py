"""Help pages and translations are whole and say what the nodes are: no ComfyUI is needed.

What the nodes are is tests/contracts/nodes.json, which test_contract.py holds to the nodes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fusequant.authoring import locales, wiring
from fusequant.authoring.wirings import WIRINGS
from fusequant.engine.advise.claims import CLAIMS
from fusequant.nodes._stages import STAGES

from .contract import HOST_LIST

ROOT = Path(__file__).resolve().parents[2]
DOCS, RESULTS = ROOT / "web" / "docs", ROOT / "benchmarks" / "results"
NODES = locales.recorded()
LANGUAGES = ("en", "zh")
SWITCH = {"en": {True: "on", False: "off"}, "zh": {True: "开", False: "关"}}
EMPTY = {"en": "empty", "zh": "空"}
PAGE_LINES, PICTURE_BYTES = (20, 90), 30_000
WITHOUT_CHINESE = re.compile(r"(CLIP|LoRA|GPU|VAE|cfg|TF32|LoRA \d+)")


def page(node: str, language: str) -> str:
    """What ComfyUI's page shows to a user of that language."""
    path = DOCS / (f"{node}.md" if language == "en" else f"{node}/{language}.md")
    return path.read_text(encoding="utf-8")


def messages(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    path = ROOT / "locales" / language / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def told(text: str) -> list[tuple[list[str], list[str]]]:
    """(names, defaults) of every item of the page's lists of inputs.

    `- **`name`** (default `value`): ...`, several names and values too.
    """
    heads = [re.split(": |\uff1a", line, maxsplit=1)[0] for line in text.splitlines()]
    parts = [re.split("default |默认 ", head) for head in heads if head.startswith("- ")]
    return [
        (re.findall(r"\*\*`(\w+)`\*\*", part[0]), re.findall("`([^`]*)`", "".join(part[1:])))
        for part in parts
    ]


def default(facts: Any, language: str) -> str | None:
    """How a page writes a default; None where ComfyUI decides on it."""
    given, options = facts.get("default"), facts.get("options")
    if HOST_LIST in (given, options):
        return None
    if isinstance(options, list) and options and isinstance(options[0], dict):
        given = options[0]["key"]  # of a choice that brings inputs the first one is set
    if isinstance(given, bool):
        return SWITCH[language][given]
    if isinstance(given, float):
        return f"{given:g}"
    return EMPTY[language] if given == "" else str(given if given is not None else "")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_a_page_tells_every_input_with_its_default(node: str, language: str) -> None:
    text, names = page(node, language), messages(language)[node]["inputs"]
    items = told(text)
    for name, facts in locales.inputs(NODES[node]["input"]):
        leaf = name.rpartition(".")[2]
        if re.search(r"_[2-9]$|_10$", leaf):
            continue  # the growing list is told by its first
        assert f"`{leaf}`" in text, leaf
        if language == "zh":
            assert f"{names[locales.key(name)]['name']} **`{leaf}`**" in text, leaf
        found = [
            defaults[inputs.index(leaf)] if len(defaults) > 1 else "".join(defaults)
            for inputs, defaults in items
            if leaf in inputs
        ]
        assert found or leaf in ("lora_1", "strength_1"), leaf  # the list's own item may tell them
        assert not found or default(facts, language) in (found[0], None), (leaf, found)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_a_page_has_its_title_its_picture_and_its_limits(node: str, language: str) -> None:
    text = page(node, language)
    assert text.startswith(f"# {messages(language)[node]['display_name']}\n")
    assert PAGE_LINES[0] <= len(text.splitlines()) <= PAGE_LINES[1]
    picture = f"images/{node}.svg" if language == "en" else f"images/{language}/{node}.svg"
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text) == [picture]
    assert {"en": "## When not to use it", "zh": "## 不适用场景"}[language] in text


def test_every_page_is_of_a_node() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)
    assert {path.parent.name for path in DOCS.glob("*/zh.md")} == set(NODES)


def test_pictures_are_as_drawn_and_small() -> None:
    drawn = wiring.pictures()
    assert set((DOCS / "images").rglob("*.svg")) == set(drawn)
    for path, text in drawn.items():
        assert path.read_text(encoding="utf-8") == text, "python -m fusequant.authoring.wiring"
        assert len(text.encode()) < PICTURE_BYTES


def test_pictures_show_slots_that_are_there() -> None:
    assert set(WIRINGS) == set(NODES)
    for subject, wired in WIRINGS.items():
        cells = {cell for row in wired.rows for cell in row}
        assert subject in cells
        for link in wired.links:
            assert {link.start[0], link.end[0]} <= cells, link
            start, end = (NODES.get(cell.partition("#")[0]) for cell, _ in (link.start, link.end))
            if start:
                kind = dict(zip(start["output_name"], start["output"], strict=True))
                assert kind[link.start[1]] in (link.kind, "COMFY_MATCHTYPE_V3"), link
            if end:
                groups = {**end["input"].get("required", {}), **end["input"].get("optional", {})}
                assert groups[link.end[1]][0] in (link.kind, "COMFY_MATCHTYPE_V3"), link


def newest(benchmark: str) -> tuple[str, list[dict[str, Any]]]:
    """(name, rows) of the newest result file of a benchmark."""
    path = max(RESULTS.glob(f"*-{benchmark}-cpu.json"))
    return path.name, json.loads(path.read_text(encoding="utf-8"))["rows"]


def test_every_result_file_that_a_page_names_is_there() -> None:
    for node in NODES:
        for language in LANGUAGES:
            for name in re.findall(r"[\w.-]+\.json", page(node, language)):
                assert (RESULTS / name).is_file(), (node, language, name)


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_of_a_conversion_are_the_files(language: str) -> None:
    convert, quantize = page("FQConvert", language), page("FQQuantizeModel", language)
    name, rows = newest("files")
    assert name in convert and name in quantize
    for row in rows:
        if row["contender"] == "fusequant":
            error, memory = f"{row['weight_error']:.4f}", f"{row['private_peak_bytes'] / 1e6:.0f}"
            line = f"^- \\*\\*`{row['scheme']}`.* {memory} MB.* {error}$"
            (said,) = re.findall(line, convert, re.MULTILINE)
            assert f"{row['median_s']:.1f} s" in said
            assert f"`{row['scheme']}` {error}" in quantize


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_of_the_nodes_are_the_files(language: str) -> None:
    live, quantize = page("FQLiveLoRA", language), page("FQQuantizeModel", language)
    name, rows = newest("host")
    assert name in live and name in quantize
    jobs = {(row["job"], row.get("scheme"), row.get("cache")): row for row in rows}
    start = jobs["cached_start", "int8", None]
    assert f"{jobs['quantize', 'int8', 'off']['seconds']:.1f} s" in quantize
    assert f"{start['warm_start_s']:.1f} s" in quantize
    assert f"{start['cold_start_s']:.1f} s" in quantize
    assert f"{start['cold_page_in_s']:.1f} s" in quantize
    for scheme in ("int8", "fp8"):
        assert f"{jobs['live_lora', scheme, None]['change_s']:.2f} s" in live
        assert f"{jobs['stock_lora', scheme, None]['change_s']:.0f} s" in live


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_of_the_order_are_the_files(language: str) -> None:
    fuse = page("FQFuseLoRA", language)
    name, rows = newest("order")
    assert name in fuse
    errors = {(row["strategy"], row["scheme"]): row["weight_error"] for row in rows}
    between = {"en": r"\s+and\s+", "zh": " 和 "}[language]
    for scheme in ("fp8", "int8_convrot", "int4_g128"):
        fused, after = (errors[name, scheme] for name in ("fused_quantized", "quantize_then_lora"))
        assert re.search(f"`{scheme}` {fused:.4f}{between}{after:.4f}", fuse), scheme


def test_speed_is_told_as_the_advisor_tells_it() -> None:
    speed, quantize = page("FQSpeed", "en"), page("FQQuantizeModel", "en")
    for topic in (
        "int8 with few tokens", "8 bits on a CPU", "compile", "flash attention", "sage attention",
        "TF32", "non-blocking copies", "KV reuse",
    ):  # fmt: skip
        assert CLAIMS[topic].says in speed, topic
    for topic in (
        "8 bits on tensor cores", "weight-only", "int8 with few tokens", "8 bits on a CPU",
    ):  # fmt: skip
        assert CLAIMS[topic].says in quantize, topic


def test_english_is_what_the_nodes_say() -> None:
    written = locales.ENGLISH.read_text(encoding="utf-8")
    assert written == locales.english(), "python -m fusequant.authoring.locales"


def flat(found: Any, at: str = "") -> dict[str, str]:
    """{path: message}."""
    if not isinstance(found, dict):
        return {at: found}
    parts = [flat(inner, f"{at}/{key}") for key, inner in found.items()]
    return {path: text for part in parts for path, text in part.items()}


@pytest.mark.parametrize("name", ["nodeDefs", "main", "settings"])
def test_chinese_has_every_message(name: str) -> None:
    english, chinese = flat(messages("en", name)), flat(messages("zh", name))
    assert list(english) == list(chinese)
    for path, text in chinese.items():
        assert re.search("[一-鿿]", text) or WITHOUT_CHINESE.fullmatch(text), (path, text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_message_is_taken_for_a_pattern(language: str) -> None:
    """The page compiles names and descriptions: these letters mean something there."""
    for name in ("nodeDefs", "main", "settings"):
        for path, text in flat(messages(language, name)).items():
            assert text and not set(text) & set("{}@|"), (path, text)


def test_every_stage_has_its_name_and_its_color() -> None:
    numbers = [stage.partition("/")[2] for stage in STAGES]
    script = (ROOT / "web" / "fusequant.js").read_text(encoding="utf-8")
    assert re.findall(r"\}, // (\d .+)", script) == numbers
    assert [number[:2] for number in numbers] == [f"{place} " for place in range(len(STAGES))]
    for language in LANGUAGES:
        assert list(messages(language, "main")["nodeCategories"]) == numbers
    assert {info["category"] for info in NODES.values()} == set(STAGES)
    assert messages("en", "settings")["FuseQuant_NodeColors"]["name"] in script
