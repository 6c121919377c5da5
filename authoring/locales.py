"""The recorded nodes in, locales/en/nodeDefs.json as ComfyUI's page reads it out.

`python -m fusequant.authoring.locales`, after `pytest tests/nodes/test_contract.py --accept`.
English is what the nodes say themselves; the other languages are written by hand with these keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT / "tests" / "contracts" / "nodes.json"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def recorded() -> dict[str, Any]:
    """{node id: what ComfyUI is told about it}."""
    return dict(json.loads(CONTRACT.read_text(encoding="utf-8")))


def inputs(groups: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, facts) of every input; one that a choice brings is named `choice.name`.

    An input that several options bring comes once.
    """
    seen = set()
    for name, (_, *more) in [
        *groups.get("required", {}).items(),
        *groups.get("optional", {}).items(),
    ]:
        facts: Mapping[str, Any] = more[0] if more else {}
        yield prefix + name, facts
        options = facts.get("options")
        for option in options if isinstance(options, list) else ():
            brought = option.get("inputs", {}) if isinstance(option, dict) else {}
            for inner in inputs(brought, f"{prefix}{name}."):
                if inner[0] not in seen:
                    seen.add(inner[0])
                    yield inner


def key(name: str) -> str:
    """An input's name -> its key: the page writes an underscore for every dot."""
    return name.replace(".", "_")


def described(info: Mapping[str, Any]) -> dict[str, Any]:
    """One node -> its entry: names and tooltips of the node, its inputs and its outputs."""
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            key(name): {
                "name": facts.get("display_name") or name.rpartition(".")[2],
                "tooltip": facts["tooltip"],
            }
            for name, facts in inputs(info["input"])
        },
        "outputs": {
            str(place): {"name": name, "tooltip": tooltip}
            for place, (name, tooltip) in enumerate(outputs)
        },
    }


def english() -> str:
    """The file as it must be."""
    found = {node: described(info) for node, info in recorded().items()}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file; 0."""
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    ENGLISH.write_text(english(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
