"""Torch archives: tensors as torch.load reads them, and never a line of the file's code run."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.source import Source


def _open(path: Path, content: Any) -> Source:
    torch.save(content, path)
    source = open_source(path)
    assert source.kind == "pth"
    return source


def _check(source: Source, tensors: dict[str, torch.Tensor]) -> None:
    assert set(source.tensors) == set(tensors)
    for name, saved in tensors.items():
        read = source.tensor(name)
        assert (read.dtype, read.shape) == (saved.dtype, saved.shape)
        raw = saved.detach().contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(read.contiguous().reshape(-1).view(torch.uint8), raw)
        assert source.read_bytes(name) == bytes(raw.tolist())
    source.close()


def _tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(6, 4)
    return {
        "blocks.0.attn.q.weight": weight.to(torch.bfloat16),
        "blocks.0.attn.k.weight": weight.to(torch.float8_e4m3fn),
        "blocks.0.attn.q.bias": torch.randn(6),
        "ids": torch.arange(5),
        "scale": torch.tensor(2.0),
        "half": torch.randn(3).half(),
        "mask": torch.tensor([True, False]),
        "count": torch.arange(4).to(torch.uint16),
    }


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "safetensors"])
def test_a_state_dict_is_read_whatever_its_suffix(tmp_path: Path, suffix: str) -> None:
    _check(_open(tmp_path / f"m.{suffix}", _tensors()), _tensors())


def test_a_module_state_dict_with_its_attributes_is_read(tmp_path: Path) -> None:
    state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict()
    assert isinstance(state, OrderedDict)
    _check(_open(tmp_path / "m", state), dict(state))


def test_parameters_and_tensors_with_attributes_are_read(tmp_path: Path) -> None:
    plain, marked = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3))
    marked.note = "kept"  # type: ignore[attr-defined]
    tensor = torch.arange(3.0)
    tensor.note = "kept"  # type: ignore[attr-defined]
    content = {"plain": plain, "marked": marked, "tensor": tensor}
    _check(_open(tmp_path / "m", content), content)


def test_views_of_a_storage_come_out_right(tmp_path: Path) -> None:
    base = torch.arange(60.0).view(5, 4, 3)
    content = {
        "transposed": base[0].t(),
        "permuted": base.permute(2, 0, 1),
        "strided": base[1:, ::2, 1],
        "row": base[2],
        "column": base[:, :1, :1],
        "whole": base,
        "empty": base[:0],
    }
    _check(_open(tmp_path / "m", content), content)


def test_part_of_the_bytes_of_a_view_can_be_read(tmp_path: Path) -> None:
    view = torch.arange(12, dtype=torch.int16).view(3, 4).t()
    source = _open(tmp_path / "m", {"w": view})
    whole = bytes(view.contiguous().view(torch.uint8).flatten().tolist())
    assert source.read_bytes("w", 3, 8) == whole[3:11]
    assert source.read_bytes("w", 21) == whole[21:]
    source.close()


@pytest.mark.parametrize("envelope", ["state_dict", "model_state", "model", "module", "params"])
def test_an_envelope_is_unwrapped_and_named(tmp_path: Path, envelope: str) -> None:
    content = {envelope: _tensors(), "epoch": 3, "args": {"lr": 1e-4, "seen": {1, 2}, "b": b"x"}}
    source = _open(tmp_path / "m", content)
    assert source.metadata == {"unwrapped": envelope, "left_out": "epoch, args"}
    _check(source, _tensors())


def test_the_averaged_model_is_preferred_and_the_rest_is_named(tmp_path: Path) -> None:
    source = _open(
        tmp_path / "m",
        {"generator": {"model": {"w": torch.zeros(2)}}, "generator_ema": {"model": _tensors()}},
    )
    assert source.metadata == {"unwrapped": "generator_ema.model", "left_out": "generator"}
    _check(source, _tensors())


def test_values_beside_tensors_are_left_out_and_named(tmp_path: Path) -> None:
    source = _open(tmp_path / "m", {**_tensors(), "version": "1", "shape": torch.Size([2])})
    assert source.metadata == {"left_out": "version, shape"}
    _check(source, _tensors())


def test_archives_with_64_bit_directories_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(_tensors(), tmp_path / "m")
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    with zipfile.ZipFile(tmp_path / "m") as old, zipfile.ZipFile(tmp_path / "big", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert b"PK\x06\x06" in (tmp_path / "big").read_bytes()
    _check(open_source(tmp_path / "big"), _tensors())


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"echo > {ran}",)

    torch.save({"w": torch.ones(2), "extra": Attack()}, tmp_path / "m.pth")
    with pytest.raises(Refused, match=r"pickle-code.*system"):
        open_source(tmp_path / "m.pth")
    assert not ran.exists()


def test_an_index_may_list_torch_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    source = open_source(tmp_path)
    assert source.kind == "sharded" and list(source.tensors) == ["a", "b"]
    source.close()
