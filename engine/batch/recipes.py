"""A file of recipes in, one entry for each conversion out, with everything that is wrong in it.

No checkpoint is opened but those that a pattern finds, and those by their header.
"""

from __future__ import annotations

import glob
import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..accelerator import device_here
from ..errors import Refused
from ..scheme_names import resolve
from .entry import Entry, Lora, Part, Trouble
from .keys import KEYS, NAME, PARTS, read_table
from .ours import recipe_in
from .toml import load

Values = dict[str, Any]


def read_recipes(path: Path, *, remote: bool = False) -> tuple[list[Entry], list[Trouble]]:
    """Every recipe of the file, in its order. `remote`: devices are not those of this machine."""
    return _Reader(path, remote).read(load(path))


def placed(folder: Path, text: str) -> Path:
    """A path as written: `~` is the home, what is relative begins at the file of recipes."""
    return Path(os.path.abspath(folder / os.path.expanduser(text)))


def fill(template: str, fields: Mapping[str, str]) -> str:
    """`{stem}-{scheme}` with the fields in place; nothing else may stand in braces."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as fault:
        raise _bad_template(template, fields, str(fault)) from None
    text = ""
    for literal, name, layout, conversion in pieces:
        text += literal
        if name is None:
            continue
        if name not in fields or layout or conversion:
            raise _bad_template(template, fields, f"{{{name}}}")
        text += fields[name]
    return text


def _bad_template(template: str, fields: Mapping[str, str], found: str) -> Refused:
    return Refused(
        "template-field",
        found=f"{found} in {template!r}",
        expected=" or ".join(f"{{{name}}}" for name in fields),
        fix="use one of these, or double a brace that is meant as such",
    )


def scheme_of(name: str, device: str, remote: bool) -> str:
    """The scheme that a name means; `auto` stays what it is until the model is known."""
    if name != "auto":
        return resolve(name)[0]
    if remote and device.startswith("cuda"):
        raise Refused(
            "scheme-not-named",
            found=f"scheme auto on {device} of another machine",
            expected="the name of a scheme: which card will do it is not known here",
            fix='name it, such as scheme = "int8_convrot"',
        )
    return name


class _Reader:
    """Reads one file of recipes; what is wrong is gathered and reading goes on."""

    def __init__(self, path: Path, remote: bool) -> None:
        self._folder = Path(os.path.abspath(path)).parent
        self._remote = remote
        self._troubles: list[Trouble] = []
        self._defaults: Values = {}

    def read(self, facts: Mapping[str, Any]) -> tuple[list[Entry], list[Trouble]]:
        """Entries and troubles of the parsed file."""
        read_table(facts, (), "", "the file", self._troubles, ("defaults", "recipe"))
        defaults, recipes = facts.get("defaults", {}), facts.get("recipe", [])
        if not isinstance(defaults, dict) or not _tables(recipes) or not recipes:
            self._trouble("", _no_recipes())
            return [], self._troubles
        usual = [key for key in (NAME, *KEYS) if key.name != "source"]
        self._defaults = read_table(defaults, usual, "", "[defaults]", self._troubles)
        entries: list[Entry] = []
        for number, table in enumerate(recipes, 1):
            named = table.get("name")
            where = named if isinstance(named, str) and named.strip() else f"recipe {number}"
            entries += self._recipe(table, where)
        return entries, self._troubles

    def _trouble(self, recipe: str, refusal: Refused) -> None:
        self._troubles.append(Trouble(recipe, refusal))

    def _recipe(self, table: Mapping[str, Any], where: str) -> list[Entry]:
        """The entries of one [[recipe]]: one for each source that its pattern finds and scheme."""
        before = len(self._troubles)
        own = read_table(
            table, (NAME, *KEYS), where, f"recipe {where!r}", self._troubles, ("parts", *PARTS)
        )
        values = {**self._defaults, **own}
        sides = self._sides(table, values, where)
        if len(self._troubles) > before:
            return []
        schemes = values.pop("scheme", ("auto",))
        try:
            if sides:
                _needs(values, "name")
                return [self._entry(values["name"], sides, scheme) for scheme in schemes]
            _needs(values, "source", "out")
            sources = self._sources(values["source"])
            name = values.get("name", "{stem}-{scheme}" if len(schemes) > 1 else "{stem}")
            return [
                self._entry(name, {"": values | {"source": source}}, scheme)
                for source in sources
                for scheme in schemes
            ]
        except Refused as refusal:
            self._trouble(where, refusal)
            return []

    def _sides(self, table: Mapping[str, Any], values: Values, where: str) -> dict[str, Values]:
        """{part: its values} of a recipe that makes several files together, else {}.

        `scheme` is among the values of a part only where the part itself names one.
        """
        parts = table.get("parts", {})
        found = {**(parts if isinstance(parts, dict) else {"parts": parts})}
        found |= {name: table[name] for name in PARTS if name in table}
        sides = {}
        for name, part in found.items():
            if not isinstance(part, dict):
                self._trouble(where, _not_a_part(name, part))
                continue
            own = read_table(part, KEYS, where, f"{name} of {where!r}", self._troubles)
            sides[name] = {**{key: values[key] for key in values if key != "scheme"}, **own}
        return sides

    def _entry(self, template: str, sides: Mapping[str, Values], scheme: str) -> Entry:
        """One recipe; its name is the template filled for its first file."""
        name, parts = "", []
        for label, side in sides.items():
            _needs(side, "source", "out")
            device = side.get("device", "cpu")
            if device != "cpu" and not self._remote:
                device_here(device)
            chosen = scheme_of(_one_scheme(side) or scheme, device, self._remote)
            source = side["source"]
            if not isinstance(source, Path):
                source = self._only(source)
            fields = {"stem": _stem(source), "scheme": chosen}
            name = name or fill(template, fields)
            fields |= {"name": name, **({"part": label} if label else {})}
            parts.append(
                Part(
                    name=label,
                    source=source,
                    loras=self._loras(side),
                    options=_options(side) | {"scheme": chosen, "device": device},
                    out=placed(self._folder, fill(side["out"], fields)),
                )
            )
        return Entry(name, tuple(parts))

    def _loras(self, side: Values) -> tuple[Lora, ...]:
        usual = {"strength": 1.0, "rslora": side.get("rslora", False)}
        found = []
        for lora in side.get("loras", ()):
            facts = {**usual, **lora}
            path = placed(self._folder, facts.pop("file"))
            found.append(Lora(path, **facts))
        return tuple(found)

    def _only(self, texts: Sequence[str]) -> Path:
        found = self._sources(texts)
        if len(found) > 1:
            raise Refused(
                "several-sources",
                found=f"{len(found)} files for one part: {found[0].name}, {found[1].name}",
                expected="one",
                fix="write a path, or a pattern that only one file fits",
            )
        return found[0]

    def _sources(self, texts: Sequence[str]) -> list[Path]:
        """The files that paths and patterns name, each once; files of our own making are no
        sources of a pattern, so that it finds the same ones when a batch goes on.
        """
        found: dict[Path, None] = {}
        for text in texts:
            path = placed(self._folder, text)
            if path.exists() or not glob.has_magic(text):
                found[path] = None
                continue
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            sources = [match for match in matches if recipe_in(match) is None]
            if not sources:
                raise Refused(
                    "pattern-finds-nothing",
                    found=f"no file for {path}"
                    + (" but such that FuseQuant made" if matches else ""),
                    expected="at least one checkpoint",
                    fix="correct the pattern (*, ?, [abc], ** for folders below)",
                )
            found |= dict.fromkeys(sources)
        return list(found)


def _options(side: Values) -> Values:
    """The fields of Request that a recipe names."""
    return {key.field: side[key.name] for key in KEYS if key.field and key.name in side}


def _one_scheme(side: Values) -> str | None:
    """The scheme that a part names for itself."""
    named: tuple[str, ...] = side.get("scheme", ())
    if len(named) > 1:
        raise Refused(
            "several-schemes",
            found=f"{', '.join(named)} for one part",
            expected="one scheme, or the list at the recipe itself",
            fix="name one",
        )
    return named[0] if named else None


def _stem(source: Path) -> str:
    return source.name if source.is_dir() else source.stem


def _tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _needs(values: Values, *names: str) -> None:
    for name in names:
        if name not in values:
            raise Refused(
                "key-missing",
                found=f"no `{name}`",
                expected=next(key.expected for key in (NAME, *KEYS) if key.name == name),
                fix=f"add `{name}` to the recipe or, for all of them, to [defaults]",
            )


def _not_a_part(name: str, part: object) -> Refused:
    return Refused(
        "recipe-value",
        found=f"{name} = {part!r}",
        expected='a table such as { source = "FILE", loras = ["FILE"] }',
        fix=f"write {name} as a table",
    )


def _no_recipes() -> Refused:
    return Refused(
        "no-recipes",
        found="no list of [[recipe]] tables",
        expected='[[recipe]] with source = "FILE" and out = "FILE", and perhaps [defaults]',
        fix="write one [[recipe]] for each file to make",
    )
