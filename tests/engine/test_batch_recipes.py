"""Files of recipes: what they mean, and that all that is wrong is told at once, before torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from fusequant.engine.batch import toml as parsing
from fusequant.engine.batch.entry import BatchRefused, Entry
from fusequant.engine.batch.gather import gather
from fusequant.engine.batch.keys import KEYS
from fusequant.engine.batch.recipes import fill, read_recipes
from fusequant.engine.errors import Refused
from fusequant.engine.pipeline import Request

NOT_OF_A_RECIPE = {
    "capability", "workers",  # the machine decides them
    # a budget is spent by the numbers of the weights, and a batch is planned from headers alone
    "max_bytes", "candidates", "inputs", "input_scales",
}  # fmt: skip


def header(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A whole safetensors file of one small matrix."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    entries["a.weight"] = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "style", "turbo", "high", "low"):
        header(tmp_path / "in" / f"{name}.safetensors")
    return tmp_path


def entries(folder: Path, text: str) -> list[Entry]:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return gather(path)[0]


def kinds(folder: Path, text: str, keep_going: bool = False) -> set[tuple[str, str]]:
    """(recipe, kind of trouble) of everything that is wrong."""
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BatchRefused) as caught:
        gather(path, keep_going=keep_going)
    return {(trouble.recipe, trouble.refusal.kind) for trouble in caught.value.troubles}


def test_a_recipe_says_what_convert_is_told(folder: Path) -> None:
    (entry,) = entries(
        folder,
        """
        [[recipe]]
        name = "one"
        source = "in/a.safetensors"
        loras = ["in/style.safetensors:0.8", { file = "in/turbo.safetensors", rslora = true }]
        scheme = "fp8-sgl"
        keep = ["final_layer*"]
        dtype = "fp16"
        rotated = true
        format = "lightx2v"
        by_block = true
        rounding = "search"
        out = "out/a.safetensors"
        """,
    )
    (part,) = entry.parts
    assert (entry.name, part.name) == ("one", "")
    assert part.source == folder / "in/a.safetensors"
    assert [(x.path.name, x.strength, x.rslora) for x in part.loras] == [
        ("style.safetensors", 0.8, False),
        ("turbo.safetensors", 1.0, True),
    ]
    assert part.options == {
        "scheme": "fp8_row",
        "keep": ("final_layer*",),
        "dtype": "F16",
        "device": "cpu",
        "rotated": 256,
        "format": "lightx2v",
        "by_block": True,
        "rounding": "search",
    }
    assert part.out == folder / "out/a.safetensors"


def test_every_field_of_a_request_has_its_key() -> None:
    """An option that Request gains is one more row of KEYS."""
    named = {key.field for key in KEYS if key.field}
    assert named == {field.name for field in fields(Request)} - NOT_OF_A_RECIPE


def test_defaults_hold_where_a_recipe_says_nothing(folder: Path) -> None:
    first, second = entries(
        folder,
        """
        [defaults]
        scheme = "int8"
        rslora = true
        out = "{stem}-{scheme}.safetensors"
        loras = ["in/style.safetensors"]
        [[recipe]]
        source = "in/a.safetensors"
        [[recipe]]
        source = "in/b.safetensors"
        scheme = "fp8"
        loras = []
        """,
    )
    assert first.parts[0].options["scheme"] == "int8"
    assert first.parts[0].loras[0].rslora
    assert first.parts[0].out.name == "a-int8.safetensors"
    assert second.parts[0].loras == ()
    assert second.parts[0].out.name == "b-fp8.safetensors"


def test_a_pattern_and_a_list_of_schemes_make_a_recipe_each(folder: Path) -> None:
    found = entries(
        folder,
        """
        [[recipe]]
        source = "in/[ab].safetensors"
        scheme = ["int8", "fp8"]
        out = "out/{name}.safetensors"
        """,
    )
    assert [entry.name for entry in found] == ["a-int8", "a-fp8", "b-int8", "b-fp8"]
    assert found[3].parts[0].out == folder / "out/b-fp8.safetensors"


def test_a_pattern_passes_over_what_fusequant_made(folder: Path) -> None:
    """So the same command finds the same sources when it goes on."""
    header(folder / "in/a-int8.safetensors", {"format": "pt", "fusequant": "{}"})
    text = '[[recipe]]\nsource = "in/a*.safetensors"\nout = "in/{stem}-int8.safetensors"'
    assert [entry.name for entry in entries(folder, text)] == ["a"]
    assert kinds(folder, text.replace("in/a*", "in/a-*")) == {("recipe 1", "pattern-finds-nothing")}


PAIR = """
[[recipe]]
name = "wan"
scheme = "int8"
out = "{name}-{part}.safetensors"
"""


@pytest.mark.parametrize(
    "parts",
    [
        'high = { source = "in/high.safetensors", loras = ["in/style.safetensors"] }\n'
        'low = { source = "in/low*.safetensors", scheme = "fp8" }',
        '[recipe.parts.high]\nsource = "in/high.safetensors"\nloras = ["in/style.safetensors"]\n'
        '[recipe.parts.low]\nsource = "in/low.safetensors"\nscheme = "fp8"',
    ],
    ids=["inline", "tables"],
)
def test_a_pair_is_one_recipe_of_two_files(parts: str, folder: Path) -> None:
    (entry,) = entries(folder, PAIR + parts)
    high, low = entry.parts
    assert (entry.name, high.name, low.name) == ("wan", "high", "low")
    assert (len(high.loras), len(low.loras)) == (1, 0)
    assert (high.options["scheme"], low.options["scheme"]) == ("int8", "fp8")
    assert (high.out.name, low.out.name) == ("wan-high.safetensors", "wan-low.safetensors")


def test_the_home_and_a_byte_order_mark_are_understood(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    path = folder / "r.toml"
    text = '[[recipe]]\nsource = "~/in/a.safetensors"\nout = "~/o.safetensors"'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (entry,), _ = gather(path)
    assert entry.parts[0].source == folder / "in/a.safetensors"


def test_everything_that_is_wrong_is_told_together(folder: Path) -> None:
    header(folder / "theirs.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\xff" * 64)
    found = kinds(
        folder,
        """
        [[recipe]]
        name = "typo"
        sorce = "in/a.safetensors"
        out = "1.safetensors"
        [[recipe]]
        name = "value"
        source = "in/a.safetensors"
        keep = 3
        out = "2.safetensors"
        [[recipe]]
        name = "twin"
        source = "in/a.safetensors"
        out = "same.safetensors"
        [[recipe]]
        name = "twin"
        source = "in/b.safetensors"
        out = "./same.safetensors"
        [[recipe]]
        name = "over"
        source = "in/a.safetensors"
        out = "in/style.safetensors"
        loras = ["in/turbo.safetensors"]
        [[recipe]]
        name = "over the lora"
        source = "in/a.safetensors"
        out = "in/turbo.safetensors"
        [[recipe]]
        name = "gone"
        source = "in/missing.safetensors"
        loras = ["in/absent.safetensors"]
        out = "3.safetensors"
        [[recipe]]
        name = "broken"
        source = "broken.safetensors"
        out = "4.safetensors"
        [[recipe]]
        name = "theirs"
        source = "in/a.safetensors"
        out = "theirs.safetensors"
        [[recipe]]
        name = "scheme"
        source = "in/a.safetensors"
        scheme = "int9"
        out = "5.safetensors"
        [[recipe]]
        name = "field"
        source = "in/a.safetensors"
        out = "{stam}.safetensors"
        [[recipe]]
        name = "lora key"
        source = "in/a.safetensors"
        loras = [{ file = "in/style.safetensors", strenght = 1 }]
        out = "6.safetensors"
        """,
    )
    assert found == {
        ("typo", "unknown-key"),
        ("value", "recipe-value"),
        ("twin", "name-twice"),
        ("twin", "output-twice"),
        ("over", "output-exists"),
        ("over the lora", "output-is-input"),
        ("gone", "file-missing"),
        ("broken", "unknown-file"),
        ("theirs", "output-exists"),
        ("scheme", "unknown-scheme"),
        ("field", "template-field"),
        ("lora key", "unknown-key"),
    }


def test_a_refusal_names_the_near_key_and_has_every_problem_in_its_json(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_text('[[recipe]]\nsource = "in/a.safetensors"\nkeeps = []\nout = "o"')
    with pytest.raises(BatchRefused, match="write keep") as caught:
        gather(path)
    told = caught.value.to_json()
    assert {"kind", "found", "expected", "fix"} <= set(told)
    assert told["problems"][0]["recipe"] == "recipe 1"
    assert told["problems"][0]["kind"] == "unknown-key"


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links here")
def test_an_output_that_is_a_source_under_another_name_is_seen(folder: Path) -> None:
    ours = header(folder / "in/made.safetensors", {"format": "pt", "fusequant": "{}"})
    os.link(ours, folder / "linked.safetensors")
    text = '[[recipe]]\nsource = "in/made.safetensors"\nout = "linked.safetensors"'
    assert kinds(folder, text) == {("made", "output-is-input")}


def test_an_output_inside_a_folder_that_is_read_is_refused(folder: Path) -> None:
    header(folder / "one/model.safetensors")
    text = '[[recipe]]\nsource = "one"\nout = "one/made.safetensors"'
    assert kinds(folder, text) == {("one", "output-is-input")}


def test_an_own_file_is_replaced_even_if_it_was_cut_off(folder: Path) -> None:
    made = header(folder / "o.safetensors", {"format": "pt", "fusequant": '{"version":"0"}'})
    text = '[[recipe]]\nsource = "in/a.safetensors"\nout = "o.safetensors"'
    for size in (made.stat().st_size, made.stat().st_size - 4, 0):
        os.truncate(made, size)
        assert len(entries(folder, text)) == 1


def test_keep_going_leaves_out_what_cannot_be_done(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_text(
        '[[recipe]]\nsource = "in/a.safetensors"\nout = "1.safetensors"\n'
        '[[recipe]]\nname = "gone"\nsource = "in/x.safetensors"\nout = "2.safetensors"\n'
    )
    found, troubles = gather(path, keep_going=True)
    assert [entry.name for entry in found] == ["a"]
    assert [(x.recipe, x.refusal.kind) for x in troubles] == [("gone", "file-missing")]
    assert kinds(folder, path.read_text() + "\n[other]\n", keep_going=True) >= {("", "unknown-key")}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[[recipe]\n", "toml-invalid"),
        ("\udcff", "toml-invalid"),
        ("", "no-recipes"),
        ("recipe = 3", "no-recipes"),
        ('[[recipe]]\nout = "o"', "key-missing"),
        ('[[recipe]]\nsource = "in/a.safetensors"', "key-missing"),
        ('[[recipe]]\nhigh = 3\nout = "o"', "recipe-value"),
        ('[[recipe]]\nhigh = { source = "in/a.safetensors" }\nout = "o"', "key-missing"),
        ('[[recipe]]\nname = "n"\nhigh = { source = "in/*.safetensors" }\nout = "o"',
         "several-sources"),
        ('[[recipe]]\nsource = "in/a.safetensors"\ndevice = "tpu"\nout = "o"', "no-such-device"),
        ('[[recipe]]\nsource = "in/a.safetensors"\ndtype = "int3"\nout = "o"', "unknown-dtype"),
        ('[[recipe]]\nsource = "in/a.safetensors"\nrotated = 3\nout = "o"', "rotation-group"),
        ('[[recipe]]\nsource = "in/a.safetensors"\nby_block = 1\nout = "o"', "recipe-value"),
        ('[[recipe]]\nname = "a\\nb"\nsource = "in/a.safetensors"\nout = "o"', "recipe-value"),
    ],
)  # fmt: skip
def test_each_fault_has_its_name(text: str, kind: str, folder: Path) -> None:
    path = folder / "r.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Refused) as caught:
        gather(path)
    found = caught.value
    named = [x.refusal.kind for x in found.troubles] if isinstance(found, BatchRefused) else []
    assert kind in (found.kind, *named)


def test_a_card_of_another_machine_needs_its_scheme_named(folder: Path) -> None:
    path = folder / "r.toml"
    text = '[[recipe]]\nsource = "in/a.safetensors"\ndevice = "cuda:1"\nout = "o"'
    path.write_text(text)
    _, (trouble,) = read_recipes(path, remote=True)
    assert trouble.refusal.kind == "scheme-not-named"
    path.write_text(text + '\nscheme = "int8"')
    (entry,), troubles = read_recipes(path, remote=True)
    assert not troubles
    assert entry.parts[0].options["device"] == "cuda:1"


def test_braces_hold_known_names_only() -> None:
    assert fill("{stem}-{{x}}", {"stem": "a"}) == "a-{x}"
    for template in ("{stem.__class__}", "{stem!r}", "{stem:>9}", "{", "{0}", "{}"):
        with pytest.raises(Refused, match="template-field"):
            fill(template, {"stem": "a"})


def test_without_a_parser_the_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing.sys, "version_info", (3, 10, 13))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tomli", None)
    path = folder / "r.toml"
    path.write_text("")
    with pytest.raises(Refused, match="pip install tomli"):
        parsing.load(path)


def test_all_this_is_told_before_torch_is_imported(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_text('[[recipe]]\nsource = "in/x.safetensors"\nout = "o"')
    code = (
        "import sys; from fusequant.cli.main import main; "
        f"code = main(['batch', {str(path)!r}, '--json']); "
        "sys.stderr.write(f'{code} {\"torch\" in sys.modules}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("2 False")
    assert json.loads(done.stdout)["error"]["problems"][0]["kind"] == "file-missing"
