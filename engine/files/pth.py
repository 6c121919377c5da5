"""A torch .pth, .pt or .ckpt archive in, a Source out: described by its pickle, mapped in place.

The archive is a zip: `<root>/data.pkl` describes the objects, `<root>/data/<key>` holds each
storage uncompressed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import Refused
from ..tensors import DTYPES, TensorSpec
from .archive import Archive, Entry
from .mapping import FileSource, Span
from .pickled import PICKLE_CAP, StoredTensor, describe, too_long
from .safetensors import RANK_LIMIT

# what training tools put around a state dict; of several, the first here is the model to run
ENVELOPES = (
    "generator_ema",
    "params_ema",
    "model_ema",
    "state_dict",
    "model_state",
    "model_state_dict",
    "model",
    "module",
    "generator",
    "params",
)
DEPTH_LIMIT = 4
SAFETENSORS_NAMES = {spelled: name for name, (_, spelled) in DTYPES.items() if name != "F4"}
RESAVE = "load it with torch.load(file, weights_only=True) and save its tensors as safetensors"
# (unpickled object, file) -> (tensors by name, metadata)
Unwrap = Callable[[Any, str], tuple[dict[str, StoredTensor], dict[str, str]]]


def open_pth(path: Path, unwrap: Unwrap | None = None) -> FileSource:
    """Open the archive at `path`; `metadata` tells what was unwrapped and what was left out.

    `unwrap` finds the tensors in the unpickled object; None: those of a state dict.
    """
    handle = path.open("rb")
    try:
        archive = Archive(handle, path.name)
        root = _root(archive, path.name)
        _check_byte_order(archive, root, path.name)
        pickled = archive.entries[f"{root}data.pkl"]
        if pickled.size > PICKLE_CAP:
            raise too_long(f"{pickled.size} bytes", path.name)
        content = describe(archive.read(pickled), path.name)
        named, metadata = (unwrap or _state_dict)(content, path.name)
        tensors: dict[str, TensorSpec] = {}
        spans: dict[str, Span] = {}
        for name, stored in named.items():
            entry = archive.entries.get(f"{root}data/{stored.storage.key}")
            tensors[name] = _spec(name, stored, path.name)
            spans[name] = _span(tensors[name], stored, archive, entry, path.name)
    except BaseException:
        handle.close()
        raise
    return FileSource(path, "pth", handle, tensors, spans, metadata)


def _root(archive: Archive, file: str) -> str:
    """The folder inside the archive, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in archive.entries if _is_pickle(name)]
    if len(roots) != 1:
        raise Refused(
            "zip-not-torch",
            found=f"{len(roots)} data.pkl in the zip archive {file}",
            expected="one, as torch.save writes it",
            fix="if it is an archive of model files, unpack it and open the model inside",
        )
    if f"{roots[0]}constants.pkl" in archive.entries:
        raise Refused(
            "torchscript",
            found=f"a TorchScript program in {file}",
            expected="a checkpoint of tensors",
            fix="get the model's state dict as safetensors",
        )
    return roots[0]


def _is_pickle(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return last == "data.pkl" and "/" not in folder


def _check_byte_order(archive: Archive, root: str, file: str) -> None:
    entry = archive.entries.get(f"{root}byteorder")
    order = archive.read(entry) if entry and entry.size <= 16 else b"little"
    if order != b"little":
        raise Refused(
            "byte-order",
            found=f"numbers in byte order {order!r} in {file}",
            expected="little",
            fix=RESAVE,
        )


def _state_dict(content: Any, file: str) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """(tensors by name, what was unwrapped and left out) of the unpickled object."""
    path: list[str] = []
    left_out: list[str] = []
    for _ in range(DEPTH_LIMIT):
        if not isinstance(content, dict):
            break
        named = {key: value for key, value in content.items() if isinstance(value, StoredTensor)}
        envelope = next((key for key in ENVELOPES if _holds_tensors(content.get(key))), None)
        if named or envelope is None:
            break
        left_out += [".".join([*path, str(key)]) for key in content if key != envelope]
        path.append(envelope)
        content = content[envelope]
    if not isinstance(content, dict) or not named or not all(isinstance(key, str) for key in named):
        held = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else ""
        raise Refused(
            "pth-layout",
            found=f"{type(content).__name__} ({held}) in {file}",
            expected="a state dict of named tensors, or one under " + ", ".join(ENVELOPES),
            fix=RESAVE,
        )
    left_out += [".".join([*path, str(key)]) for key in content if key not in named]
    facts = {"unwrapped": ".".join(path), "left_out": ", ".join(left_out)}
    return named, {key: text for key, text in facts.items() if text}


def _holds_tensors(value: Any, depth: int = DEPTH_LIMIT) -> bool:
    if not isinstance(value, dict) or not depth:
        return False
    if any(isinstance(item, StoredTensor) for item in value.values()):
        return True
    return any(_holds_tensors(value.get(key), depth - 1) for key in ENVELOPES)


def _spec(name: str, stored: StoredTensor, file: str) -> TensorSpec:
    dtype = SAFETENSORS_NAMES.get(stored.dtype)
    if dtype is None:
        raise Refused(
            "dtype-unknown",
            found=f"tensor {name!r} of {file} as {stored.dtype}",
            expected=", ".join(SAFETENSORS_NAMES),
            fix="convert the tensor to one of these dtypes in torch",
        )
    if len(stored.shape) > RANK_LIMIT:
        raise Refused(
            "shape-invalid",
            found=f"tensor {name!r} of {file} with {len(stored.shape)} dimensions",
            expected=f"at most {RANK_LIMIT}",
            fix="check that this is the model file",
        )
    return TensorSpec(name, dtype, stored.shape)


def _span(
    spec: TensorSpec, stored: StoredTensor, archive: Archive, entry: Entry | None, file: str
) -> Span:
    """The bytes of the storage that the tensor looks at, and its strides unless it is row-major."""
    if entry is None:
        raise archive.broken(f"no data for tensor {spec.name!r}")
    start, stop = archive.span(entry)
    step = DTYPES[spec.dtype][0] // 8
    count = (stop - start) // step
    if not spec.elements:
        return Span(start, start)
    reach = 1 + sum((size - 1) * by for size, by in zip(spec.shape, stored.strides, strict=True))
    if stored.offset + reach > count or spec.elements > count:
        raise Refused(
            "storage-too-small",
            found=f"tensor {spec.name!r} of {file}, {list(spec.shape)} in steps of "
            f"{list(stored.strides)} from {stored.offset}, over {count} stored numbers",
            expected="each number of the tensor stored",
            fix="save the tensor again after .contiguous().clone(), or download the file again",
        )
    first = start + stored.offset * step
    strides = None if _is_row_major(spec.shape, stored.strides) else stored.strides
    return Span(first, first + reach * step, strides)


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return all(
        size == 1 or by == math.prod(shape[axis + 1 :])
        for axis, (size, by) in enumerate(zip(shape, strides, strict=True))
    )
