"""An opened checkpoint in, its contents out: exactly one format recognises it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .errors import Refused
from .format import Contents, Format
from .parts import discover
from .problem_kinds import KINDS
from .rotated import all_rotated
from .source import Source


def formats() -> Mapping[str, Format]:
    """Every dialect by name."""
    return discover(f"{__package__}.formats", "FORMAT")


def recognise_format(source: Source) -> Format:
    """The one format whose names, dtypes and shapes these are; none or several are refused."""
    if not source.tensors:
        raise Refused(
            "empty-checkpoint",
            found="no tensors",
            expected="a checkpoint with weights",
            fix="check that the download is complete",
        )
    found = [form for form in formats().values() if form.detect(source)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(
            "format-ambiguous",
            found=f"the signs of {', '.join(form.title for form in found)}",
            expected="one dialect in one file",
            fix="pass each part as a file of its own",
        )
    raise Refused(
        "format-unknown",
        found=summary(source),
        expected="16 or 32-bit weights, or float8 and int8 codes with their scales",
        fix="if those tensors are no weights, save the file again without them; else convert "
        "from the unquantized checkpoint",
    )


def summary(source: Source) -> str:
    """How many tensors of each dtype a source has, and the names of the rarest, in one line."""
    counts = Counter(spec.dtype for spec in source.tensors.values())
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common())
    rare = sorted(source.tensors.values(), key=lambda spec: counts[spec.dtype])[:3]
    names = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in rare)
    return f"{dtypes} tensors, among them {names}"


def examine(source: Source, rotated: int | None = None) -> Contents:
    """All that the format says of the source, faults that `read` refuses included.

    `rotated`: the user's word that int8 rows are rotated in groups of so many inputs.
    """
    return all_rotated([recognise_format(source).split(source)], rotated)[0]


def read(source: Source, rotated: int | None = None) -> Contents:
    """The layers of a checkpoint whose numbers can all be known; a fault in them is refused.

    Works on names, shapes and small tensors alone; torch is not imported.
    """
    contents = examine(source, rotated)
    for problem in contents.problems:
        if KINDS[problem.kind].refuses:
            raise Refused(
                problem.kind,
                found=problem.found,
                expected=problem.expected,
                fix=problem.fix,
                layer=problem.layer,
            )
    return contents
