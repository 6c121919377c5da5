"""Per-layer markers in, JSON objects out: `comfy_quant` tensors and the header's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import Refused
from ..problem_kinds import AGAIN
from ..source import Source
from ..tensors import TensorSpec

MAX_MARKER_BYTES = 1 << 16
HEADER_KEY = "_quantization_metadata"


@dataclass(frozen=True)
class Marker:
    """The JSON of one layer; `broken` says why there is none. `nested` are its `params`."""

    config: Mapping[str, object]
    broken: str | None = None

    @property
    def id(self) -> str | None:
        """The format id, or None where the JSON names none."""
        name = self.config.get("format")
        return name if isinstance(name, str) else None

    def get(self, key: str, default: object = None) -> object:
        """A setting, at the top or under `params`."""
        params = self.config.get("params")
        nested = params.get(key, default) if isinstance(params, dict) else default
        return self.config.get(key, nested)

    def size(self, key: str, default: int) -> int:
        """A setting that counts something; 0 where it is no number."""
        value = self.get(key, default)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _tensor_marker(source: Source, spec: TensorSpec) -> Marker:
    """The marker in a `comfy_quant` tensor."""
    if spec.dtype not in ("U8", "I8") or spec.size_bytes > MAX_MARKER_BYTES:
        return Marker({}, f"a {spec.dtype} tensor of {spec.size_bytes} bytes")
    try:
        config = json.loads(source.read_bytes(spec.name))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
        return Marker({}, "bytes that are no JSON")
    return Marker(config) if isinstance(config, dict) else Marker({}, "JSON that is no object")


def header_markers(source: Source) -> dict[str, Marker]:
    """The markers that the header's metadata lists by layer."""
    text = source.metadata.get(HEADER_KEY)
    if text is None:
        return {}
    try:
        layers = json.loads(text)["layers"]
        return {
            str(name): Marker(config)
            if isinstance(config, dict)
            else Marker({}, "JSON that is no object")
            for name, config in layers.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(
            "marker-not-json",
            found=f"header metadata {HEADER_KEY} that is no JSON object with `layers`",
            expected="a JSON object naming the format of each quantized layer",
            fix=AGAIN,
        ) from error


def markers(source: Source) -> dict[str, Marker]:
    """{layer: marker}; the header's word beats the tensor's, as in stock ComfyUI."""
    found = {
        name.rpartition(".")[0]: _tensor_marker(source, spec)
        for name, spec in source.tensors.items()
        if name.rpartition(".")[2] == "comfy_quant"
    }
    return found | header_markers(source)


DAMAGED = "damaged marker"


def ids(source: Source) -> frozenset[str | None]:
    """The format ids of a file: None where a layer names none, DAMAGED where it is no JSON."""
    try:
        return frozenset(
            DAMAGED if marker.broken else marker.id for marker in markers(source).values()
        )
    except Refused:
        return frozenset((DAMAGED,))
