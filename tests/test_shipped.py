"""What the registry's zip holds, and what the shipped code never does: network and pip.

The list is made by the rules of `comfy node pack`: what git tracks, less .comfyignore.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import warnings
from functools import cache
from pathlib import Path

import pathspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("kernels", "engine", "cli", "host", "nodes", "web", "workflows", "locales")
AT_ROOT = {
    "CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "__main__.py", "pyproject.toml",
    "requirements.txt",
}  # fmt: skip
MOST_BYTES = 5_000_000
PICTURES = (".jpg", ".png", ".webp")

NETWORK = {
    "aiohttp", "asyncore", "ftplib", "httpx", "http", "huggingface_hub", "requests", "smtplib",
    "socket", "ssl", "telnetlib", "urllib", "urllib3", "websocket", "websockets", "xmlrpc",
}  # fmt: skip
INSTALLERS = {"ensurepip", "pip", "setuptools", "uv"}
# file: what it imports of NETWORK, and why that reaches nobody the user has not named
KNOWN = {
    "engine/batch/work.py": "socket",  # the name of this machine, for the journal
    "engine/batch/ray.py": "socket",  # `--on ray`: does the cluster that the user names answer?
}


@cache
def tracked() -> tuple[str, ...]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: the zip is made of tracked files")
    return tuple(line for line in listed.stdout.splitlines() if (ROOT / line).is_file())


@cache
def shipped() -> tuple[str, ...]:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and line[0] != "#"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # comfy-cli asks for this dialect
        ignored = pathspec.PathSpec.from_lines("gitwildmatch", patterns)
    return tuple(name for name in tracked() if not ignored.match_file(name))


@cache
def code() -> dict[str, tuple[ast.AST, ...]]:
    """Every shipped Python file and all nodes of its syntax tree."""
    files = [name for name in shipped() if name.endswith(".py")]
    return {n: tuple(ast.walk(ast.parse((ROOT / n).read_text(encoding="utf-8")))) for n in files}


def imports(nodes: tuple[ast.AST, ...]) -> set[str]:
    """The top names of every import of a file, at any depth."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_zip_holds_the_rooms_and_what_the_registry_reads() -> None:
    at_root = {name for name in shipped() if "/" not in name}
    folders = {name.partition("/")[0] for name in shipped() if "/" in name}
    assert at_root == AT_ROOT
    assert folders - {"docs"} == {room for room in ROOMS if (ROOT / room).is_dir()}
    assert all(name.endswith(".md") for name in shipped() if name.startswith("docs/"))


def test_the_zip_is_small() -> None:
    assert sum((ROOT / name).stat().st_size for name in shipped()) < MOST_BYTES


def test_every_file_of_a_room_is_tracked() -> None:
    """A file that .gitignore swallows, or that nobody added, is missing in the zip alone."""
    lost = [
        name
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != ".DS_Store"
        if (name := path.relative_to(ROOT).as_posix()) not in shipped()
    ]
    assert not lost, f"git add, or see .gitignore and .comfyignore: {lost}"


def test_nothing_of_ours_is_missing_beside_what_imports_it() -> None:
    """Every relative import of a shipped file leads to a shipped file."""
    files = set(shipped())
    for name, nodes in code().items():
        for node in nodes:
            if not (isinstance(node, ast.ImportFrom) and node.level):
                continue
            folder = Path(name).parents[node.level - 1]
            module = folder.joinpath(*(node.module or "").split("."))
            inside = [module / alias.name for alias in node.names]
            candidates = [f"{module.as_posix()}.py", f"{(module / '__init__.py').as_posix()}"]
            candidates += [f"{path.as_posix()}.py" for path in inside]
            assert files & set(candidates), f"{name}: from {'.' * node.level}{node.module}"


def test_pictures_are_not_executable_and_links_are_not_shipped() -> None:
    for name in shipped():
        path = ROOT / name
        assert not path.is_symlink(), name
        if name.endswith(PICTURES) and os.name == "posix":
            assert not path.stat().st_mode & 0o111, name


@pytest.mark.parametrize("banned", [NETWORK, INSTALLERS], ids=["network", "installers"])
def test_shipped_code_neither_calls_out_nor_installs(banned: set[str]) -> None:
    found = {name: imports(nodes) & banned for name, nodes in code().items()}
    told = {name: ", ".join(sorted(what)) for name, what in found.items() if what}
    assert told == (KNOWN if banned is NETWORK else {})


def test_no_command_is_an_installer_and_none_goes_through_a_shell() -> None:
    """No argument of a call is `pip`, `install` or the like; no shell; no model is fetched."""
    calls = re.compile(r"^(from_pretrained|hf_hub_download|snapshot_download|load_url)$")
    words = {"pip", "pip3", "uv", "ensurepip", "install", "git", "curl", "wget"}
    for name, nodes in code().items():
        for node in nodes:
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            assert not calls.match(called), f"{name}:{node.lineno}: {called}"
            assert ast.unparse(node.func) not in ("os.system", "os.popen"), f"{name}:{node.lineno}"
            assert not any(k.arg == "shell" for k in node.keywords), f"{name}:{node.lineno}"
            lists = [a for a in node.args if isinstance(a, ast.List | ast.Tuple)]
            said = {e.value for a in lists for e in a.elts if isinstance(e, ast.Constant)}
            assert not words & said, f"{name}:{node.lineno}: {words & said}"


def test_no_install_script_is_shipped() -> None:
    """ComfyUI-Manager runs `install.py` and `prestartup_script.py` where it finds them."""
    assert not {"install.py", "uninstall.py", "prestartup_script.py"} & set(shipped())
