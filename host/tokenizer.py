"""A text encoder file without its tokenizer in, the tokenizer of a neighboring file out.

The files of the original Wan release and LightX2V's hold weights alone; ComfyUI looks for the
sentencepiece model among the weights.
"""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch

from ..engine.errors import Refused
from ..engine.files.open import open_source
from ..engine.source import Source

KEY = "spiece_model"
TABLES = (
    "shared.weight", "token_embedding.weight", "encoder.embed_tokens.weight", "token_embd.weight",
)  # fmt: skip
NAME = "spiece.model"
# where the original release has it, from the file's folder or the one above
RELEASE = ("", "google/umt5-xxl", "umt5-xxl")


def words(source: Source) -> int:
    """Rows of the token table, 0 where there is none."""
    rows = (source.tensors[name].shape[0] for name in TABLES if name in source.tensors)
    return next(rows, 0)


def sentencepiece_for(source: Source) -> tuple[torch.Tensor, str]:
    """(the model's bytes, where they are from): from a file beside it, else from another encoder.

    Nothing is downloaded. Refused where there is none.
    """
    rows, folder = words(source), Path(source.path).resolve().parent
    for root in (folder, folder.parent):
        for inside in RELEASE:
            found = root / inside / NAME
            if found.is_file() and _fits(found.read_bytes(), rows):
                return _tensor(found.read_bytes()), str(found)
    for name in folder_paths.get_filename_list("text_encoders"):
        path = folder_paths.get_full_path("text_encoders", name)
        data = None if path is None else _borrowed(Path(path), rows)
        if data is not None:
            return _tensor(data), name
    raise Refused(
        "tokenizer-missing",
        found=f"{Path(source.path).name}, a text encoder without its sentencepiece model",
        expected=f"{NAME} in the same folder, or a UMT5 in text_encoders that carries one",
        fix=f"copy google/umt5-xxl/{NAME} of the Wan release next to it",
    )


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _fits(data: bytes, rows: int) -> bool:
    """The model's pieces are the rows of the table, which is padded a little."""
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size()
    except RuntimeError:  # not a sentencepiece model
        return False
    return rows // 2 < pieces <= rows


def _borrowed(path: Path, rows: int) -> bytes | None:
    """The tokenizer inside another encoder whose table has as many rows, from its header."""
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        source = open_source(path)
    except Refused:
        return None
    try:
        if KEY not in source.tensors or words(source) != rows:
            return None
        return source.read_bytes(KEY)
    finally:
        source.close()
