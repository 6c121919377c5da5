"""Broken and foreign files: each fault by its own name, before torch, fast and in little memory."""

from __future__ import annotations

import ast
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fusequant.engine.files.open
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source

from . import broken_gguf

ROOM = Path(fusequant.engine.files.open.__file__).parent
W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NEXT = {**W, "data_offsets": [8, 16]}


def _file(header: object, data: int = 8, length: int | None = None) -> bytes:
    """The bytes of a safetensors file: `header` as JSON (or as given), then `data` zero bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + bytes(data)


def _w(**changes: object) -> bytes:
    return _file({"w": {**W, **changes}})


# name of the case: (kind of the refusal, the file's bytes)
CONTAINERS: dict[str, tuple[str, bytes]] = {
    "seven bytes": ("file-too-short", b"\1\0\0\0\0\0\0"),
    "header past the cap": ("header-too-large", _file(b"{}", length=100_000_001)),
    "header of 2^64-1": ("header-too-large", _file(b"{}", length=2**64 - 1)),
    "header of one byte": ("header-too-small", _file(b"{", length=1)),
    "header past the end": ("header-truncated", _file({"w": W}, length=99_000_000)),
    "header of a list": ("header-start", _file(b"[{}]", data=0)),
    "header of no UTF-8": ("header-not-utf8", _file(b'{"\xff\xfe": 1}')),
    "header cut in a character": ("header-not-utf8", _file(b'{"a": "\xe2\x82', data=0)),
    "name of half a character": ("header-not-utf8", _file(rb'{"\ud800": {}}')),
    "no JSON": ("header-not-json", _file(b'{"w": nothing}')),
    "no end": ("header-not-json", _file(b'{"__metadata__": {}', 0)),
    "text after the end": ("header-not-json", _file(b"{} {}", data=0)),
    "a name without quotes": ("header-not-json", _file(b"{w: {}}")),
    "a comma too many": ("header-not-json", _file(b'{"__metadata__": {},}', data=0)),
    "no comma": ("header-not-json", _file(b'{"__metadata__": {} "b": {}}')),
    "no colon": ("header-not-json", _file(b'{"a" {}}')),
    "deep nesting": ("header-not-json", _file(b'{"a": ' + b"[" * 200_000)),
    "a number of 10,000 digits": ("header-not-json", _file(b'{"a": ' + b"9" * 10_000 + b"}")),
    "an entry of 30 MB": ("header-entry-too-large", _file(b'{"' + b"x" * 30_000_000 + b'":1}')),
    "a tensor twice": (
        "header-name-twice",
        _file(b'{"w":' + json.dumps(W).encode() + b',"w":' + json.dumps(NEXT).encode() + b"}", 16),
    ),
    "metadata twice": (
        "header-name-twice",
        _file(b'{"__metadata__":{},"__metadata__":{}}', 0),
    ),
    "a field twice": ("header-field-twice", _file(b'{"w":{"dtype":"F32","dtype":"F16"}}')),
    "metadata of numbers": ("header-metadata", _file({"__metadata__": {"a": 1}}, 0)),
    "metadata of text": ("header-metadata", _file({"__metadata__": "a"}, 0)),
    "an entry of text": ("header-entry", _file({"w": "F32"})),
    "an entry without shape": ("header-entry", _file({"w": {"dtype": "F32"}})),
    "dtype of the future": ("dtype-unknown", _w(dtype="F6_E2M3")),
    "dtype of no text": ("dtype-unknown", _w(dtype=["F32"])),
    "negative shape": ("shape-invalid", _w(shape=[-2])),
    "shape of fractions": ("shape-invalid", _w(shape=[2.0])),
    "shape of truths": ("shape-invalid", _w(shape=[True])),
    "shape of text": ("shape-invalid", _w(shape="2")),
    "shape of 65 dimensions": ("shape-invalid", _w(shape=[1] * 65)),
    "shape of 2^80": ("shape-overflow", _w(shape=[2**40, 2**40])),
    "shape of 2^80 and 0": ("shape-overflow", _w(shape=[2**40, 2**40, 0])),
    "offsets of three": ("offsets-invalid", _w(data_offsets=[0, 4, 8])),
    "offsets descending": ("offsets-invalid", _w(data_offsets=[8, 0])),
    "offsets negative": ("offsets-invalid", _w(data_offsets=[-8, 0])),
    "size of another shape": ("size-mismatch", _w(shape=[3])),
    "size of half a byte": ("size-mismatch", _w(dtype="F4", shape=[1], data_offsets=[0, 1])),
    "overlap": ("offsets-overlap", _file({"a": W, "b": {**W, "data_offsets": [4, 12]}}, 12)),
    "the same bytes": ("offsets-overlap", _file({"a": W, "b": W}, 8)),
    "hole": ("offsets-hole", _file({"a": W, "b": {**W, "data_offsets": [12, 20]}}, 20)),
    "hole at the start": ("offsets-hole", _w(data_offsets=[4, 12])),
    "cut data": ("file-truncated", _file({"w": W}, 7)),
    "bytes after the data": ("bytes-after-data", _file({"w": W}, 9)),
    "empty": ("file-empty", b""),
    "zeros": ("file-all-zero", bytes(4096)),
    **{f"GGUF, {name}": row for name, row in broken_gguf.CASES.items()},
    "HDF5": ("hdf5-file", b"\x89HDF\r\n\x1a\n" + bytes(64)),
    "NumPy": ("numpy-file", b"\x93NUMPY\x01\x00" + bytes(64)),
    "ONNX": ("onnx-file", b"\x08\x08\x12\x07pytorch\x1a\x052.0.0"),
    "Git LFS": ("git-lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "gzip": ("compressed-file", b"\x1f\x8b\x08\x00" + bytes(range(64))),
    "tar": ("tar-file", b"model.pth" + bytes(248) + b"ustar\x0000" + bytes(500)),
    "web page": ("html-page", b"\n<!DOCTYPE html><html>Sign in</html>"),
    "old torch": ("pth-legacy", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)),
    "pickle": ("pickle-file", pickle.dumps({"w": [1.0, 2.0]})),
    "noise": ("unknown-file", b"no model at all, only words"),
    "JSON of no index": ("index-without-map", b'{"error": "Repository not found"}'),
    "cut index": ("index-not-json", b'{"weight_map": {"w": "a.safe'),
    "index naming a tensor twice": ("index-not-json", b'{"weight_map": {"w": "a", "w": "b"}}'),
    "index above": ("index-path", b'{"weight_map": {"w": "../secret.safetensors"}}'),
    "index below and above": ("index-path", b'{"weight_map": {"w": "a/../../b"}}'),
    "index from the root": ("index-path", b'{"weight_map": {"w": "/etc/passwd"}}'),
    "index to a drive": ("index-path", rb'{"weight_map": {"w": "C:\\a.safetensors"}}'),
    "index to a share": ("index-path", rb'{"weight_map": {"w": "\\\\host\\a"}}'),
    "index to no text": ("index-path", b'{"weight_map": {"w": 1}}'),
    "index to nothing": ("index-path", b'{"weight_map": {"w": ""}}'),
    "index to a missing file": ("shard-missing", b'{"weight_map": {"w": "a.safetensors"}}'),
    "empty zip": ("zip-empty", b"PK\x05\x06" + bytes(18)),
    "cut zip": ("zip-truncated", b"PK\x03\x04" + bytes(200)),
}


def _archive(path: Path, pickled: bytes, packed: bool = False, **entries: bytes) -> Path:
    """A zip archive as torch writes it: `pickled` as data.pkl, and one stored run of 8 bytes."""
    content = {"data.pkl": pickled, "data/0": bytes(8), **entries}
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(f"archive/{name}", data)
    return path


def _pickle(shape: str = "K\x02\x85", strides: str = "K\x01\x85", storage: str = "Float") -> bytes:
    """The pickle of {"w": tensor} over the stored run `data/0` of two numbers."""
    parts = "\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00"
    parts += f"storagectorch\n{storage}Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    return (parts + f"K\x00{shape}{strides}\x89}}tRs.").encode("latin-1")


def _replaced(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def _end_short(path: Path) -> None:
    _archive(path, _pickle())
    data = path.read_bytes()
    end = data.rfind(b"PK\x05\x06")
    path.write_bytes(data[: end + 16] + (10**6).to_bytes(4, "little") + data[end + 20 :])


def _many_entries(path: Path) -> None:
    _archive(path, _pickle())
    data = path.read_bytes()
    end = data.rfind(b"PK\x05\x06")
    path.write_bytes(data[: end + 12] + (2**31).to_bytes(4, "little") + data[end + 16 :])


def _reduce(text: str) -> bytes:
    return f"\x80\x02}}X\x01\x00\x00\x00w{text}s.".encode("latin-1")


ARCHIVES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "directory elsewhere": ("zip-broken", _end_short),
    "directory of 2 GB": ("zip-too-many", _many_entries),
    "no tensor data": (
        "zip-broken",
        lambda p: _archive(p, _pickle().replace(b"\x000X", b"\x007X")),
    ),
    "packed": ("zip-compressed", lambda p: _archive(p, _pickle(), packed=True)),
    "no pickle": ("zip-not-torch", lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "a")),
    "TorchScript": ("torchscript", lambda p: _archive(p, _pickle(), **{"constants.pkl": b"."})),
    "big-endian": ("byte-order", lambda p: _archive(p, _pickle(), byteorder=b"big")),
    "a call": ("pickle-code", lambda p: _archive(p, _reduce("cposix\nsystem\n)R"))),
    "a name only": ("pickle-code", lambda p: _archive(p, _reduce("cbuiltins\neval\n"))),
    "an instance": ("pickle-code", lambda p: _archive(p, _reduce("(ios\nsystem\n"))),
    "a loader of torch": ("pickle-code", lambda p: _archive(p, _reduce("ctorch\nload\n"))),
    "a cut pickle": ("pickle-broken", lambda p: _archive(p, _pickle()[:-9])),
    "an empty stack": ("pickle-broken", lambda p: _archive(p, b"\x80\x020000.")),
    "a slot of 4 billion": ("pickle-broken", lambda p: _archive(p, b"\x80\x02j\xff\xff\xff\xff.")),
    "a key of lists": ("pickle-broken", lambda p: _archive(p, b"\x80\x02}]]s.")),
    "endless steps": ("pickle-too-long", lambda p: _archive(p, b"\x80\x02" + b"N0" * 600_000)),
    "endless lists": ("pickle-too-long", lambda p: _archive(p, b"\x80\x02" + b"]" * 1_100_000)),
    "endless text": ("pickle-too-long", lambda p: _archive(p, b"\x80\x02" + bytes(17 << 20))),
    "a list": ("pth-layout", lambda p: _archive(p, b"\x80\x02].")),
    "no tensors": ("pth-layout", lambda p: _archive(p, b"\x80\x02}K\x01K\x02s.")),
    "complex128": ("dtype-unknown", lambda p: _archive(p, _pickle(storage="ComplexDouble"))),
    "three of two": ("storage-too-small", lambda p: _archive(p, _pickle(shape="K\x03\x85"))),
    "steps outside": ("storage-too-small", lambda p: _archive(p, _pickle(strides="K\x09\x85"))),
    "expanded": (
        "storage-too-small",
        lambda p: _archive(p, _pickle("J\xff\xff\xff\x7f\x85", "K\x00\x85")),
    ),
}


def _folder(*names: str, content: bytes = b"") -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_bytes(content)

    return make


def _shards(index: dict[str, str], **files: bytes) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "m.index.json").write_text(json.dumps({"weight_map": index}))
        for name, content in files.items():
            (path / name).write_bytes(content)

    return make


LFS = CONTAINERS["Git LFS"][1]
GOOD = _file({"w": W})
FOLDERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nothing there": ("file-missing", lambda p: None),
    "an empty folder": ("folder-without-model", _folder()),
    "no model": ("folder-without-model", _folder("notes.txt", content=b"words, nothing else")),
    "only a pointer": ("git-lfs-pointer", _folder("m.safetensors", content=LFS)),
    "two models": ("folder-several-models", _folder("a", "b", content=GOOD)),
    "a broken GGUF": ("gguf-truncated", _folder("m.gguf", content=b"GGUF\3\0\0\0")),
    "no part 1": (
        "shard-missing",
        _folder("m_part0.safetensors", "m_part2.safetensors", content=GOOD),
    ),
    "no block": ("shard-missing", _folder("non_block.safetensors", content=GOOD)),
    "no non_block": ("shard-missing", _folder("block_0.safetensors", content=GOOD)),
    "no last": ("shard-missing", _folder("m-00001-of-00002.safetensors", content=GOOD)),
    "a tensor in two shards": (
        "shard-tensor-twice",
        _shards({"w": "a", "x": "b"}, a=GOOD, b=GOOD),
    ),
    "a tensor in no shard": ("shard-tensor-missing", _shards({"w": "a", "x": "a"}, a=GOOD)),
    "an endless index": ("index-too-large", lambda p: p.write_bytes(b'{"a":"' + bytes(33 << 20))),
    "a cut shard": ("file-truncated", _shards({"w": "a"}, a=GOOD[:-1])),
}


CASES: dict[str, tuple[str, Any]] = {**CONTAINERS, **ARCHIVES, **FOLDERS}


def _write(path: Path, content: bytes | Callable[[Path], object]) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_refused_by_its_name(tmp_path: Path, case: str) -> None:
    kind, content = CASES[case]
    with pytest.raises(Refused) as caught:
        open_source(_write(tmp_path / "case", content))
    refusal = caught.value
    assert refusal.kind == kind
    assert refusal.found and refusal.expected and refusal.fix
    assert len(str(refusal)) < 1000


def test_the_good_neighbours_of_the_broken_files_open(tmp_path: Path) -> None:
    made = [_write(tmp_path / "a", GOOD), _archive(tmp_path / "b", _pickle())]
    made.append(_write(tmp_path / "c", _shards({"w": "a"}, a=GOOD)))
    made.append(_write(tmp_path / "d", _file(b'{"w":' + json.dumps(W).encode() + b"}  \n")))
    for path in made:
        source = open_source(path)
        assert source.tensors["w"].shape == (2,) and source.read_bytes("w") == bytes(8)
        source.close()
    source = open_source(_write(tmp_path / "e", _file(b"{}", 0)))
    assert not source.tensors
    source.close()


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="not-a-file"):
        open_source(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["bad\0name", "x" * 5000])
def test_a_path_that_no_system_takes_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="file-unreadable"):
        open_source(path)


def test_every_kind_of_refusal_has_its_case() -> None:
    """The kinds are read from the calls that make a refusal."""
    written: set[str] = set()
    for file in ROOM.glob("*.py"):
        if file.name.endswith("writer.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("Refused", "_fault", "_bad_index") and isinstance(node, ast.Call):
                written |= {text for text in _texts(node.args[0]) if " " not in text}
    proven = {kind for kind, _ in CASES.values()}
    elsewhere = {"not-a-file", "file-unreadable", "tensor-missing", "file-changed", "cannot-map"}
    assert written <= proven | elsewhere


def _texts(node: ast.AST) -> set[str]:
    found = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
    return {value for value in found if isinstance(value, str)}


# run by a fresh interpreter over a folder of broken files: one line of JSON for each
PROBE = """
import json, sys, time
from pathlib import Path
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
def peak():
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
base = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    try:
        open_source(path).close()
        kind = "opened"
    except Refused as refusal:
        kind = refusal.kind
    seconds = time.process_time() - start
    print(json.dumps([path.name, kind, seconds, peak() - base, "torch" in sys.modules]))
"""


def test_faults_are_found_before_torch_in_a_second_and_100_mib(tmp_path: Path) -> None:
    expected = {}
    for number, (kind, content) in enumerate(CASES.values()):
        if kind != "file-missing":
            expected[f"{number:03}"] = kind
        _write(tmp_path / f"{number:03}", content)
    longest = 99_000_000
    for name, kind, start, fill in (
        ("spaces", "header-not-json", b"{", b" "),
        ("name", "header-entry-too-large", b'{"', b"x"),
        ("wide", "header-entry-too-large", '{"\U0001f600'.encode(), b"x"),
        ("metadata", "header-entry-too-large", b'{"__metadata__":{"a":"', b"x"),
        ("lists", "header-not-json", b'{"a":', b"["),
        ("zeros", "header-not-json", b'{"a":{', b"\0"),
    ):
        expected[name] = kind
        with (tmp_path / name).open("wb") as file:
            file.write(longest.to_bytes(8, "little") + start)
            file.write(fill * (longest - len(start)))
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    seen = [json.loads(line) for line in run.stdout.splitlines()]
    assert {name: kind for name, kind, *_ in seen} == expected
    assert [row for row in seen if row[2] > 1 or row[3] > 100 or row[4]] == []


def _small_files(folder: Path) -> list[bytes]:
    header = {"__metadata__": {"format": "pt"}, "a": W, "b": {**NEXT, "dtype": "I8", "shape": [8]}}
    archive = _archive(folder / "seed", _pickle(), byteorder=b"little", version=b"3")
    index = {"metadata": {}, "weight_map": {"w": "good"}}
    gguf = broken_gguf.GOOD
    return [_file(header, 16), archive.read_bytes(), json.dumps(index).encode(), gguf]


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_any_damage_opens_or_is_refused_and_nothing_else(tmp_path: Path, which: int) -> None:
    dice = random.Random(which)
    whole = _small_files(tmp_path)[which]
    (tmp_path / "good").write_bytes(GOOD)
    for number in range(300):
        damaged = bytearray(whole)
        if number % 3 == 0:
            del damaged[dice.randrange(len(whole)) :]
        for _ in range(number % 3 * dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        try:
            source = open_source(path)
        except Refused:
            continue
        for name in source.tensors:
            assert len(source.read_bytes(name)) == source.tensors[name].size_bytes
            source.tensor(name)
        source.close()
