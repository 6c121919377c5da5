"""The files as ComfyUI's editor takes them: schema 0.4, links, slots, widgets, groups, places.

What a node has is read here from the recorded nodes themselves, not through the builder.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusequant.authoring.models import FILES
from fusequant.authoring.workflow import Workflow
from fusequant.authoring.written import prompt_json

ROOT = Path(__file__).resolve().parents[2]
OURS = json.loads((ROOT / "tests/contracts/nodes.json").read_text(encoding="utf-8"))
CORE = json.loads((ROOT / "authoring/core_nodes.json").read_text(encoding="utf-8"))
RECORDED = {**CORE, **OURS}
NOTE = "MarkdownNote"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
TITLE = 30  # the bar above a node
STEPS = [
    "Load", "Convert", "Advise", "Fuse LoRA", "Quantize", "Live LoRA", "VRAM", "Prompt", "Sample",
    "Measure",
]  # fmt: skip
DIRECTORIES = {
    "diffusion_models", "text_encoders", "loras", "vae", "clip_vision", "style_models",
}  # fmt: skip

Json = dict[str, Any]


def real(saved: Json) -> list[Json]:
    """The nodes without the notes."""
    return [node for node in saved["nodes"] if node["type"] != NOTE]


def listed(options: list[Json], key: str) -> list[tuple[str, list[Any], bool]]:
    """(name, spec, required) of a choice; what a growing list repeats is written once."""
    inputs = next(one["inputs"] for one in options if one["key"] == key)
    before = listed(options, inputs["as before"]) if "as before" in inputs else []
    own = [
        (name, spec, group == "required")
        for group in ("required", "optional")
        for name, spec in (inputs.get(group) or {}).items()
    ]
    every = before + own
    return [one for one in every if one[2]] + [one for one in every if not one[2]]


def specs(node: Json) -> Iterator[tuple[str, list[Any], bool]]:
    """(name, spec, required) of every input of a saved node, its choices' inputs behind them."""
    info, values = RECORDED[node["type"]], node.get("widgets_values_named", {})
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            spec = info["input"][group][name]
            yield name, spec, group == "required"
            if spec[0] == "COMFY_DYNAMICCOMBO_V3":
                for inner, one, required in listed(spec[1]["options"], values[name]):
                    yield f"{name}.{inner}", one, required


def widgets(node: Json) -> list[str]:
    """The names of its widgets in order, with those that the editor adds."""
    found = []
    for name, spec, _ in specs(node):
        if spec[0] not in WIDGETS:
            continue
        found.append(name)
        told = spec[1] if len(spec) > 1 else {}
        seed = told.get("control_after_generate", name in ("seed", "noise_seed"))
        found += ["control_after_generate"] if spec[0] == "INT" and seed else []
        found += ["upload"] if told.get("image_upload") else []
    return found


def test_the_form_is_that_of_the_editor(saved: Json) -> None:
    assert saved["version"] == 0.4 and saved["revision"] == 0 and saved["config"] == {}
    ids = [node["id"] for node in saved["nodes"]]
    assert len(set(ids)) == len(ids) and max(ids) == saved["last_node_id"]
    numbers = [link[0] for link in saved["links"]]
    assert len(set(numbers)) == len(numbers) == saved["last_link_id"]
    for node in saved["nodes"]:
        assert {"id", "type", "pos", "size", "flags", "order", "mode", "inputs", "outputs",
                "properties"} <= node.keys()  # fmt: skip
        assert ("widgets_values" in node) == ("widgets_values_named" in node)
    assert sorted(node["order"] for node in saved["nodes"]) == list(range(len(ids)))


def test_every_node_is_a_recorded_one_and_says_whose_it_is(saved: Json) -> None:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert found
    for node in real(saved):
        said = node["properties"]
        assert said["Node name for S&R"] == node["type"]
        ours = node["type"] in OURS
        assert said["cnr_id"] == ("fusequant" if ours else "comfy-core")
        assert said["ver"] == (found[1] if ours else "0.33.0")


def test_widgets_are_saved_in_the_order_of_the_node(saved: Json) -> None:
    for node in real(saved):
        names = widgets(node)
        named = node.get("widgets_values_named", {})
        assert list(named) == names, node["type"]
        assert node.get("widgets_values", []) == list(named.values())
        entries = [one["widget"]["name"] for one in node["inputs"] if "widget" in one]
        assert entries == [name for name in names if name != "control_after_generate"]


def test_values_are_ones_that_the_node_takes(saved: Json) -> None:
    for node in real(saved):
        for name, spec, _ in specs(node):
            if spec[0] not in WIDGETS:
                continue
            value, told = node["widgets_values_named"][name], spec[1] if len(spec) > 1 else {}
            kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
            assert isinstance(value, kinds.get(spec[0], object)), (node["type"], name)
            if spec[0] in ("INT", "FLOAT"):
                assert told.get("min", value) <= value <= told.get("max", value)
            options = told.get("options")
            if isinstance(options, list) and options:
                choices = [one["key"] if isinstance(one, dict) else one for one in options]
                assert value in choices, (node["type"], name, value)


def test_sockets_are_the_node_s_own_and_the_required_ones_are_wired(saved: Json) -> None:
    for node in real(saved):
        entries = {one["name"]: one for one in node["inputs"]}
        known = {name: (spec, required) for name, spec, required in specs(node)}
        assert entries.keys() - {"upload"} == known.keys(), node["type"]
        for name, (spec, required) in known.items():
            entry = entries[name]
            assert entry.get("shape") == (None if required else 7)
            if spec[0] == "COMFY_MATCHTYPE_V3":
                assert entry["type"] == spec[1]["template"]["allowed_types"]
            else:
                assert entry["type"] == spec[0]
            if required and spec[0] not in WIDGETS:
                assert entry["link"] is not None, (node["type"], name)
        first_widget = next((n for n, x in enumerate(node["inputs"]) if "widget" in x), None)
        plain = [
            n for n, x in enumerate(node["inputs"]) if "widget" not in x and "." not in x["name"]
        ]
        assert first_widget is None or all(n < first_widget for n in plain)


def test_links_agree_with_both_of_their_ends(saved: Json) -> None:
    nodes = {node["id"]: node for node in saved["nodes"]}
    for number, start, out, end, into, kind in saved["links"]:
        output, entry = nodes[start]["outputs"][out], nodes[end]["inputs"][into]
        assert number in output["links"] and entry["link"] == number
        assert output["type"] == kind
        assert entry["type"] == "*" or kind in entry["type"].split(",")
        assert nodes[start]["order"] < nodes[end]["order"]
    used = Counter(link[0] for link in saved["links"])
    told = Counter(x["link"] for node in saved["nodes"] for x in node["inputs"] if x["link"])
    gone = Counter(n for node in saved["nodes"] for x in node["outputs"] for n in x["links"] or [])
    assert used == told == gone


def test_outputs_are_the_node_s_own(saved: Json) -> None:
    for node in real(saved):
        info = RECORDED[node["type"]]
        assert [one["name"] for one in node["outputs"]] == info["output_name"]
        for entry, kind in zip(node["outputs"], info["output"], strict=True):
            assert entry["type"] == kind or kind == "COMFY_MATCHTYPE_V3"


def boxes(saved: Json) -> Iterator[tuple[float, float, float, float]]:
    for node in saved["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        yield x, y - TITLE, x + width, y + height


def apart(first: Any, second: Any) -> bool:
    return bool(
        first[2] <= second[0] or second[2] <= first[0]
        or first[3] <= second[1] or second[3] <= first[1]
    )  # fmt: skip


def test_no_node_covers_another(saved: Json) -> None:
    for first, second in itertools.combinations(boxes(saved), 2):
        assert apart(first, second)


def test_groups_stand_in_the_order_of_the_steps_and_hold_their_nodes(saved: Json) -> None:
    titles = [group["title"] for group in saved["groups"]]
    named = [title.partition(" ")[2] for title in titles]
    assert [title.partition(" ")[0] for title in titles] == [str(n + 1) for n in range(len(titles))]
    assert named == [step for step in STEPS if step in named]
    bounds = [(x, y, x + w, y + h) for x, y, w, h in (g["bounding"] for g in saved["groups"])]
    assert all(before[2] < after[0] for before, after in itertools.pairwise(bounds))
    for node, box in zip(saved["nodes"], boxes(saved), strict=True):
        inside = [
            b for b in bounds
            if b[0] <= box[0] and b[1] <= box[1] and box[2] <= b[2] and box[3] <= b[3]
        ]  # fmt: skip
        assert len(inside) == (node["type"] != NOTE), node["type"]


def test_loaders_carry_the_files_that_they_name(saved: Json) -> None:
    for node in real(saved):
        said = {x["name"]: x for x in node["properties"].get("models", [])}
        values = [value for value in node.get("widgets_values", []) if isinstance(value, str)]
        named = {x for x in values if x.endswith((".safetensors", ".pth"))}
        if node["type"] == "FQInspect":  # names the folder too
            assert named == {f"{link['directory']}/{name}" for name, link in said.items()}
        else:
            assert named == said.keys(), node["type"]
        for name, link in said.items():
            assert link == {
                "name": name, "url": FILES[name].url, "directory": FILES[name].directory
            }  # fmt: skip
            assert link["directory"] in DIRECTORIES


def test_notes_say_what_to_download_what_is_needed_and_what_to_change(
    name: str, saved: Json, made: Mapping[str, Workflow]
) -> None:
    notes = {x["title"]: x["widgets_values"][0] for x in saved["nodes"] if x["type"] == NOTE}
    models, *needs, changes = notes
    assert (models, changes) == ("Model links", "Change this for your card")
    for file in made[name].files:
        assert f"[{file.name}]({file.url})" in notes[models]
    assert bool(needs) == bool(made[name].choices)
    for title in needs:
        assert title == "VRAM, RAM, disk and time: predicted"
        assert "predicted" in notes[title] and "none is measured" in notes[title]


def test_the_prompt_says_the_same_as_the_graph(
    name: str, saved: Json, made: Mapping[str, Workflow]
) -> None:
    prompt = prompt_json(made[name].graph)
    links = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
    assert list(prompt) == [str(node["id"]) for node in real(saved)]
    for node in real(saved):
        wired = {x["name"]: links[x["link"]] for x in node["inputs"] if x["link"] is not None}
        added = ("control_after_generate", "upload")
        named = node.get("widgets_values_named", {})
        values = {k: v for k, v in named.items() if k not in added}
        assert prompt[str(node["id"])]["class_type"] == node["type"]
        assert prompt[str(node["id"])]["inputs"] == {**values, **wired}
