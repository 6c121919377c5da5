"""Good safetensors files, whole or in pieces: what `open_source` hands out is what was saved."""

from __future__ import annotations

import gc
import json
import mmap
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.errors import Refused
from fusequant.engine.files import mapping, safetensors
from fusequant.engine.files.open import open_source
from fusequant.engine.tensors import DTYPES, TensorSpec

BLOCK = "transformer_blocks.0.attn.to_q"


def _raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def _tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(6, 4)
    return {
        f"{BLOCK}.weight": weight.to(torch.float8_e4m3fn),
        f"{BLOCK}.weight_scale": torch.tensor(0.25),
        f"{BLOCK}.bias": torch.randn(6).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
        "mask": torch.tensor([True, False, True]),
    }


def _write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata or None)
    return path


def _same(path: Path, tensors: dict[str, torch.Tensor], kind: str) -> None:
    source = open_source(path)
    assert source.kind == kind
    assert set(source.tensors) == set(tensors)
    for name, saved in tensors.items():
        read = source.tensor(name)
        assert (read.dtype, read.shape) == (saved.dtype, saved.shape)
        assert _raw(read) == _raw(saved) == source.read_bytes(name)
        source.prefetch(name)
    del read
    source.close()


def test_a_file_comes_back_with_names_dtypes_shapes_and_metadata(tmp_path: Path) -> None:
    path = _write(tmp_path / "named_without_suffix", _tensors(), recipe='{"a": "}"}')
    source = open_source(str(path))
    assert source.path == path
    assert source.metadata == {"recipe": '{"a": "}"}'}
    assert source.tensors[f"{BLOCK}.weight"] == TensorSpec(f"{BLOCK}.weight", "F8_E4M3", (6, 4))
    assert source.tensors[f"{BLOCK}.weight_scale"].shape == ()
    source.close()
    _same(path, _tensors(), "safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    torch_dtype = getattr(torch, DTYPES[dtype][1])
    data = torch.arange(48, dtype=torch.uint8).view(3, 16)
    if dtype == "BOOL":
        data = data % 2
    _same(_write(tmp_path / "m", {"w": data.view(torch_dtype)}), {"w": data.view(torch_dtype)},
          "safetensors")  # fmt: skip


def test_part_of_the_bytes_can_be_read(tmp_path: Path) -> None:
    source = open_source(_write(tmp_path / "m", {"w": torch.arange(10, dtype=torch.uint8)}))
    assert source.read_bytes("w", 3, 4) == bytes([3, 4, 5, 6])
    assert source.read_bytes("w", 8, 100) == bytes([8, 9])
    assert source.read_bytes("w", 100, 4) == b""
    source.close()


@pytest.mark.parametrize("pad", range(8))
def test_tensors_at_any_offset_are_read_right(tmp_path: Path, pad: int) -> None:
    values = torch.tensor([1.5, -2.25, 1e-3], dtype=torch.float64)
    header = json.dumps(
        {
            "pad": {"dtype": "U8", "shape": [pad], "data_offsets": [0, pad]},
            "w": {"dtype": "F64", "shape": [3], "data_offsets": [pad, pad + 24]},
        }
    ).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(pad) + _raw(values))
    source = open_source(path)
    assert torch.equal(source.tensor("w") * 2, values * 2)
    source.close()


def test_tensors_are_views_that_warn_of_nothing_and_never_write_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "m", {"w": torch.ones(4, 4)})
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(path)
        first, again = source.tensor("w"), source.tensor("w")
    assert first.data_ptr() == again.data_ptr()
    first.zero_()
    del first, again
    source.close()
    assert path.read_bytes() == before


def test_a_tensor_outlives_its_closed_source(tmp_path: Path) -> None:
    path = _write(tmp_path / "m", {"w": torch.full((300, 300), 7.0)})
    source = open_source(path)
    tensor = source.tensor("w")
    source.close()
    source.close()
    del source
    gc.collect()
    assert tensor.min() == tensor.max() == 7
    reopened = open_source(path)
    reopened.close()
    with pytest.raises(ValueError, match="closed"):
        reopened.tensor("w")


def test_the_file_can_be_replaced_after_close(tmp_path: Path) -> None:
    path = _write(tmp_path / "m", {"w": torch.ones(4)})
    source = open_source(path)
    source.tensor("w").sum()
    source.close()
    _write(tmp_path / "other", {"w": torch.zeros(4)}).replace(path)
    reopened = open_source(path)
    assert reopened.tensor("w").sum() == 0
    reopened.close()


def test_maps_in_pieces_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "PIECE_BYTES", 5000)
    tensors = {f"blocks.{i}.weight": torch.full((40, 10 * i), float(i)) for i in range(12)}
    path = _write(tmp_path / "m", tensors)
    _same(path, tensors, "safetensors")
    source = open_source(path)
    held = {name: source.tensor(name) for name in tensors}
    assert all(torch.equal(held[name], tensors[name]) for name in tensors)
    source.close()


def test_many_threads_may_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "PIECE_BYTES", 5000)
    tensors = {f"blocks.{i}.weight": torch.full((40, 10), float(i)) for i in range(20)}
    source = open_source(_write(tmp_path / "m", tensors))
    wrong: list[str] = []

    def read() -> None:
        for name in tensors:
            source.prefetch(name)
            if not torch.equal(source.tensor(name), tensors[name]):
                wrong.append(name)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    source.close()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 50, 199])
def test_a_header_read_in_small_pieces_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    named = {**_tensors(), 'w "\\ü漢😀': torch.ones(3)}
    path = _write(tmp_path / "m", named, note='{"é": [1, 2], "x": "\\ud83d"} ' * 9)
    whole = open_source(path)
    monkeypatch.setattr(safetensors, "WINDOW", window)
    pieces = open_source(path)
    assert list(pieces.tensors.items()) == list(whole.tensors.items())
    assert pieces.metadata == whole.metadata
    whole.close()
    pieces.close()


def test_a_header_of_100_000_tensors_opens_in_under_two_seconds(tmp_path: Path) -> None:
    name = "model.diffusion_model.double_blocks.{}.img_attn.qkv.weight"
    entries = {
        name.format(i): {"dtype": "BF16", "shape": [1, 2], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(100_000)
    }
    header = json.dumps(entries).encode()
    path = tmp_path / "m"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(400_000))
    code = (
        "import sys, time; from fusequant.engine.files.open import open_source\n"
        "start = time.process_time(); source = open_source(sys.argv[1])\n"
        "assert len(source.tensors) == 100_000 and 'torch' not in sys.modules\n"
        "print(time.process_time() - start)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 2


def test_a_name_that_the_file_lacks_is_refused(tmp_path: Path) -> None:
    _pieces(tmp_path / "pieces", "m_part0", "m_part1")
    for path in (_write(tmp_path / "m", {"w": torch.ones(2)}), tmp_path / "pieces"):
        source = open_source(path)
        for read in (source.tensor, source.read_bytes, source.prefetch):
            with pytest.raises(Refused, match="tensor-missing"):
                read("x")
        source.close()


def test_a_file_that_shrinks_after_opening_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "m", {"w": torch.ones(1 << 16)})
    source = open_source(path)
    os.truncate(path, path.stat().st_size - 4)
    for read in (source.tensor, source.read_bytes):
        with pytest.raises(Refused, match="file-changed"):
            read("w")
    source.close()


def test_a_file_that_cannot_be_mapped_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    source = open_source(_write(tmp_path / "m", {"w": torch.ones(2)}))
    monkeypatch.setattr(mmap, "mmap", no_memory)
    with pytest.raises(Refused, match="cannot-map"):
        source.tensor("w")
    source.close()


# folders and indexes


def _halves() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    tensors = _tensors()
    names = sorted(tensors)
    return {n: tensors[n] for n in names[:2]}, {n: tensors[n] for n in names[2:]}


def _index(folder: Path, name: str, **files: dict[str, torch.Tensor]) -> Path:
    path = folder / name
    weight_map = {
        tensor: f"{file}.safetensors" for file, tensors in files.items() for tensor in tensors
    }
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def _pieces(folder: Path, first: str, second: str) -> None:
    for name, tensors in zip((first, second), _halves(), strict=True):
        _write(folder / f"{name}.safetensors", tensors, **{"format": "pt", name: "here"})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("non_block", "block_0"),
        ("wan_fp8_part0", "wan_fp8_part1"),
        ("diffusion_pytorch_model-00001-of-00002", "diffusion_pytorch_model-00002-of-00002"),
    ],
)
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("sub", ["", "transformer"])
def test_a_folder_of_pieces_is_one_model(
    tmp_path: Path, first: str, second: str, indexed: bool, sub: str
) -> None:
    folder = tmp_path / sub
    _pieces(folder, first, second)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    if indexed:
        left, right = _halves()
        _index(folder, "model.safetensors.index.json", **{first: left, second: right})
    _same(tmp_path, _tensors(), "sharded")
    source = open_source(tmp_path)
    assert source.metadata == {"format": "pt", first: "here", second: "here"}
    assert source.tensors["mask"].dtype == "BOOL"
    source.close()


def test_an_index_is_opened_by_its_own_path_and_may_point_into_subfolders(tmp_path: Path) -> None:
    left, right = _halves()
    _write(tmp_path / "sub" / "a.safetensors", left)
    _write(tmp_path / "b.safetensors", right)
    _same(_index(tmp_path, "index", **{"sub/a": left, "b": right}), _tensors(), "sharded")


def test_links_of_a_download_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    left, right = _halves()
    _write(tmp_path / "blobs" / "1f", left)
    _write(tmp_path / "blobs" / "2e", right)
    _index(tmp_path / "blobs", "3d", a=left, b=right)
    links = {"a.safetensors": "1f", "b.safetensors": "2e", "m.safetensors.index.json": "3d"}
    try:
        for name, blob in links.items():
            (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / blob)
    except OSError:
        pytest.skip("this system makes no links")
    _same(snapshot, _tensors(), "sharded")
    _same(snapshot / "m.safetensors.index.json", _tensors(), "sharded")


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    _write(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", _tensors())
    _write(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", {"w": torch.ones(2)})
    torch.save({"absmax": {}}, tmp_path / "transformer" / "calib.pt")
    _same(tmp_path, _tensors(), "safetensors")


def test_pieces_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(11):
        _write(tmp_path / f"m_part{number}.safetensors", {f"w{number}": torch.ones(1)})
    source = open_source(tmp_path)
    assert list(source.tensors) == [f"w{number}" for number in range(11)]
    source.close()


def test_several_models_in_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    _pieces(tmp_path, "wan_part0", "wan_part1")
    _write(tmp_path / "flux.safetensors", {"w": torch.ones(2)})
    _write(tmp_path / "transformer_2" / "m.safetensors", {"w": torch.ones(2)})
    with pytest.raises(Refused, match="folder-several-models") as caught:
        open_source(tmp_path)
    for name in ("wan_part0", "flux.safetensors", "transformer_2"):
        assert name in caught.value.fix
