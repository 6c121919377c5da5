"""Help pages, their pictures, translations and colors, asked for as ComfyUI's page asks."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .server import ROOT, ComfyServer

FOLDER = "fusequant"  # the pack's name below custom_nodes: pages lie under it


def fetched(server: ComfyServer, path: str) -> tuple[str, str] | None:
    """(content type, text), or None where there is no such file."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
            return answer.headers.get_content_type(), answer.read().decode("utf-8")
    except urllib.error.HTTPError as error:
        assert error.code == 404, path
        return None


def ours(server: ComfyServer) -> list[str]:
    """The ids of our nodes, as the page tells whose a node is."""
    info = server.object_info()
    return [
        name for name, one in info.items() if one["python_module"] == f"custom_nodes.{FOLDER}"
    ]  # fmt: skip


def shown(server: ComfyServer, node: str, language: str) -> str:
    """What a user of that language gets: the page of the language, else the one without."""
    base = f"/extensions/{FOLDER}/docs/{node}"
    found = fetched(server, f"{base}/{language}.md") or fetched(server, f"{base}.md")
    assert found, f"no help for {node}"
    kind, text = found
    assert kind != "text/html", node  # taken for the page itself, which answers unknown addresses
    return text


@pytest.mark.parametrize(("language", "heading"), [("en", "## Inputs"), ("zh", "## 输入")])
def test_every_node_has_help_and_its_picture(
    server: ComfyServer, language: str, heading: str
) -> None:
    nodes = ours(server)
    assert len(nodes) >= 15
    for node in nodes:
        text = shown(server, node, language)
        assert heading in text, node
        (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
        # the page puts this before whatever is no full address, in every language
        kind, drawing = fetched(server, f"/extensions/{FOLDER}/docs/{picture}") or ("", "")
        assert kind == "image/svg+xml", picture
        assert drawing.startswith("<svg "), picture


def test_other_languages_get_the_english_page(server: ComfyServer) -> None:
    assert "## Inputs" in shown(server, "FQFuseLoRA", "fr")


def test_translations_are_handed_to_the_page(server: ComfyServer) -> None:
    served = server.get("/api/i18n")
    for language in ("en", "zh"):
        for name in ("nodeDefs", "settings"):
            path = Path(ROOT, "locales", language, f"{name}.json")
            wanted = json.loads(path.read_text(encoding="utf-8"))
            assert wanted.items() <= served[language][name].items()
        path = Path(ROOT, "locales", language, "main.json")
        wanted = json.loads(path.read_text(encoding="utf-8"))["nodeCategories"]
        assert wanted.items() <= served[language]["nodeCategories"].items()


def test_the_script_that_colors_nodes_is_loaded(server: ComfyServer) -> None:
    script = f"/extensions/{FOLDER}/fusequant.js"
    assert script in server.get("/extensions")
    kind, text = fetched(server, script) or ("", "")
    assert "javascript" in kind
    assert "registerExtension" in text
