"""Signs of another tool's dialect in, its detection out; for one that is not read a refusal."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Refused
from ..format import Contents, Format
from ..source import Source
from ._names import has_marker, is_gguf

FROM_ORIGINAL = "quantize the unquantized checkpoint with `fusequant convert` instead"


def foreign(
    name: str, title: str, signs: Callable[[Source], bool], fix: str = FROM_ORIGINAL
) -> Format:
    """A format whose files are recognised by `signs` and refused by name with `fix`."""

    def split(source: Source) -> Contents:
        """Refuse by name."""
        raise unread(name, title, fix=fix)

    return Format(name, title, detected(signs), split)


def detected(signs: Callable[[Source], bool]) -> Callable[[Source], bool]:
    """A detection by the signs of a tool."""

    def detect(source: Source) -> bool:
        """The signs, in a file without ComfyUI's per-layer markers."""
        return not (has_marker(source) or is_gguf(source)) and signs(source)

    return detect


def unread(name: str, found: str, layer: str | None = None, fix: str = FROM_ORIGINAL) -> Refused:
    """The refusal of a dialect, or of a layout of it, by its name."""
    return Refused(
        f"format-{name.replace('_', '-')}",
        found=found,
        expected="a dialect that is read here",
        fix=fix,
        layer=layer,
    )


def has_leaf(*names: str) -> Callable[[Source], bool]:
    """A sign: some tensor is called P.<one of these>, or just so."""

    def sign(source: Source) -> bool:
        """Any tensor name's last component is one of them."""
        return any(name.rpartition(".")[2] in names for name in source.tensors)

    return sign
