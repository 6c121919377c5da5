"""What a backend asks of a call, as facts that can check an argument and describe themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from . import cpu


class Constraint(Protocol):
    """A rule about one argument of an op."""

    def check(self, value: torch.Tensor) -> str | None:
        """The reason why `value` breaks the rule, or None when it holds."""
        ...

    def describe(self) -> str:
        """The rule in a few words, for a table."""
        ...


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Dtypes:
    """The tensor has one of these dtypes."""

    dtypes: tuple[torch.dtype, ...]

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when the dtype is another one."""
        if value.dtype in self.dtypes:
            return None
        return f"needs {self.describe()}, this is {_short(value.dtype)}"

    def describe(self) -> str:
        """The dtypes by name."""
        return " or ".join(_short(dtype) for dtype in self.dtypes)


@dataclass(frozen=True)
class On:
    """The tensor is on one of these device types (`cpu`, `cuda`, `mps`, `xpu`)."""

    types: tuple[str, ...]

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when the tensor lies elsewhere."""
        if value.device.type in self.types:
            return None
        return f"needs {self.describe()}, this is on {value.device.type}"

    def describe(self) -> str:
        """The device types by name."""
        return "on " + " or ".join(self.types)


@dataclass(frozen=True)
class Capability:
    """The tensor is on an NVIDIA device of at least this compute capability."""

    at_least: tuple[int, int]

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when the device is older, or no NVIDIA device."""
        if value.device.type != "cuda" or torch.version.hip:
            return f"needs {self.describe()}, this is {value.device.type}"
        found = torch.cuda.get_device_capability(value.device)
        if found >= self.at_least:
            return None
        return f"needs {self.describe()}, this is sm_{found[0]}{found[1]}"

    def describe(self) -> str:
        """The capability as compilers write it."""
        return f"sm_{self.at_least[0]}{self.at_least[1]}"


@dataclass(frozen=True)
class CpuUnits:
    """The tensor is on a CPU that has one of these instruction sets, as torch spells them."""

    one_of: tuple[str, ...]

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when it lies elsewhere, or the CPU has none of them."""
        if value.device.type != "cpu":
            return f"needs {self.describe()}, this is on {value.device.type}"
        if cpu.features().intersection(self.one_of):
            return None
        return f"needs {self.describe()}, this CPU has none of them"

    def describe(self) -> str:
        """The instruction sets."""
        return f"on a cpu with {' or '.join(self.one_of)}"


@dataclass(frozen=True)
class Hip:
    """The tensor is on an AMD device whose architecture begins with one of these (`gfx94`)."""

    archs: tuple[str, ...]

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when the device is another one, or no AMD device."""
        if value.device.type != "cuda" or not torch.version.hip:
            return f"needs {self.describe()}, this is {value.device.type}"
        found = torch.cuda.get_device_properties(value.device).gcnArchName
        return None if found.startswith(self.archs) else f"needs {self.describe()}, this is {found}"

    def describe(self) -> str:
        """The beginnings of the architectures' names."""
        return " or ".join(self.archs)


@dataclass(frozen=True)
class MultipleOf:
    """The size of dimension `dim` is a multiple of `factor`."""

    dim: int
    factor: int

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when the size leaves a remainder."""
        size = value.shape[self.dim]
        return f"needs {self.describe()}, this has {size}" if size % self.factor else None

    def describe(self) -> str:
        """The dimension and the factor."""
        return f"dim {self.dim} a multiple of {self.factor}"


@dataclass(frozen=True)
class Probe:
    """The device has shown that it can: `run(device)` is None, or the reason why it cannot."""

    says: str
    run: Callable[[torch.device], str | None]

    def check(self, value: torch.Tensor) -> str | None:
        """The reason that the trial gave."""
        return self.run(value.device)

    def describe(self) -> str:
        """What was tried."""
        return self.says


@dataclass(frozen=True)
class NotEmpty:
    """The tensor holds a number."""

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when it holds none."""
        return None if value.numel() else f"needs {self.describe()}, this is empty"

    def describe(self) -> str:
        """Not empty."""
        return "numbers"


@dataclass(frozen=True)
class OneNumber:
    """The tensor holds a single number."""

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when there are several."""
        return f"needs {self.describe()}, this has {value.numel()}" if value.numel() != 1 else None

    def describe(self) -> str:
        """One number."""
        return "one number"


@dataclass(frozen=True)
class Among:
    """A setting has one of these values."""

    values: tuple[object, ...]

    def check(self, value: Any) -> str | None:
        """A reason when it has another one."""
        return None if value in self.values else f"needs {self.describe()}, this is {value}"

    def describe(self) -> str:
        """The values."""
        return " or ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class AtLeast:
    """The size of dimension `dim` is no smaller than `size`."""

    dim: int
    size: int

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when it is smaller."""
        found = value.shape[self.dim]
        return f"needs {self.describe()}, this has {found}" if found < self.size else None

    def describe(self) -> str:
        """The dimension and the size."""
        return f"dim {self.dim} at least {self.size}"


@dataclass(frozen=True)
class AtMost:
    """The size of dimension `dim` is no larger than `size`."""

    dim: int
    size: int

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when it is larger."""
        found = value.shape[self.dim]
        return f"needs {self.describe()}, this has {found}" if found > self.size else None

    def describe(self) -> str:
        """The dimension and the size."""
        return f"dim {self.dim} at most {self.size}"
