"""The pack through ComfyUI-Manager and by hand into a clean ComfyUI, until its nodes are there.

No network but PyPI is needed: the repository and the registry's zip are handed out on this machine,
and ComfyUI-Manager reads the lists that its own package brings, as it does when it has no cache.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from fusequant.engine.recipe import VERSION

from .bed import ROOT, STEPS, VERSIONS, Bed, Started, our_nodes
from .picture import NAME, first_picture
from .served import GIT, ZIP

HERE = Path(__file__).resolve().parent
CONTRACT = ROOT / "tests" / "contracts" / "nodes.json"
TELL_NOBODY = "--no-enable-telemetry"
ASK = """
import importlib.metadata as m, json, comfyui_version
names = ("comfyui_manager", "comfy_cli", "comfy-kitchen", "torch", "torchao", "optimum-quanto",
         "matplotlib")
found = {n.replace("-", "_"): m.version(n) for n in names if list(m.distributions(name=n))}
print(json.dumps({**found, "comfyui": comfyui_version.__version__}))
"""


def comfy(bed: Bed) -> tuple[str, ...]:
    """comfy-cli for this ComfyUI, asking nothing."""
    return ("-m", "comfy_cli", f"--workspace={bed.comfy.path}", "--skip-prompt", TELL_NOBODY)


def with_comfyui_manager(bed: Bed) -> None:
    """What ComfyUI's own file asks for, and comfy-cli."""
    wanted = ("-r", str(bed.comfy.path / "manager_requirements.txt"), "comfy-cli")
    bed.python("install ComfyUI-Manager", "-m", "pip", "install", "--quiet", *wanted)


def starts_with_every_node(bed: Bed) -> None:
    """A server on the CPU has all nodes of the contract from the pack's folder, and no failure."""
    with Started(bed) as server:
        found = our_nodes(server)
        log = server.log()
        seconds = server.start_s
    assert set(found) == set(json.loads(CONTRACT.read_text(encoding="utf-8")))
    assert "IMPORT FAILED" not in log and "cannot load and is left out" not in log
    bed.note("start ComfyUI", seconds, f"{len(found)} nodes in /object_info")
    asked = bed.python("ask for versions", "-c", ASK)
    STEPS.pop()  # nothing that a user does
    VERSIONS.update(json.loads(asked.splitlines()[-1]))


def test_manager_installs_a_git_address(clean: Callable[[str], Bed], address: str) -> None:
    bed = clean("comfy node install GIT-URL")
    with_comfyui_manager(bed)
    wanted = (f"{address}/{GIT}", "--mode", "cache", "--exit-on-fail")
    said = bed.python("install the pack", *comfy(bed), "node", "install", *wanted, last="INSTALLED")
    assert "[INSTALLED]" in said
    assert (bed.pack / ".git").is_dir()
    starts_with_every_node(bed)
    bed.done()


def test_manager_installs_the_zip_of_the_registry(
    clean: Callable[[str], Bed], address: str, web_root: Path
) -> None:
    bed = clean("cm-cli install fusequant@VERSION")
    with_comfyui_manager(bed)
    clone = web_root / "clone"
    bed.run("clone to pack", "git", "clone", "--quiet", f"{address}/{GIT}", str(clone))
    bed.python("comfy node validate", *comfy(bed), "node", "validate", cwd=clone, last="checks")
    bed.python("comfy node pack", *comfy(bed), "node", "pack", cwd=clone)
    shutil.move(clone / ZIP, web_root / ZIP)
    names = zipfile.ZipFile(web_root / ZIP).namelist()
    size = (web_root / ZIP).stat().st_size
    assert size < 5_000_000
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "."))]
    bed.note("the zip", 0.0, f"{size:,} bytes, {len(names)} files")

    registry = (str(HERE / "through_registry.py"), address)
    wanted = (f"fusequant@{VERSION}", "--mode", "cache", "--exit-on-fail")
    said = bed.python("install the pack", *registry, "install", *wanted, last="INSTALLED")
    assert "[INSTALLED]" in said
    assert (bed.pack / ".tracking").read_text(encoding="utf-8").splitlines() == names
    assert not (bed.pack / "tests").exists()
    starts_with_every_node(bed)
    bed.done()


def test_a_newcomer_has_a_picture(clean: Callable[[str], Bed], address: str) -> None:
    """The README's git way, then the first graph: what a person who knows nothing would type."""
    bed = clean("git clone to the first picture")
    custom_nodes = bed.comfy.path / "custom_nodes"
    bed.run("git clone", "git", "clone", "--quiet", f"{address}/{GIT}", cwd=custom_nodes)
    wanted = ("-m", "pip", "install", "-r", str(bed.pack / "requirements.txt"))
    bed.python("pip install -r requirements.txt", *wanted, last="Successfully")
    models = str(bed.comfy.path / "models")
    bed.python("make tiny models", str(bed.pack / "tests" / "install" / "tiny_models.py"), models)
    graph = bed.base / "picture.json"
    graph.write_text(json.dumps(first_picture().nodes), encoding="utf-8")
    with Started(bed) as server:
        bed.note("start ComfyUI", server.start_s, f"{len(our_nodes(server))} nodes")
        where = ("--host", "127.0.0.1", "--port", str(server.port))
        run = ("run", "--workflow", str(graph), *where, "--wait", "--timeout", "300")
        bed.python("comfy run --workflow", *comfy(bed), *run)
    started = time.monotonic()
    (picture,) = (bed.comfy.path / "output").glob(f"{NAME}_*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000  # 256 x 256 of noise: not one color
    total = sum(step.seconds for step in STEPS if step.way == bed.way)
    bed.note("all of it", total + time.monotonic() - started, picture.name)
    bed.done()
