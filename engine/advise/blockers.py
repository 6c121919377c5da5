"""What runs on a machine in, one sentence for each thing that is in the way out: a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .machine import Machine, Software

CUDA_KERNELS_SINCE = (13, 0)  # ComfyUI switches comfy-kitchen's CUDA kernels off below
BLACKWELL_SINCE = (12, 8)
OLD_CARDS_UNTIL = (12, 6)  # the last CUDA whose torch builds have kernels for sm_70 and older
_BLACKWELL = ("sm_100", "sm_120")
_ON = "--enable-triton-backend"


@dataclass(frozen=True)
class Blocker:
    """`says(machine)`: the sentence, or None where nothing is in the way."""

    name: str
    says: Callable[[Machine], str | None]


def _version(software: Software) -> str:
    return ".".join(map(str, software.cuda or ()))


def cpu_build(machine: Machine) -> str | None:
    """torch for the CPU alone uses no GPU that may be here."""
    software = machine.software
    if machine.named or machine.device != "cpu" or not (software.torch or "").endswith("+cpu"):
        return None
    return (
        f"torch {software.torch} is built for the CPU alone: a GPU in this machine is not used "
        "until another build is installed."
    )


def old_card(machine: Machine) -> str | None:
    """Builds for a new CUDA have no code for cards before sm_75."""
    cuda = machine.software.cuda
    if machine.device != "sm_70" or cuda is None or cuda <= OLD_CARDS_UNTIL:
        return None
    return (
        f"torch is built for CUDA {_version(machine.software)}, which has no kernels for cards "
        "before sm_75: install the build for CUDA 12.6."
    )


def new_card(machine: Machine) -> str | None:
    """Blackwell needs a build that knows it."""
    cuda = machine.software.cuda
    if machine.device not in _BLACKWELL or cuda is None or cuda >= BLACKWELL_SINCE:
        return None
    return (
        f"torch is built for CUDA {_version(machine.software)}, which knows no {machine.name}: "
        "install the build for CUDA 13."
    )


def kitchen_kernels(machine: Machine) -> str | None:
    """Below CUDA 13 ComfyUI does without comfy-kitchen's CUDA kernels: who multiplies then."""
    software = machine.software
    if software.cuda is None or software.hip or software.cuda >= CUDA_KERNELS_SINCE:
        return None
    if not machine.device.startswith("sm_") or machine.device == "sm_70":
        return None
    off = f"torch is built for CUDA {_version(software)}: comfy-kitchen's CUDA kernels are off"
    if not software.triton:
        return (
            f"{off}, Triton is not installed, and int8 is multiplied by torch's own product "
            "between passes of plain torch: install torch for CUDA 13, or Triton."
        )
    turing = machine.device == "sm_75"
    by = "torch's own product between Triton passes" if turing else "Triton kernels"
    return f"{off}, and int8 is multiplied by {by}{_block_scales(machine)}."


def _block_scales(machine: Machine) -> str:
    """What is left of nvfp4 and mxfp8 where comfy-kitchen has no kernel that rounds activations."""
    kitchen = machine.software.kitchen
    # inside ComfyUI this process knows what is switched off; elsewhere nothing is
    switched_on = kitchen.get("cuda") is not None and kitchen.get("triton", "") is None
    if machine.device not in _BLACKWELL or switched_on:
        return ""
    return f"; nvfp4 and mxfp8 become 16 bits first unless ComfyUI is started with {_ON}"


def no_matrix_cores(machine: Machine) -> str | None:
    """RDNA 2 has no matrix units at all."""
    if machine.card.architecture.name != "RDNA 2":
        return None
    return f"The {machine.name} has no matrix units: int8 saves memory there, not time."


def no_triton(machine: Machine) -> str | None:
    """torch.compile needs Triton on a GPU."""
    if machine.named or machine.software.triton is not False or not machine.discrete:
        return None
    return "Triton is not installed: torch.compile stays off."


BLOCKERS = (
    Blocker("torch for the CPU alone", cpu_build),
    Blocker("a card too old for this torch", old_card),
    Blocker("a card too new for this torch", new_card),
    Blocker("comfy-kitchen's CUDA kernels", kitchen_kernels),
    Blocker("no matrix units", no_matrix_cores),
    Blocker("no Triton", no_triton),
)


def blockers(machine: Machine) -> tuple[str, ...]:
    """Every sentence that applies."""
    return tuple(said for row in BLOCKERS if (said := row.says(machine)))
