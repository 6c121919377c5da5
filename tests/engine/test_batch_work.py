"""One recipe's work: the converter's bytes whatever the threads, all files or none, errors told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusequant.engine.batch import staging as staging_module
from fusequant.engine.batch.entry import Entry, Lora, Part
from fusequant.engine.batch.opening import prepared_for
from fusequant.engine.batch.plan import Planned, plan
from fusequant.engine.batch.sample import sampled_error
from fusequant.engine.batch.staging import Staging, clear
from fusequant.engine.batch.task import Task, task_from, task_of
from fusequant.engine.batch.work import work
from fusequant.engine.compare import compare
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.fuse.lora import open_lora
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.synthetic import write_flux_like
from fusequant.engine.pipeline import Request, convert, prepare

from ..live import tiny

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number in range(2):
        write_flux_like(folder / f"m{number}.safetensors", CONFIG, seed=number)
    write_lora(folder / "lora.safetensors", CONFIG, "peft", 8, seed=2)
    return folder


def part(models: Path, out: Path, number: int = 0, scheme: str = "int8", name: str = "") -> Part:
    return Part(
        name,
        models / f"m{number}.safetensors",
        (Lora(models / "lora.safetensors", 0.7),),
        {"scheme": scheme, "device": "cpu"},
        out,
    )


def task(*parts: Part, layers_at_once: int = 2) -> Task:
    (planned,), troubles = plan([Entry("one", parts)])
    assert not troubles
    return task_from(parts[0].out.parent / "r.toml", planned, layers_at_once)


def converted(models: Path, out: Path, number: int = 0, scheme: str = "int8") -> bytes:
    """What `fusequant convert` writes, by its own path through the engine."""
    loras = [open_lora(models / "lora.safetensors", 0.7)]
    source = open_source(models / f"m{number}.safetensors")
    convert(prepare(source, loras, Request(scheme=scheme)), out)
    return out.read_bytes()


def left(folder: Path) -> list[str]:
    clear(".fusequant-batch-", [folder])
    return sorted(path.name for path in folder.iterdir())


def test_a_task_travels_as_json(models: Path, tmp_path: Path) -> None:
    wanted = task(part(models, tmp_path / "o.safetensors"))
    assert task_of(json.loads(json.dumps(wanted.to_json()))) == wanted


@pytest.mark.parametrize("scheme", ["int8_convrot", "fp8", "int4_g128", "none"])
def test_the_bytes_are_those_of_convert_whatever_the_threads(
    scheme: str, models: Path, tmp_path: Path
) -> None:
    wanted = converted(models, tmp_path / "wanted.safetensors", scheme=scheme)
    out = tmp_path / "o.safetensors"
    threads = torch.get_num_threads()
    for layers_at_once, of_torch in ((1, 1), (2, 4), (5, 2)):
        torch.set_num_threads(of_torch)
        try:
            outcome = work(task(part(models, out, scheme=scheme), layers_at_once=layers_at_once))
        finally:
            torch.set_num_threads(threads)
        assert outcome.state == "done"
        assert out.read_bytes() == wanted
        out.unlink()


@pytest.mark.slow
def test_another_process_with_other_thread_pools_writes_the_same_bytes(
    models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.safetensors"
    wanted = converted(models, tmp_path / "wanted.safetensors", scheme="int8_convrot")
    given = task(part(models, out, scheme="int8_convrot"), layers_at_once=3)
    environment = os.environ | {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "3"}
    command = [sys.executable, "-m", "fusequant.engine.batch.worker"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given.to_json()).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout is not None
    last = process.stdout.read().splitlines()[-1]
    process.communicate(timeout=60)
    assert json.loads(last)["state"] == "done"
    assert out.read_bytes() == wanted


def test_a_pair_comes_whole_or_not_at_all(models: Path, tmp_path: Path) -> None:
    high = part(models, tmp_path / "high.safetensors", 0, name="high")
    low = part(models, tmp_path / "low.safetensors", 1, name="low")
    both = task(high, low)
    changed = replace(both, parts=(both.parts[0], replace(both.parts[1], recipe="another")))
    outcome = work(changed)
    assert (outcome.state, outcome.facts["kind"]) == ("refused", "changed-since-plan")
    assert left(tmp_path) == []
    outcome = work(both)
    assert [file["part"] for file in outcome.facts["files"]] == ["high", "low"]
    assert left(tmp_path) == ["high.safetensors", "low.safetensors"]


def test_files_that_cannot_all_be_placed_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    outs[0].write_text("old a")
    outs[1].write_text("old b")
    replacing = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == outs[1] and Path(source).read_text().startswith("new"):
            raise PermissionError(13, "in use")
        replacing(source, target)

    monkeypatch.setattr(staging_module.os, "replace", refuse)
    with pytest.raises(Refused, match="not-writable"), Staging(".fusequant-batch-x-", outs) as it:
        for out in outs:
            it.place(out).write_text(f"new {out.name}")
        it.commit()
    assert [out.read_text() for out in outs[:2]] == ["old a", "old b"]
    assert not outs[2].exists()


def test_attempts_are_counted_by_what_they_leave(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with Staging("x-", [tmp_path / "o"]) as it:
            it.place(tmp_path / "o").write_text("unfinished")
            assert it.attempt == number
    (tmp_path / "x-2" / "left").write_text("by a killed process")
    with Staging("x-", [tmp_path / "o"]):
        assert not list((tmp_path / "x-2").iterdir())
    clear("x-", [tmp_path, tmp_path / "none"])
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_see_a_file_says_which(models: Path, tmp_path: Path) -> None:
    good = task(part(models, tmp_path / "o.safetensors"))
    hidden = replace(good.parts[0].part, source=tmp_path / "elsewhere.safetensors")
    outcome = work(replace(good, parts=(replace(good.parts[0], part=hidden),)))
    assert outcome.facts["kind"] == "not-visible-here"
    assert str(tmp_path / "elsewhere.safetensors") in outcome.facts["found"]
    assert left(tmp_path) == []


def test_the_sampled_error_is_that_of_the_whole_file(models: Path, tmp_path: Path) -> None:
    """Every layer of a small model is whole in the sample: the worst one is found."""
    fused = tmp_path / "fused.safetensors"
    loras = [open_lora(models / "lora.safetensors", 0.7)]
    source = open_source(models / "m0.safetensors")
    convert(prepare(source, loras, Request(scheme="none", dtype="F32")), fused)
    out = tmp_path / "o.safetensors"
    converted(models, out)
    prepared = prepared_for(part(models, out))
    found = sampled_error(prepared, out)
    prepared.close()
    first, second = open_source(fused), open_source(out)
    errors = {x.name: x.relative_error for x in compare(first, second).layers}
    first.close()
    second.close()
    assert found is not None
    assert found["worst"] == pytest.approx(errors[str(found["layer"])], rel=1e-3)
    assert (
        0 < float(str(found["mean"])) <= float(str(found["worst"])) <= max(errors.values()) * 1.001
    )


def test_a_folder_of_blocks_is_done_or_replaced_as_a_whole(tmp_path: Path) -> None:
    source = tiny.wan(tmp_path / "wan.safetensors", blocks=1)
    out = tmp_path / "out"

    def wanted(scheme: str) -> Planned:
        options = {"scheme": scheme, "device": "cpu", "format": "lightx2v", "by_block": True}
        (found,), _ = plan([Entry("one", (Part("", source, (), options, out),))])
        return found

    for scheme in ("int8", "fp8_row"):
        planned = wanted(scheme)
        assert not planned.done
        outcome = work(task_from(tmp_path / "r.toml", planned, 2))
        assert outcome.state == "done", outcome.facts
        assert 0 < outcome.facts["files"][0]["error"]["mean"] < 0.1
        assert wanted(scheme).done
        assert sum(path.stat().st_size for path in out.iterdir()) == planned.bytes
    assert wanted("int8").parts[0].replaces_bytes > 0
    assert left(tmp_path) == ["out", "wan.safetensors"]
    next(out.glob("*.safetensors")).unlink()
    assert not wanted("fp8_row").done


def test_a_recipe_is_done_when_its_file_is_whole_and_of_it(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"

    def planned(scheme: str = "int8") -> Planned:
        (found,), _ = plan([Entry("one", (part(models, out, scheme=scheme),))])
        return found

    assert not planned().done
    work(task(part(models, out)))
    assert planned().done
    assert planned().parts[0].replaces_bytes == 0
    assert not planned("fp8").done
    assert planned("fp8").parts[0].replaces_bytes == out.stat().st_size
    os.truncate(out, out.stat().st_size - 1)
    assert not planned().done
