"""An op, a device and a number of rows in, the backends from fastest to slowest as measured, out.

Two files have the same form: the one beside this module, and the user's own, which
`fusequant bench ops --update` writes and which comes first. Both are read at the first call.

    {"version": 1, "machines": {"cpu-avx2": {"date": "2026-11-26", "hardware": "...",
     "order": {"int8_linear": {"many": ["torch_native", "reference"]}}}}}
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import cpu

log = logging.getLogger(__name__)

VERSION = 1
ENVIRONMENT = "FUSEQUANT_ORDER"  # a file to use in the place of the user's own
SHIPPED = Path(__file__).with_name("order.json")
# rows of x up to which a call is of a class: one token, a prompt, a picture
CLASSES = (("few", 16), ("some", 512), ("many", sys.maxsize))

Order = Mapping[str, Mapping[str, tuple[str, ...]]]  # op -> class of rows -> backends


@dataclass(frozen=True)
class Measured:
    """The orders of one machine, and where they were read; `problem` is why a file is not used."""

    path: str
    date: str = ""
    hardware: str = ""
    order: Order = field(default_factory=dict)
    problem: str | None = None


def row_class(rows: int) -> str:
    """`few`, `some` or `many`."""
    return next(name for name, most in CLASSES if rows <= most)


@cache
def device_class(device: torch.device) -> str:
    """What devices with the same units share: `cuda-sm_89`, `cpu-amx`, `cpu-vnni`, `cpu-avx2`."""
    if device.type == "cuda" and not torch.version.hip:
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda-sm_{major}{minor}"
    if device.type == "cuda":
        return f"rocm-{torch.cuda.get_device_properties(device).gcnArchName.partition(':')[0]}"
    if device.type != "cpu":
        return device.type
    if not cpu.is_x86():
        return "cpu-arm"
    found = cpu.features()
    names = {"amx_int8": "amx", "avx512_vnni": "vnni", "avx_vnni": "vnni", "avx512_f": "avx512"}
    return "cpu-" + next((name for unit, name in names.items() if unit in found), "avx2")


def user_file() -> Path:
    """Where the order of this machine is kept: the user's configuration folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = home / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return folder / "fusequant" / "order.json"


@cache
def measured(machine: str) -> tuple[Measured, ...]:
    """What the files say of such a machine: the user's own first, then what is shipped."""
    return tuple(found for path in (user_file(), SHIPPED) if (found := _read(path, machine)))


def ranking(op: str, device: torch.device, rows: int) -> tuple[str, ...]:
    """The measured backends, fastest first; empty where nothing was measured."""
    return _ranking(op, device_class(device), row_class(rows))


@cache
def _ranking(op: str, machine: str, rows: str) -> tuple[str, ...]:
    for found in measured(machine):
        names = found.order.get(op, {}).get(rows)
        if names:
            return names
    return ()


def write(path: Path, machine: str, facts: Measured) -> None:
    """Put a machine's orders into the file, in the place of those that it had; others stay."""
    machines: dict[str, Any] = {}
    if path.exists():
        try:
            machines = dict(_load(path))
        except ValueError:
            log.warning("%s is not an order of backends and is written anew", path)
    machines[machine] = {"date": facts.date, "hardware": facts.hardware, "order": facts.order}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    text = json.dumps({"version": VERSION, "machines": machines}, indent=1)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
    forget()


def forget() -> None:
    """Read the files again at the next call."""
    for kept in (measured, _ranking):
        kept.cache_clear()


def _read(path: Path, machine: str) -> Measured | None:
    """None where the file does not exist or tells nothing of such a machine."""
    try:
        facts = _load(path).get(machine)
        if facts is None:
            return None
        order = {
            str(op): {str(rows): tuple(map(str, names)) for rows, names in classes.items()}
            for op, classes in facts["order"].items()
        }
        return Measured(str(path), str(facts["date"]), str(facts["hardware"]), order)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{path} is not used: {type(error).__name__}: {error}"
        log.warning("the order of backends in %s", problem)
        return Measured(str(path), problem=problem)


def _load(path: Path) -> Mapping[str, Any]:
    """The machines in the file; ValueError for any other file."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise ValueError(f"it has no version {VERSION}")
    machines = facts.get("machines")
    if not isinstance(machines, dict):
        raise ValueError("it has no machines")
    return machines
