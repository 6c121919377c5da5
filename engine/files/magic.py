"""The first bytes of a file in, its kind out; a kind that is not opened is refused by name."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import Refused
from .safetensors import AGAIN, HEADER_LIMIT

HEAD_BYTES = 1024
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number 0x1950A86A20F9469CFC6C

# (offset, bytes there, kind); the first that fits names the file
MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "pth"),
    (0, b"PK\x05\x06", "zip-empty"),
    (0, b"GGUF", "gguf"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5-file"),
    (0, b"\x93NUMPY", "numpy-file"),
    (0, b"version https://git-lfs", "git-lfs-pointer"),
    (0, b"\x1f\x8b", "compressed-file"),
    (0, b"\x28\xb5\x2f\xfd", "compressed-file"),
    (0, b"\xfd7zXZ", "compressed-file"),
    (0, b"7z\xbc\xaf", "compressed-file"),
    (0, b"Rar!", "compressed-file"),
    (257, b"ustar", "tar-file"),
)

# kind: (what it is, what to do)
REFUSED: dict[str, tuple[str, str]] = {
    "file-empty": ("an empty file", AGAIN),
    "file-all-zero": ("nothing but zeros at its start: a download that never arrived", AGAIN),
    "zip-empty": ("an empty zip archive", AGAIN),
    "hdf5-file": ("an HDF5 file", "get the model as safetensors"),
    "numpy-file": ("a NumPy array", "get the model as safetensors"),
    "onnx-file": ("an ONNX graph", "get the model as safetensors"),
    "git-lfs-pointer": (
        "a Git LFS pointer: the address of the file, not the file",
        "run `git lfs pull` in the folder, or download the file itself",
    ),
    "compressed-file": ("a compressed archive", "unpack it and open the model inside"),
    "tar-file": ("a tar archive", "unpack it and open the model inside"),
    "html-page": (
        "a web page saved in place of the model",
        "sign in or accept the licence where you download it, then download the file again",
    ),
    "pth-legacy": (
        "a torch checkpoint of the old kind, from before torch 1.6",
        "load it with torch.load(file, weights_only=True) and save the result as safetensors",
    ),
    "pickle-file": (
        "a bare Python pickle, which could run code when loaded",
        "get the model as safetensors",
    ),
    "unknown-file": ("bytes of no known kind", "check that this is the model file"),
}


def file_kind(path: Path) -> str:
    """The kind of the file at `path`: one of `single.READERS`, `json` or a key of REFUSED."""
    try:
        mode = path.stat()
        if not stat.S_ISREG(mode.st_mode):
            raise Refused(
                "not-a-file",
                found=f"{path.name}, which is no regular file",
                expected="a file or a folder",
                fix="give the path of the model itself",
            )
        with path.open("rb") as handle:
            return identify(handle.read(HEAD_BYTES), mode.st_size)
    except (OSError, ValueError) as fault:
        raise unreadable(path, fault) from fault


def identify(head: bytes, size: int) -> str:
    """The kind of a file of `size` bytes that begins with `head` (up to HEAD_BYTES of them)."""
    length = int.from_bytes(head[:8], "little")
    if not size:
        return "file-empty"
    if head[8:9] == b"{" and length <= HEADER_LIMIT:
        return "safetensors"
    if not any(head) and size >= 8:
        return "file-all-zero"
    for offset, mark, kind in MAGIC:
        if head.startswith(mark, offset):
            return kind
    # a pickle of protocol 0 to 5; zeros after it would be a header length of that low byte
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and head[2:6] != bytes(4):
        return "pth-legacy" if LEGACY_TORCH in head else "pickle-file"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "html-page"
    if head.lstrip().startswith(b"{"):
        return "json"
    if head[:1] == b"\x08" and head[2:3] == b"\x12" and length > HEADER_LIMIT:
        return "onnx-file"
    if size < 8 or length <= HEADER_LIMIT or head[8:9] == b"{":
        return "safetensors"  # a broken one: its reader says in which way
    return "unknown-file"


def refuse(kind: str, path: Path) -> Refused:
    """The refusal of a file of a kind in REFUSED."""
    what, fix = REFUSED[kind]
    return Refused(
        kind,
        found=f"{what} ({path.name})",
        expected="safetensors, GGUF or a torch .pth archive",
        fix=fix,
    )


def unreadable(path: Path, fault: OSError | ValueError) -> Refused:
    """The refusal of a path that the system does not open."""
    missing = isinstance(fault, FileNotFoundError | NotADirectoryError)
    return Refused(
        "file-missing" if missing else "file-unreadable",
        found=f"no file at {path}" if missing else f"{path} that cannot be read ({fault})",
        expected="the path of a model file or folder",
        fix="check the path" if missing else "check the path and its permissions",
    )
