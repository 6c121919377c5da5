"""How many LoRAs in, their files and strengths out: the growing list of the LoRA nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..engine.errors import Refused
from ..host import paths
from ._files import stamp

MOST = 10
RSLORA_TIP = (
    "On for LoRAs trained rank-stabilized (rsLoRA): alpha is over the square root of the rank. "
    "Their files do not say so; a LoRA that is far too weak without it was trained that way."
)


def loras_input(least: int = 1) -> Any:
    """The number of LoRAs from `least` on; each brings its file and its strength."""
    return io.DynamicCombo.Input(
        "count",
        options=[
            io.DynamicCombo.Option(said, [x for n in range(1, int(said) + 1) for x in _one(n)])
            for said in _numbers(least)
        ],
        display_name="LoRAs",
        tooltip="How many LoRAs. They are added in this order.",
    )


def rslora_input() -> Any:
    """Whether the LoRAs are rank-stabilized."""
    return io.Boolean.Input(
        "rank_stabilized", default=False, optional=True, advanced=True, tooltip=RSLORA_TIP
    )


def check_loras(count: Any, least: int = 1) -> bool | str:
    """True, or what to say to the user: ComfyUI lets any number pass.

    None is left to `chosen_loras`: what has no such option does not arrive here.
    """
    said = _said(count)
    if said is None or said in _numbers(least):
        return True
    return str(_refused(said, least))


def chosen_loras(count: Any, least: int = 1) -> list[tuple[str, float]]:
    """(name, strength) of each LoRA, from the list's value; a strength left out is 1."""
    said = _said(count)
    if said not in _numbers(least):
        raise _refused(said, least)
    found = []
    for n in range(1, int(said) + 1):
        strength = count.get(f"strength_{n}")
        found.append((str(count[f"lora_{n}"]), 1.0 if strength is None else float(strength)))
    return found


def _said(count: Any) -> Any:
    return count.get("count") if isinstance(count, dict) else count


def _numbers(least: int) -> list[str]:
    return [str(count) for count in range(least, MOST + 1)]


def _refused(said: Any, least: int) -> Refused:
    return Refused(
        "lora-count",
        found=f"{said!r} as the number of LoRAs",
        expected=f"a text from '{least}' to '{MOST}'",
        fix="choose how many LoRAs in the node",
    )


def _one(n: int) -> list[Any]:
    return [
        io.Combo.Input(
            f"lora_{n}",
            options=paths.names("loras"),
            tooltip=f"LoRA {n}, a file in models/loras, in any spelling.",
        ),
        io.Float.Input(
            f"strength_{n}",
            default=1.0, min=-100.0, max=100.0, step=0.01, optional=True,
            tooltip=f"Factor on LoRA {n}; 0 leaves it out, below 0 takes its effect away.",
        ),
    ]  # fmt: skip


def paths_of(count: Any, least: int = 1) -> list[tuple[Path, float]]:
    """(path, strength) of each LoRA; a file that is gone is refused."""
    chosen = chosen_loras(count, least)
    return [(paths.find("loras", name), strength) for name, strength in chosen]


def stamps_of(count: Any) -> str:
    """What tells other bytes under the same names from these, so that the node runs again."""
    names = [value for key, value in count.items() if key.startswith("lora_")] if count else []
    return ";".join(stamp("loras", str(name)) for name in names)
