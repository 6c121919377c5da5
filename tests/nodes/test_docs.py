"""Every node explains itself: tooltips, a name and a place in the menu. Pages: test_help.py."""

from __future__ import annotations

from fusequant.nodes._stages import STAGES

from .conftest import Node

PLAIN_INPUTS = 3  # the first ones may be required and always shown


def test_every_node_has_a_name_a_place_and_words_to_find_it_by(described: list[Node]) -> None:
    for node in described:
        assert node.id.startswith("FQ"), node.id
        assert node.info["display_name"] and node.info["category"] in STAGES, node.id
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
