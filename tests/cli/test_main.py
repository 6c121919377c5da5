"""The command line as a user meets it: JSON shapes, exit codes, refusals, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fusequant.cli.main import main
from fusequant.cli.options import lora_argument
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.synthetic import write_flux_like

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    write_flux_like(path / "model.safetensors", CONFIG, seed=1)
    write_lora(path / "lora.safetensors", CONFIG, "kohya", 8, seed=2)
    return path


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    """Exit code and the one JSON object on stdout."""
    code = main([str(word) for word in (*words, "--json")])
    return code, json.loads(capsys.readouterr().out)


def test_inspect_answers_in_its_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = ask(capsys, "inspect", folder / "model.safetensors")
    assert code == 0
    assert {"file", "family", "dialect", "layers", "bytes", "loads_in", "problems"} <= set(answer)
    assert answer["family"] == "flux"


def test_plan_then_convert_then_compare(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = folder / "model.safetensors", tmp_path / "out.safetensors"
    asked = (model, "--lora", f"{folder / 'lora.safetensors'}:0.5", "--scheme", "int8")
    _, plan = ask(capsys, "plan", *asked, "--vram", 8)
    code, made = ask(capsys, "convert", *asked, "--out", out)
    assert code == 0
    assert made["bytes"] == plan["bytes"] == out.stat().st_size
    assert plan["peak_private_bytes"] > 0
    assert plan["vram"]["fits"]
    assert {"name", "scheme", "why"} == set(plan["layers"][0])
    assert made["loras"][0]["matched"] > 0
    assert made["loras"][0]["unmatched"] == []
    _, errors = ask(capsys, "compare", model, out)
    assert errors["worst"] >= errors["mean"] > 0
    assert {"name", "relative_error", "worst_row", "cosine"} <= set(errors["layers"][0])


def test_dequant_and_repair_answer_alike(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized = tmp_path / "q.safetensors"
    ask(capsys, "convert", folder / "model.safetensors", "--scheme", "fp8", "--out", quantized)
    for verb in ("dequant", "repair"):
        code, made = ask(capsys, verb, quantized, "--out", tmp_path / f"{verb}.safetensors")
        assert code == 0
        wanted = {"out", "bytes", "seconds", "layers", "loras", "kept", "warnings"}
        assert wanted <= set(made)


def test_names_of_other_tools_are_understood(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plan = ask(capsys, "plan", folder / "model.safetensors", "--scheme", "fp8-sgl")
    assert plan["scheme"] == "fp8_row"


def test_backends_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    _, answer = ask(capsys, "backends")
    names = {backend["name"] for backend in answer["backends"]}
    assert {"reference", "torch_native", "kitchen"} <= names
    assert {"fp8", "int8", "int4_g128", "none"} <= {s["name"] for s in answer["schemes"]}


REFUSED = [
    (("inspect", "no-such-file.safetensors"), "file-missing"),
    (("convert", "{model}", "--scheme", "int9", "--out", "{tmp}/o.st"), "unknown-scheme"),
    (("convert", "{model}", "--keep", "nothing.like.it", "--out", "{tmp}/o.st"), None),
    (("convert", "{model}", "--dtype", "int3", "--out", "{tmp}/o.st"), "unknown-dtype"),
    (("convert", "{model}", "--device", "tpu", "--out", "{tmp}/o.st"), "no-such-device"),
    (("convert", "{model}", "--out", "{tmp}/no/such/folder/o.st"), "no-such-folder"),
    (("convert", "{lora}", "--out", "{tmp}/o.st"), None),
    (("convert", "{model}", "--lora", "{model}", "--out", "{tmp}/o.st"), "not-a-lora"),
    (("convert", "{model}"), "bad-usage"),
    (("frobnicate",), "bad-usage"),
]


@pytest.mark.parametrize(("words", "kind"), REFUSED, ids=lambda x: str(x)[:40])
def test_bad_input_is_refused_with_exit_2_and_leaves_nothing(
    words: tuple[str, ...],
    kind: str | None,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "model": folder / "model.safetensors",
        "lora": folder / "lora.safetensors",
        "tmp": tmp_path,
    }
    code, answer = ask(capsys, *(word.format(**places) for word in words))
    assert code == 2
    assert {"kind", "found", "expected", "fix"} <= set(answer["error"])
    assert kind in (None, answer["error"]["kind"])
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_reads_as_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder / "nothing.safetensors")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "found" in told.err
    assert "do " in told.err


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:-1", r"C:\loras\a.safetensors", -1.0),
        ("b:1e-1", "b", 0.1),
        ("C:0", "C", 0.0),
    ],
)
def test_strength_is_split_at_the_last_colon(text: str, path: str, strength: float) -> None:
    assert lora_argument(text) == (Path(path), strength)


def test_text_answers_are_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(folder / "model.safetensors"), "--scheme", "fp8"]) == 0
    told = capsys.readouterr().out
    assert "GB" in told or "MB" in told
    assert "final layer" in told


def test_a_broken_container_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\xff" * 64)
    code = (
        "import sys; from fusequant.cli.main import main; "
        f"code = main(['convert', {str(path)!r}, '--out', 'o', '--json']); "
        "sys.stderr.write(f'{code} {\"torch\" in sys.modules}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("2 False")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    source, out = tmp_path / "big.safetensors", tmp_path / "out"
    out.mkdir()
    write_flux_like(source, 1 << 30)
    command = [sys.executable, "-m", "fusequant", "convert", str(source)]
    command += ["--scheme", "int8_convrot", "--out", str(out / "o.safetensors")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(600):
        if any(out.iterdir()) or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(out.iterdir()) == []


def test_a_file_with_another_dtype_is_cast_where_it_stays(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.safetensors"
    ask(capsys, "convert", folder / "model.safetensors", "--scheme", "int8", "--dtype", "fp16",
        "--out", out)  # fmt: skip
    found = load_file(out)
    assert str(found["img_in.weight"].dtype) == "torch.float16"
    save_file(found, tmp_path / "again.safetensors")
