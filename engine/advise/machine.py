"""The machine in, or the words that name another one; what advice must know of it out.

A GPU that is named stands for another machine: what is not said of that one is not known and limits
nothing. torch is imported only where its build can have a device.
"""

from __future__ import annotations

import ast
import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..devices import TITLES, device_class
from ..errors import Refused
from ..measure.hardware import ram_bytes
from .architectures import ARCHITECTURES, MIDDLING
from .cards import Card
from .find_card import GIB, find, lookup

CPU_NAMES = ("cpu", "none", "no gpu")


@dataclass(frozen=True)
class Software:
    """What runs there. None: not known. `kitchen`: backend of comfy-kitchen -> why it is off."""

    torch: str | None = None
    cuda: tuple[int, int] | None = None
    hip: bool = False
    driver: str | None = None
    os: str | None = None
    packages: tuple[str, ...] = ()
    kitchen: Mapping[str, str | None] = field(default_factory=dict)
    triton: bool | None = None


@dataclass(frozen=True)
class Machine:
    """A device, its memory, and what is around it. None: not known.

    `listed`: the card is in the table, so that times mean something. `note`: what was taken for
    granted.
    """

    name: str
    card: Card
    vram_bytes: int
    ram_bytes: int | None
    disk_bytes: int | None
    listed: bool
    named: bool
    software: Software = field(default_factory=Software)
    note: str | None = None

    @property
    def device(self) -> str:
        """The class of the device in engine/devices.py."""
        return self.card.architecture.device

    @property
    def unified(self) -> bool:
        """One memory for everything."""
        return self.card.architecture.unified

    @property
    def discrete(self) -> bool:
        """A card with memory of its own."""
        return self.device not in ("mps", "cpu")

    def to_json(self) -> dict[str, object]:
        """The shape on the command line."""
        software = self.software
        return {
            "gpu": self.name,
            "device": self.device,
            "architecture": self.card.architecture.name,
            "vram_bytes": self.vram_bytes,
            "ram_bytes": self.ram_bytes,
            "free_disk_bytes": self.disk_bytes,
            "unified": self.unified,
            "source": "named" if self.named else "read",
            "torch": software.torch,
            "cuda": ".".join(map(str, software.cuda)) if software.cuda else None,
            "driver": software.driver,
            "os": software.os,
            "kitchen": dict(software.kitchen),
            "triton": software.triton,
        }


def machine_of(
    gpu: str | None = None,
    vram_gb: float | None = None,
    ram_gb: float | None = None,
    folder: Path | None = None,
    cpu: bool = False,
) -> Machine:
    """A machine by name, or this one; `vram_gb` and `ram_gb` hold over what is found.

    `folder`: where files would be written. `cpu`: this one without its GPU.
    """
    ram = None if ram_gb is None else int(ram_gb * GIB)
    if gpu is None or gpu.strip().lower() in ("", "auto"):
        return _this(vram_gb, ram, folder or Path.cwd(), cpu)
    if gpu.strip().lower() in CPU_NAMES:
        return Machine("CPU", middling("cpu"), 0, ram, None, listed=False, named=True)
    found = find(gpu, vram_gb)
    if found.card.architecture.unified:
        found = find(gpu, vram_gb if vram_gb is not None else ram_gb)
        ram = found.memory_bytes
    return Machine(
        found.card.name, found.card, found.memory_bytes, ram, None,
        listed=True, named=True, note=found.note,
    )  # fmt: skip


def middling(device: str, name: str | None = None) -> Card:
    """A stand-in of a device class for a card that is not in the table."""
    architecture, tflops, bandwidth = MIDDLING[device]
    return Card(name or TITLES[device], ARCHITECTURES[architecture], (), bandwidth, tflops)


def _this(vram_gb: float | None, ram: int | None, folder: Path, cpu: bool) -> Machine:
    """The machine that this runs on."""
    build = torch_build()
    ram = ram if ram is not None else read_ram()
    disk = shutil.disk_usage(folder).free
    found = _accelerator() if _may_have_device(build) and not cpu else None
    software = _software(build, found)
    if found is None:
        if vram_gb is not None:
            raise Refused(
                "vram-without-gpu",
                found=f"--vram {vram_gb:g} and no GPU that torch can use here",
                expected="the GPU that has this memory",
                fix='name it, such as --gpu "RTX 3080"',
            )
        return Machine("CPU", middling("cpu"), 0, ram, disk, False, False, software)
    card = lookup(found.name)
    listed = card is not None and card.architecture.device == found.device
    if card is None or not listed:
        card = middling(found.device, found.name)
    vram = found.memory_bytes if vram_gb is None else int(vram_gb * GIB)
    vram = ram if found.device == "mps" and ram is not None and vram_gb is None else vram
    return Machine(found.name, card, vram, ram, disk, listed, False, software)


@dataclass(frozen=True)
class Accelerator:
    """The first device that torch sees."""

    name: str
    device: str
    memory_bytes: int
    driver: str | None = None


def _accelerator() -> Accelerator | None:
    import torch

    from ..measure.hardware import hardware

    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        hip = torch.version.hip is not None
        device = device_class("cuda", (facts.major, facts.minor), hip)
        gpu = hardware()["gpu"]
        driver = gpu.get("driver") if isinstance(gpu, Mapping) else None
        return Accelerator(facts.name, device, int(facts.total_memory), driver)
    if torch.backends.mps.is_available():
        return Accelerator(_apple_chip(), "mps", ram_bytes() or 0)
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found = torch.xpu.get_device_properties(0)
        return Accelerator(found.name, "xpu", int(found.total_memory))
    return None


def _apple_chip() -> str:
    """`Apple M2 Max`; what Python knows where the system does not say."""
    try:
        said = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        )
    except OSError:
        return "Apple"
    return said.stdout.strip() or "Apple"


def torch_build() -> Mapping[str, str | None]:
    """What torch's version.py says ({} without torch): read as text, nothing is imported."""
    spec = importlib.util.find_spec("torch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        path = Path(place) / "version.py"
        if path.is_file():
            return _assigned(path.read_text(encoding="utf-8"))
    return {}


def _assigned(text: str) -> dict[str, str | None]:
    """{name: value} of plain assignments of texts and None."""
    found: dict[str, str | None] = {}
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        value = node.value.value if isinstance(node.value, ast.Constant) else 0
        if value is None or isinstance(value, str):
            found |= {name.id: value for name in targets if isinstance(name, ast.Name)}
    return found


def _may_have_device(build: Mapping[str, str | None]) -> bool:
    """Whether this build of torch has any device but the CPU."""
    return bool(build) and (
        any(build.get(kind) for kind in ("cuda", "hip", "xpu")) or platform.system() == "Darwin"
    )


def _software(build: Mapping[str, str | None], found: Accelerator | None) -> Software:
    packages = ("triton", "sageattention", "flash_attn", "comfy_kitchen")
    here = tuple(name for name in packages if importlib.util.find_spec(name) is not None)
    return Software(
        torch=build.get("__version__"),
        cuda=version_of(build.get("cuda")),
        hip=bool(build.get("hip")),
        driver=found.driver if found else None,
        os=platform.system(),
        packages=here,
        kitchen=_kitchen() if found and "comfy_kitchen" in here else {},
        triton="triton" in here,
    )


def version_of(text: str | None) -> tuple[int, int] | None:
    """`12.8` or `12.8.1` -> (12, 8)."""
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def _kitchen() -> dict[str, str | None]:
    """comfy-kitchen's backends and why each is off, as it stands in this process."""
    try:
        import comfy_kitchen
    except ImportError as error:
        return {"comfy-kitchen": f"cannot be imported: {error}"}
    told: dict[str, str | None] = {}
    for name, facts in comfy_kitchen.list_backends().items():
        why = facts.get("unavailable_reason") or "not available"
        off = "switched off" if facts.get("disabled") else None if facts.get("available") else why
        told[str(name)] = off
    return told


def read_ram() -> int | None:
    """Physical memory; by psutil where the system does not tell (Windows)."""
    known = ram_bytes()
    if known is not None:
        return known
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().total)


def device_of_result(hardware: Mapping[str, object]) -> str:
    """The class of the device that a result file was measured on."""
    gpu = hardware.get("gpu")
    if not isinstance(gpu, Mapping):
        return "cpu"
    said = str(gpu.get("capability") or "cpu")
    found = re.fullmatch(r"sm_(\d+)(\d)", said)
    if found is None:
        return device_class(said)
    return device_class("cuda", (int(found[1]), int(found[2])), bool(gpu.get("rocm")))
