"""Names as the host's drop-downs show them in, paths out; and the folders that are ours."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..engine.errors import Refused

GGUF = ".gguf"  # the host's loaders open none, so its lists have none
# what a folder of one checkpoint in many files has in it
_SHARD_MARKS = ("non_block.safetensors", "block_0.safetensors")


def _is_checkpoint_folder(names: list[str]) -> bool:
    indexed = any(name.endswith(".safetensors.index.json") for name in names)
    return indexed or any(mark in names for mark in _SHARD_MARKS)


def _walked(kind: str) -> tuple[list[str], list[str]]:
    """(folders of one checkpoint in many files, GGUF files), relative to the model folders."""
    folders: set[str] = set()
    files: set[str] = set()
    for root in folder_paths.get_folder_paths(kind):
        for folder, inside, names in os.walk(root, followlinks=True):
            where = Path(folder).relative_to(root)
            if folder != root and _is_checkpoint_folder(names):
                folders.add(where.as_posix())
                inside.clear()
                continue
            files |= {str(where / name) for name in names if name.lower().endswith(GGUF)}
    return sorted(folders), sorted(files)


def checkpoint_folders(kind: str = "diffusion_models") -> list[str]:
    """Folders that hold one checkpoint in many files, as names relative to the model folders."""
    return _walked(kind)[0]


def names(kind: str = "diffusion_models") -> list[str]:
    """The files of a kind, the GGUF files that the host itself does not list, then the folders
    that are one checkpoint each.
    """
    folders, files = _walked(kind)
    return list(dict.fromkeys([*folder_paths.get_filename_list(kind), *files, *folders]))


def find(kind: str, name: str) -> Path:
    """The path of a name from `names`; a name that is gone is refused."""
    file = folder_paths.get_full_path(kind, name)
    if file is not None:
        return Path(file)
    for root in folder_paths.get_folder_paths(kind):
        folder = (Path(root) / name).resolve()
        if folder.is_dir() and folder.is_relative_to(Path(root).resolve()):
            return folder
    raise Refused(
        "file-not-found",
        found=f"no {name!r} among {kind}",
        expected="a file of ComfyUI's model folders",
        fix=f"put it into models/{kind} and refresh the node",
    )


def output_folder() -> Path:
    """Where the host's saving nodes write."""
    return Path(folder_paths.get_output_directory())


def cache_folder() -> Path:
    """Our cache, outside every model drop-down. It is not made here."""
    return Path(folder_paths.get_user_directory()) / "fusequant" / "cache"


def output_file(prefix: str, suffix: str = ".safetensors") -> Path:
    """A file name that is free, `prefix` and a number, below the host's output folder.

    ComfyUI lists `diffusion_models/` and `loras/` of that folder among its models.
    """
    root = output_folder().resolve()
    wanted = (root / prefix).resolve()
    if wanted == root or not wanted.is_relative_to(root) or prefix.endswith(("/", "\\")):
        raise Refused(
            "output-name",
            found=repr(prefix),
            expected=f"a file name, with folders before it or without, inside {root}",
            fix="use a name such as diffusion_models/my_model",
        )
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, str(root))
    return Path(folder) / f"{name}_{counter:05}_{suffix}"
