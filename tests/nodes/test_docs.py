"""Every node explains itself: a help page, tooltips, a name and a place in the menu."""

from __future__ import annotations

from pathlib import Path

from .conftest import Node

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
PLAIN_INPUTS = 3  # the first ones may be required and always shown
PAGE_LINES = (20, 60)


def test_every_node_has_a_name_a_place_and_words_to_find_it_by(described: list[Node]) -> None:
    for node in described:
        assert node.id.startswith("FQ"), node.id
        assert node.info["display_name"] and node.info["category"] == "FuseQuant", node.id
        assert len(node.info["description"]) > 20, node.id
        assert node.info["search_aliases"], node.id


def test_every_input_and_output_has_a_tooltip(described: list[Node]) -> None:
    bare = [
        f"{node.id}.{one.name}" for node in described for one in node.inputs()
        if not one.facts.get("tooltip")
    ]  # fmt: skip
    bare += [
        f"{node.id} -> {name}" for node in described for name, tip in node.outputs() if not tip
    ]
    assert bare == []


def test_inputs_after_the_first_three_are_optional_and_advanced(described: list[Node]) -> None:
    shown = [
        f"{node.id}.{one.name}" for node in described for one in node.inputs()
        if one.place >= PLAIN_INPUTS and not one.nested
        and not (one.optional and one.facts.get("advanced"))
    ]  # fmt: skip
    assert shown == []


def test_what_a_choice_brings_is_optional_where_it_has_a_default(described: list[Node]) -> None:
    """A prompt posted without it is refused otherwise."""
    required = [
        f"{node.id}.{one.name}" for node in described for one in node.inputs()
        if one.nested and "default" in one.facts and not one.optional
    ]  # fmt: skip
    assert required == []


def test_every_node_has_a_help_page_that_names_its_inputs(described: list[Node]) -> None:
    wrong = []
    for node in described:
        page = DOCS / f"{node.id}.md"
        if not page.is_file():
            wrong.append(f"{page.name} is missing")
            continue
        words = page.read_text(encoding="utf-8")
        if not PAGE_LINES[0] <= len(words.splitlines()) <= PAGE_LINES[1]:
            wrong.append(f"{page.name} has {len(words.splitlines())} lines")
        for one in node.inputs():
            titles = (one.name, one.facts.get("display_name") or one.name)
            if not one.nested and not any(title in words for title in titles):
                wrong.append(f"{page.name} does not name {one.name}")
    assert wrong == []


def test_every_help_page_is_of_a_node(described: list[Node]) -> None:
    pages = {page.stem for page in DOCS.glob("*.md")}
    assert pages <= {node.id for node in described}
