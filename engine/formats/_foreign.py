"""Signs of a dialect that is known but not read in, a Format that refuses by its name out."""

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

    def detect(source: Source) -> bool:
        """The signs, in a file without ComfyUI's per-layer markers."""
        return not (has_marker(source) or is_gguf(source)) and signs(source)

    def split(source: Source) -> Contents:
        """Refuse by name."""
        raise Refused(
            f"format-{name.replace('_', '-')}",
            found=title,
            expected="a dialect that is read here",
            fix=fix,
        )

    return Format(name, title, detect, split)


def has_leaf(*names: str) -> Callable[[Source], bool]:
    """A sign: some tensor is called P.<one of these>, or just so."""

    def sign(source: Source) -> bool:
        """Any tensor name's last component is one of them."""
        return any(name.rpartition(".")[2] in names for name in source.tensors)

    return sign
