"""The committed files are what the tables make today, thumbnails and tables of docs included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from fusequant.authoring import table
from fusequant.authoring.graph import STEPS
from fusequant.authoring.models import FILES
from fusequant.authoring.tiers import TIERS
from fusequant.authoring.workflow import Workflow
from fusequant.authoring.written import editor_json, text

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
HOW = "run python -m fusequant.authoring"
ALL_THUMBNAILS, ONE_THUMBNAIL = 2_000_000, 60_000


def test_the_families_make_the_files_that_are_here(made: Mapping[str, Workflow]) -> None:
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {f"{name}{end}" for name in made for end in (".json", ".jpg")}, HOW


def test_a_file_made_again_is_the_same(name: str, made: Mapping[str, Workflow]) -> None:
    again = text(editor_json(name, made[name].graph))
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == again, HOW


def test_a_thumbnail_stands_beside_it(name: str) -> None:
    path = FOLDER / f"{name}.jpg"
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (640, 360))
        colors = picture.resize((64, 36)).getcolors(maxcolors=64 * 36)
    assert colors is not None and len(colors) > 50, "an empty picture"
    assert path.stat().st_size < ONE_THUMBNAIL


def test_all_thumbnails_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.jpg")) < ALL_THUMBNAILS


def test_the_page_of_docs_is_made_from_the_same_tables() -> None:
    committed = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
    assert committed == table.page(), HOW


def test_states_speak_of_workflows_that_there_are(made: Mapping[str, Workflow]) -> None:
    assert table.states().keys() <= made.keys()
    for state in table.states().values():
        assert state.keys() <= {"executed", "browser"} and all(state.values())


def test_every_tier_of_cards_has_its_quick_start_and_its_chain(
    made: Mapping[str, Workflow],
) -> None:
    for key in TIERS:
        quick = [x for x in made if "qwen-edit-2511_quickstart" in x and x.endswith(f"_{key}")]
        fused = [x for x in made if "qwen-edit-2511_edit-fused" in x and x.endswith(f"_{key}")]
        assert len(fused) == 1 and len(quick) == (key != "apple"), key


def test_the_modes_of_other_tools_are_there_by_name(made: Mapping[str, Workflow]) -> None:
    for mode in ("fp8-standard", "fp8-optimized", "low-vram", "low-vram-optimized"):
        assert sum(f"_mode-{mode}_" in name for name in made) == 1


def test_every_file_of_the_table_is_used_and_its_address_ends_in_its_name(
    made: Mapping[str, Workflow],
) -> None:
    used = {file.name for workflow in made.values() for file in workflow.files}
    assert used == FILES.keys() - {"qwen_image_edit_2511_fp8mixed.safetensors"}
    renamed = {x for x in FILES if not FILES[x].url.endswith(f"/{x}")}
    assert renamed == {"Qwen_Image_Edit_2511-SYSTMS_INFL8.safetensors"}
    for file in FILES.values():
        assert file.url.startswith("https://huggingface.co/") and "/resolve/main/" in file.url


def test_steps_are_named_once() -> None:
    assert len(set(STEPS)) == len(STEPS)


def test_making_them_needs_no_torch() -> None:
    code = (
        "import pkgutil, sys; from importlib import import_module;"
        "from fusequant.authoring import __main__, families as f;"
        "[import_module(f'{f.__name__}.{x.name}') for x in pkgutil.iter_modules(f.__path__)];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
