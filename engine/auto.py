"""A device in, the scheme that `auto` means there out: a column of the table in devices.py."""

from __future__ import annotations

from .devices import AUTO, device_class


def auto_scheme(
    device: str, capability: tuple[int, int] | None = None, hip: bool = False
) -> tuple[str, str]:
    """(scheme, why) for a device type, its CUDA capability and whether torch is built for ROCm."""
    return AUTO[device_class(device, capability, hip)]
