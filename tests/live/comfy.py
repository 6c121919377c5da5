"""Where ComfyUI is: COMFYUI_PATH and COMFYUI_PYTHON, else the default workspace of comfy-cli."""

from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass
from pathlib import Path

HOW = (
    "LIVE TESTS SKIPPED: no ComfyUI found. Set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to "
    "its interpreter, if not FOLDER/.venv), or `comfy install` and `comfy set-default FOLDER`."
)
INTERPRETERS = (
    ".venv/bin/python", ".venv/Scripts/python.exe", "venv/bin/python", "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
)  # fmt: skip
# where comfy-cli keeps config.ini, by sys.platform
CLI_FOLDERS = {"win32": "AppData/Local", "darwin": "Library/Application Support"}


@dataclass(frozen=True)
class Comfy:
    """One installed ComfyUI: the folder with main.py and the interpreter that runs it."""

    path: Path
    python: Path


def _cli_workspace() -> str | None:
    folder = Path.home() / CLI_FOLDERS.get(sys.platform, ".config")
    config = configparser.ConfigParser(interpolation=None)
    config.read(folder / "comfy-cli" / "config.ini", encoding="utf-8")
    return config.defaults().get("default_workspace") or None


def _at(path: Path, interpreter: str | None) -> Comfy | None:
    # an interpreter is not resolved: its environment is found by where the link lies
    tried = [Path(interpreter)] if interpreter else [path / name for name in INTERPRETERS]
    python = next((p for p in tried if p.is_file()), None)
    found = python is not None and (path / "main.py").is_file() and (path / "comfy").is_dir()
    return Comfy(path, python) if found and python else None


def find() -> Comfy | None:
    """Nothing -> the ComfyUI of this machine, or None."""
    path = os.environ.get("COMFYUI_PATH") or _cli_workspace()
    return _at(Path(path).absolute(), os.environ.get("COMFYUI_PYTHON")) if path else None
