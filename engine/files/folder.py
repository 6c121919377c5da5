"""A folder in, the one model that it holds out; of several, none is picked by chance."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import Refused
from ..source import Source
from .magic import file_kind, refuse, unreadable
from .sharded import open_index, open_shards, read_index
from .single import READERS, open_single

# a file's stem: (what the pieces of one model share, number of the piece, number of pieces)
BLOCK = re.compile(r"(?P<name>)(?:non_block|block_(?P<number>\d+))")
PART = re.compile(r"(?P<name>.+)_part(?P<number>\d+)")
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
FIRST = {BLOCK: -1, PART: 0, SHARD: 1}  # number of the first piece; -1 is non_block

MODEL_FOLDERS = re.compile(r"transformer(_\d+)?|unet")
ALSO_MODELS = ("pth-legacy",)  # refused, but never passed over in silence
ASIDE = ("git-lfs-pointer", "file-empty", "file-all-zero", "html-page")  # a download that failed
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".gguf")
NOT_MODELS = {
    "calib.pt", "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt",
    "scheduler.bin", "rng_state.pth",
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One model in a folder: what to call it and how to open it."""

    title: str
    open: Callable[[], Source]


def open_folder(folder: Path) -> Source:
    """Open the only model in `folder` or in its `transformer/` subfolder."""
    try:
        found = candidates(folder)
        inside = sorted(sub for sub in folder.iterdir() if sub.is_dir())
        for sub in inside:
            if MODEL_FOLDERS.fullmatch(sub.name):
                found += candidates(sub)
        if not found:
            raise _nothing(folder)
    except OSError as fault:
        raise unreadable(folder, fault) from fault
    if len(found) > 1:
        raise Refused(
            "folder-several-models",
            found=f"{len(found)} models in {folder}",
            expected="one",
            fix="open one of them: " + ", ".join(candidate.title for candidate in found),
        )
    return found[0].open()


def candidates(folder: Path) -> list[Candidate]:
    """Every model that lies in `folder` itself."""
    files = _files(folder)
    kinds = {file: file_kind(file) for file in files}
    found: list[Candidate] = []
    claimed: set[Path] = set()
    for file in files:
        if kinds[file] == "json" and file.name.endswith(".index.json"):
            claimed |= {folder / name for name in read_index(file).values()}
            found.append(Candidate(str(file), partial(open_index, file)))
    pieces: dict[tuple[re.Pattern[str], str, str], dict[int, Path]] = {}
    for file in files:
        if file in claimed or not _is_model(file, kinds[file]):
            continue
        place = _piece(file) if kinds[file] in READERS else None
        if place is None:
            found.append(Candidate(str(file), partial(open_single, file, kinds[file])))
        else:
            group, number = place
            pieces.setdefault(group, {})[number] = file
    for (pattern, _, _), numbered in pieces.items():
        first = numbered[min(numbered)]
        found.append(Candidate(str(first), partial(_open_pieces, folder, pattern, numbered)))
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()
    )


def _is_model(file: Path, kind: str) -> bool:
    return (kind in READERS or kind in ALSO_MODELS) and file.name not in NOT_MODELS


def _piece(file: Path) -> tuple[tuple[re.Pattern[str], str, str], int] | None:
    """(what the pieces of this model share, number of this piece), for a piece of a model."""
    for pattern in FIRST:
        match = pattern.fullmatch(file.stem)
        if match:
            count = match.groupdict().get("count") or ""
            shared = (pattern, match["name"] + count, file.suffix)
            return shared, int(match["number"]) if match["number"] else -1
    return None


def _open_pieces(folder: Path, pattern: re.Pattern[str], numbered: dict[int, Path]) -> Source:
    """Open numbered pieces as one model; a gap in the numbers is a missing file."""
    some = numbered[max(numbered)]
    match = pattern.fullmatch(some.stem)
    count = match.groupdict().get("count") if match else None
    last = int(count) if count else max(0, *numbered)
    for number in range(FIRST[pattern], last + 1):
        if number not in numbered:
            piece = "non_block" if number < 0 else f"number {number}"
            raise Refused(
                "shard-missing",
                found=f"no {piece} beside {some.name} in {folder}",
                expected=f"every piece from {max(FIRST[pattern], 0)} to {last}",
                fix="download the missing file into the folder",
            )
    return open_shards(folder, [numbered[number] for number in sorted(numbered)])


def _nothing(folder: Path) -> Refused:
    """The refusal of a folder without a model, by the first file that failed to arrive if any."""
    for file in _files(folder):
        kind = file_kind(file)
        if kind in ASIDE and file.suffix.lower() in SUFFIXES:
            return refuse(kind, file)
    names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
    return Refused(
        "folder-without-model",
        found=f"{names or 'nothing'} in {folder}",
        expected="a safetensors, GGUF or torch file, its pieces, or a transformer/ folder of them",
        fix="give the folder that holds the model's weights, or the file itself",
    )
