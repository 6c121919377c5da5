"""Bytes of an advice are those of the plan that a conversion would follow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusequant.engine.advise.job import Wishes, job_of, lora_named
from fusequant.engine.advise.subject import Subject, public, subject_of
from fusequant.engine.files.open import open_source
from fusequant.engine.fuse.lora import open_lora
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.synthetic import write_flux_like
from fusequant.engine.pipeline import Request, convert, placement, prepare
from fusequant.engine.scheme_names import schemes
from fusequant.engine.specs import names, spec

CONFIG = FluxConfig(hidden=256, double_blocks=2, single_blocks=3)
GIB = 2**30


def same(subject: Subject, scheme: str) -> None:
    prepared = prepare(subject.source, request=Request(scheme=scheme))
    sizes = subject.sizes(scheme)
    assert sizes.weight_bytes == prepared.plan.vram_bytes
    assert subject.file_bytes(scheme) == prepared.plan.bytes
    room = sizes.weight_bytes // 2 + 2 * GIB
    assert sizes.placed(room) == placement(prepared, room)
    quantized = [c.layer.elements for c in prepared.plan.choices if c.scheme != "none"]
    assert sizes.quantized_elements == sum(quantized)


@pytest.mark.parametrize("name", names())
def test_a_public_model_has_the_bytes_of_its_plan(name: str) -> None:
    for scheme in ("none", "int8_convrot", "int4_g128"):
        same(public(name), scheme)


@pytest.mark.parametrize("scheme", schemes())
def test_every_scheme_has_the_bytes_of_its_plan(scheme: str) -> None:
    same(public("wan2.2-ti2v-5b"), scheme)


def test_a_file_and_a_fused_lora_have_the_bytes_that_are_written(tmp_path: Path) -> None:
    write_flux_like(tmp_path / "m.safetensors", CONFIG, seed=1)
    write_lora(tmp_path / "some-8steps.safetensors", CONFIG, "kohya", 8, seed=2)
    lora = open_lora(tmp_path / "some-8steps.safetensors", 0.75)
    prepared = prepare(open_source(tmp_path / "m.safetensors"), [lora], Request(scheme="int8"))
    written = convert(prepared, tmp_path / "o.safetensors").bytes
    named = lora_named(open_source(tmp_path / "some-8steps.safetensors"), 0.75)
    job = job_of([open_source(tmp_path / "m.safetensors")], Wishes(loras=(named,)))
    assert named.fixed and job.fused
    assert job.subject.file_bytes("int8", job.fused) == written


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_a_quantized_file_is_kept_as_it_is(scheme: str, tmp_path: Path) -> None:
    write_flux_like(tmp_path / "m.safetensors", CONFIG, seed=1)
    source = open_source(tmp_path / "m.safetensors")
    convert(prepare(source, request=Request(scheme=scheme)), tmp_path / "q.safetensors")
    subject = subject_of(open_source(tmp_path / "q.safetensors"))
    assert job_of([subject.source], Wishes()).stored == scheme
    for target in (scheme, "none", "int8_weight_only"):
        same(subject, target)


def test_advice_for_a_named_machine_needs_no_torch() -> None:
    code = (
        "import sys; from fusequant.cli.main import main; "
        "code = main(['advise', '--gpu', 'RTX 3080', '--model', 'flux1-dev', '--json']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_spec_is_recognised_once() -> None:
    assert public("flux1-dev") is public("flux1-dev")
    assert public("flux1-dev").source is spec("flux1-dev")
