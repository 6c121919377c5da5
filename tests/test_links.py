"""The pages that people read: links lead somewhere, excerpts are in the files they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "web" / "docs").glob("*.md")),
]  # fmt: skip
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([\w./-]+/[\w./-]*)`")
HEAD = re.compile(r"^#+ (.+)$", re.MULTILINE)
MOST_README_LINES = 400
EXCERPTS = FENCE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in HEAD.findall(text))
    return {head.replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_are_relative_and_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            assert "github.com/fusequant" not in link, f"{link}: link to our files by their place"
            continue
        target, _, anchor = link.partition("#")
        assert not target.startswith(("/", "http:")), link
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link


def test_the_readme_is_no_wall() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < MOST_README_LINES


@pytest.mark.parametrize(("path", "text"), EXCERPTS, ids=[path for path, _ in EXCERPTS])
def test_excerpts_are_in_the_files_that_they_name(path: str, text: str) -> None:
    """Between lines of `...` stands what the file says, in its order."""
    rest = (ROOT / path).read_text(encoding="utf-8")
    for part in re.split(r"^\.\.\.\n", text, flags=re.MULTILINE):
        _, found, rest = rest.partition(part)
        assert found, f"{path} has no longer:\n{part}"


def test_there_is_an_excerpt_of_every_kind_of_part() -> None:
    rooms = {path.rpartition("/")[0] for path, _ in EXCERPTS}
    parts = {"engine/schemes", "kernels/backends", "engine/formats", "cli/verbs", "nodes"}
    assert rooms == parts | {"authoring/families"}


def test_paths_in_the_text_exist() -> None:
    """What is set as code and has a slash is a place in the repository, or a pattern of places."""
    for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "install.md"):
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for path in CODE.findall(text):
            if not path.startswith("user/"):
                assert (ROOT / path).exists() or list(ROOT.glob(path)), f"{name(page)}: {path}"


def test_every_node_is_in_the_readme() -> None:
    """Titles as the contract has them."""
    contract = json.loads((ROOT / "tests" / "contracts" / "nodes.json").read_text(encoding="utf-8"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for node in contract.values():
        assert f"\n| {node['display_name']} | " in text


def test_every_verb_and_scheme_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "cli" / "verbs").glob("[!_]*.py"):
        assert f"    fusequant {path.stem}" in text, path.stem
    for path in (ROOT / "engine" / "schemes").glob("[!_]*.py"):
        assert f"\n| `{path.stem}` | " in text, path.stem
