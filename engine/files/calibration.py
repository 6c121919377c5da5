"""An opened model in, the same with the largest inputs of its layers out, where they lie beside it.

LightX2V writes `calib.pt` beside weights of nvfp4: {"absmax": {weight: the largest input it saw}}.
Here these are tensors of the model itself, `<layer>.input_absmax`.
"""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from typing import Any

from ..errors import Refused
from ..source import Source
from .magic import unreadable
from .pickled import StoredTensor
from .pth import open_pth
from .sharded import ShardedSource

NAME = "calib.pt"
ASKS, GIVES = ".weight_global_scale", ".input_absmax"


def calibrated(source: Source) -> Source:
    """`source`, and what lies beside it of its layers' inputs; closed when that is refused."""
    path = (source.path if source.path.is_dir() else source.path.parent) / NAME
    if not path.is_file():
        return source
    names = source.tensors
    asking = {name.removesuffix(ASKS) for name in names if name.endswith(ASKS)}
    asking = {layer for layer in asking if layer + GIVES not in names}
    if not asking:
        return source
    try:
        beside = open_pth(path, partial(_inputs, asking))
    except OSError as fault:
        source.close()
        raise unreadable(path, fault) from fault
    except BaseException:
        source.close()
        raise
    return ShardedSource(source.path, (source, beside), source.kind)


def _inputs(
    asking: Set[str], content: Any, file: str
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The numbers of the layers that ask for them, under the names that the model gives them."""
    held = content.get("absmax") if isinstance(content, dict) else None
    if not isinstance(held, dict):
        raise Refused(
            "pth-layout",
            found=f"{type(content).__name__} without absmax in {file}",
            expected='{"absmax": {weight: largest input}}, as LightX2V writes it',
            fix=f"calibrate again, or take {file} out of the folder: it is about activations alone",
        )
    found = {
        key.removesuffix(".weight") + GIVES: value
        for key, value in held.items()
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }
    return {name: x for name, x in found.items() if name.removesuffix(GIVES) in asking}, {}
