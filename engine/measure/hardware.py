"""The machine in, what a result must say of it out: processor, memory, system, versions, GPU."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

PACKAGES = ("torch", "comfy-kitchen", "triton", "torchao", "optimum-quanto")


def hardware() -> dict[str, object]:
    """Plain JSON values; what cannot be told is None. Imports torch only to ask for the GPU."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "ram_bytes": ram_bytes(),
        "os": platform.platform(),
        "python": sys.version.split()[0],
        **{name.replace("-", "_"): _version(name) for name in PACKAGES},
        "gpu": _gpu(),
    }


def ram_bytes() -> int | None:
    """Physical memory of the machine."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cpu_model() -> str | None:
    """The processor's name: /proc/cpuinfo on Linux, else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.lower().startswith(("model name", "hardware")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> dict[str, object] | None:
    """The first accelerator that torch sees."""
    try:
        import torch
    except ImportError:
        return None
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        return {
            "name": facts.name,
            "capability": f"sm_{facts.major}{facts.minor}",
            "vram_bytes": facts.total_memory,
            "cuda": torch.version.cuda,
            "rocm": torch.version.hip,
            "driver": _nvidia_driver(),
            "count": torch.cuda.device_count(),
        }
    if torch.backends.mps.is_available():
        return {"name": "Apple MPS", "capability": "mps"}
    return None


def _nvidia_driver() -> str | None:
    """The version in /proc/driver/nvidia/version, e.g. 570.124.06; Linux only."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((word for word in words if word[:1].isdigit() and "." in word), None)
