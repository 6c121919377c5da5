"""The fixtures of all dialects in, docs/formats/README.md out: `python make_dialects.py`.

Each row is one file as its tool writes it, each cell what the engine makes of that file; the tests
that PROOFS names hold every cell against the file's own numbers.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import stock_reads, storage_problems, tool_problems
from fusequant.engine.measure.table import markdown_table
from fusequant.engine.model import recognise
from fusequant.engine.outputs import Output
from fusequant.engine.read import formats, read
from fusequant.engine.repairable import CORE, homes
from fusequant.engine.rewrite import prepare_repair
from fusequant.engine.stored import all_codecs

ROOT = Path(__file__).resolve().parent.parent
PAGE, FIXTURES = ROOT / "docs" / "formats" / "README.md", ROOT / "tests" / "engine"
UNIT, LIVE = "tests/engine/test_dialects.py", "tests/live/test_stock_weight.py"
# column: (file of the test, test); the row is the test's parameter
PROOFS = {
    "inspect says": (UNIT, "test_inspect_names_the_dialect_and_the_scheme"),
    "read as": (UNIT, "test_the_numbers_are_read"),
    "repair writes": (UNIT, "test_repair_keeps_the_numbers"),
    "refused": (UNIT, "test_what_is_not_read_is_refused_by_its_name"),
    "stock ComfyUI 0.33, mended": (LIVE, "test_stock_comfyui_reads_what_we_say_it_reads"),
}
HEAD = ("file", "inspect says", "read as", "repair writes", "stock ComfyUI 0.33", "mended")
INTRO = """# Files that FuseQuant reads

Made by `python benchmarks/make_dialects.py` from the fixtures of the tests; a test fails when this
page is not what they make, or when a dialect has no fixture. A file is told by names, dtypes and
shapes, never by its name.

- **inspect says**: the dialect; below is what each one is.
- **read as**: the scheme that the codes are, or the codec that reads them by rows.
- **repair writes**: the scheme whose format holds the same codes; `16 bits` where none does.
- **stock ComfyUI 0.33**: whether its own loader gets every number right, as the file is and from
  the mended copy. `0.38`: that version does. `ours`: FuseQuant's loaders do, as with every file.
"""


def fixtures() -> ModuleType:
    """The tests' own collection of fixtures, without the test runner."""
    package = ModuleType("dialect_fixtures")
    package.__path__ = [str(FIXTURES)]
    sys.modules["dialect_fixtures"] = package
    return importlib.import_module("dialect_fixtures.cases")


def row_of(case: Any, folder: Path) -> tuple[str, ...]:
    """What the engine makes of one file."""
    source = open_source(case.write(folder))
    try:
        contents = read(source)
    except Refused as refused:
        source.close()
        return (f"`{case.id}`", case.dialect, f"refused: {refused.kind}", "", "", "")
    problems = (
        *contents.problems,
        *storage_problems(contents, recognise(contents)),
        *tool_problems(contents),
    )
    stock = stock_reads(contents, problems)
    layer = next(x for x in contents.layers if x.key.endswith("proj.weight"))
    prepared = prepare_repair(source)
    output = next(o for o in prepared.outputs if o.choice.layer.key.endswith("proj.weight"))
    prepared.close()
    writes, opens = _mended(output)
    read_as = f"`{layer.scheme}`"
    return f"`{case.id}`", contents.format, read_as, writes, "yes" if stock else "no", opens


def _mended(output: Output) -> tuple[str, str]:
    """(what the mended file holds, who opens it)."""
    scheme = output.choice.scheme
    if scheme == "none":
        plain = output.choice.layer.scheme == "none"
        return ("the same" if plain else "16 bits"), "yes"
    opened_by = homes()[scheme].opened_by
    told = "yes" if opened_by == CORE else ("0.38" if "0.38" in opened_by else "ours")
    return f"`{scheme}`", told


def page(cases: Mapping[str, Any]) -> str:
    """The whole page."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row_of(case, Path(folder)) for case in cases.values()]
    order = {name: at for at, name in enumerate(formats())}
    rows.sort(key=lambda row: (row[2].startswith("refused"), order[row[1]], row[0]))
    dialects = [(f"`{name}`", form.title) for name, form in formats().items()]
    codecs = [
        (f"`{name}`", codec.title, codec.whose, f"{codec.bits:g}")
        for name, codec in all_codecs().items()
    ]
    proofs = [(column, f"`{file}::{test}[FILE]`") for column, (file, test) in PROOFS.items()]
    return "\n".join(
        (
            INTRO,
            markdown_table(HEAD, rows),
            "\n## What proves each cell\n",
            markdown_table(("column", "test"), proofs),
            "\n## Dialects\n",
            markdown_table(("dialect", "what it is"), dialects),
            "\n## Codecs: codes of other tools, read by rows\n",
            markdown_table(("codec", "codes", "whose", "bits a weight"), codecs),
            "",
        )
    )


def main() -> int:
    """Write the page again; 0 in any case."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(fixtures().cases()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
