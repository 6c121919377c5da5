"""A codec: how codes that another tool stored become numbers. One file in `codecs/` each: CODEC.

What we write is a Scheme; a codec is only ever read. Loading one imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]
    Settings = Mapping[str, object]


@dataclass(frozen=True)
class Codec:
    """A stored form of a weight (n, k). The part's `view` is (n, k); `tensors` are its roles.

    rows(tensors, settings, start, stop) -> (stop - start, k) float32, fresh: `tensors` are the
        whole stored tensors as read-only views of the mapped file; only what the rows need is
        touched, so that memory does not grow with the layer. `start` is a multiple of `row_step`,
        `stop` any row.
    home(settings) -> the scheme that holds the same numbers code for code, or None: the layer is
        then written in floating point. Only a codec with `restate` may name one.
    restate(tensors, settings, start, stop) -> {role: tensor} of the home scheme for these rows, as
        Scheme.quantize gives them.
    `bits` a weight, scales counted; `whose`: the tool that writes it. `core_reads` as in Scheme:
    who opens the stored form itself. `needs`: a package without which it reads nothing.
    """

    name: str
    title: str
    whose: str
    bits: float
    rows: Callable[[Tensors, Settings, int, int], torch.Tensor]
    row_step: int = 1
    home: Callable[[Settings], str | None] = lambda settings: None
    restate: Callable[[Tensors, Settings, int, int], dict[str, torch.Tensor]] | None = None
    core_reads: str = "no: our loader"
    needs: str | None = None
