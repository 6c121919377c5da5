"""A layer and its source in, its float32 rows out, whatever form they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from . import schemes
from .layer import Layer, Part
from .parts import discover
from .scheme import Row, Scheme, Tensor
from .source import Source
from .stored import all_codecs

# rows(start, stop) -> (stop - start, elements of a row) float32, a fresh tensor
RowReader = Callable[[int, int], torch.Tensor]
Pieces = Mapping[str, torch.Tensor]


def all_schemes() -> Mapping[str, Scheme]:
    """Every scheme by name."""
    return discover(schemes.__name__, "SCHEME")


def row_count(layer: Layer) -> int:
    """Dim 0 of a layer; a scalar is one row."""
    return layer.shape[0] if layer.shape else 1


def row_elements(layer: Layer) -> int:
    """Numbers in one row of a layer."""
    return layer.elements // row_count(layer) if row_count(layer) else 0


def plain_rows(source: Source, part: Part, start: int, stop: int) -> torch.Tensor:
    """Rows of a part that holds plain numbers, as a view of the map in the stored dtype."""
    stored = source.tensor(part.tensors["weight"])
    if part.transposed:
        stored = stored.t()
    elif part.view is not None:
        stored = stored.reshape(part.view)
    flat = stored.reshape(stored.shape[0], -1) if stored.dim() else stored.reshape(1, 1)
    return flat[start:stop]


def _piece_rows(
    scheme: Scheme, source: Source, part: Part, start: int, stop: int
) -> dict[str, torch.Tensor]:
    """The pieces of a quantized part that rows [start, stop) need."""
    codes = source.tensor(part.tensors["weight"])
    rows = codes.shape[0]
    codes = codes.reshape(rows, -1)
    pieces = {}
    for role, name in part.tensors.items():
        piece = codes if role == "weight" else source.tensor(name)
        if role == "scale" and isinstance(scheme.granularity, Row) and piece.numel() == rows:
            piece = piece.reshape(rows, 1)  # [N], [N, 1] and [1, N] are all in use
        axis = scheme.row_axis.get(role)
        if axis is None or piece.dim() <= axis or piece.numel() == 1:
            pieces[role] = piece
            continue
        size, tile = scheme.rows_per.get(role, 1), scheme.row_tile.get(role, 1)
        ends = [-(-last // size) for last in (stop, rows)]
        end, expected = (-(-last // tile) * tile for last in ends)
        whole = piece.shape[axis] != expected
        low = start // size
        pieces[role] = piece if whole else piece.narrow(axis, low, end - low)
    return pieces


def part_rows(source: Source, part: Part, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a part as fresh float32 (rows, k)."""
    if part.scheme == "none":
        view = plain_rows(source, part, start, stop)
        return view.to(torch.float32, copy=True)
    codec = all_codecs().get(part.scheme)
    if codec is not None:
        low = start - start % codec.row_step
        return codec.rows(_stored(source, part), part.settings, low, stop)[start - low :]
    scheme = all_schemes()[part.scheme]
    low = start - start % scheme.row_step  # block scales begin on a tile
    values = scheme.dequantize(_piece_rows(scheme, source, part, low, stop), part.settings)
    return values[start - low :]


def _stored(source: Source, part: Part) -> dict[str, torch.Tensor]:
    """Every stored tensor of a part by role, as views of the mapped file."""
    return {role: source.tensor(name) for role, name in part.tensors.items()}


def restated(source: Source, part: Part, home: str, start: int, stop: int) -> Pieces:
    """Rows [start, stop) of a part as the pieces of the scheme that holds its codes."""
    codec, scheme = all_codecs().get(part.scheme), all_schemes()[home]
    if codec is None:
        pieces = _piece_rows(all_schemes()[part.scheme], source, part, start, stop)
        return _completed(scheme, pieces)
    if codec.restate is None:
        raise ValueError(f"codec {part.scheme} names a home and cannot restate")
    low = start - start % codec.row_step
    found = codec.restate(_stored(source, part), part.settings, low, stop)
    if low == start:
        return found
    return {
        role: piece.narrow(scheme.row_axis[role], start - low, stop - start)
        for role, piece in found.items()
    }


def _completed(scheme: Scheme, stored: Pieces) -> Pieces:
    """The pieces of rows as `scheme` stores them: what a file may leave out, one scale a row."""
    weight = stored["weight"]
    scale = stored.get("scale", torch.ones(()))
    if isinstance(scheme.granularity, Tensor):
        scale = scale.reshape(())
    elif isinstance(scheme.granularity, Row):
        scale = scale.reshape(-1, 1).expand(weight.shape[0], 1)
    pieces = {"weight": weight, "scale": scale}
    if "zeros" in scheme.row_axis:
        pieces["zeros"] = stored.get("zeros", torch.zeros_like(scale))
    return {**{role: stored[role] for role in scheme.row_axis if role in stored}, **pieces}


def restated_rows(
    layer: Layer, source: Source, home: str
) -> Callable[[int, int], dict[str, torch.Tensor]]:
    """A reader of a layer's rows as the pieces of its home scheme, its parts joined."""
    axes, parts = all_schemes()[home].row_axis, _spans(layer, source)

    def read(start: int, stop: int) -> dict[str, torch.Tensor]:
        found = [
            restated(source, part, home, max(start, first) - shift, min(stop, last) - shift)
            for first, last, shift, part in parts
            if max(start, first) < min(stop, last)
        ]
        if len(found) == 1:
            return dict(found[0])
        return {
            role: torch.cat([pieces[role] for pieces in found], axes[role])
            if found[0][role].dim()
            else found[0][role]
            for role in found[0]
        }

    return read


def _spans(layer: Layer, source: Source) -> list[tuple[int, int, int, Part]]:
    """(first, last, row of the layer less row of the part, part) of each part of a layer."""
    spans = []
    at = 0
    for part in layer.parts:
        stored = part.view or source.tensors[part.tensors["weight"]].shape
        low, high = part.rows or (0, stored[0] if stored else 1)
        spans.append((at, at + high - low, at - low, part))
        at += high - low
    return spans


def rows_of(layer: Layer, source: Source) -> RowReader:
    """A reader of a layer's rows: its parts one below the other."""
    spans = _spans(layer, source)

    def read(start: int, stop: int) -> torch.Tensor:
        found = []
        for first, last, shift, part in spans:
            begin, end = max(start, first), min(stop, last)
            if begin < end:
                found.append(part_rows(source, part, begin - shift, end - shift))
        return found[0] if len(found) == 1 else torch.cat(found)

    return read
