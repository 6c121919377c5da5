"""What a file was made from, in its header: content fingerprints, strengths, scheme, version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .source import Source

VERSION = "0.1.0"
METADATA_KEY = "fusequant"
# what a model is built by: ComfyUI reads the settings of LTX and of some Wan models there
CARRIED = ("config",)
_SAMPLE_BYTES = 4096


def carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file that is made from another one takes over from its header."""
    return {name: metadata[name] for name in CARRIED if name in metadata}


def header(source: Source, recipe: str) -> dict[str, str]:
    """The metadata of a file made from `source` by a recipe."""
    return {"format": "pt", **carried(source.metadata), METADATA_KEY: recipe}


def fingerprint(source: Source) -> str:
    """A hash of all names, dtypes and shapes and of 4 KiB of numbers at both ends of each tensor.

    No path, date or order of files goes in: a model in one file or in ten has one fingerprint.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(source.tensors):
        spec = source.tensors[name]
        digest.update(f"{name}\0{spec.dtype}\0{spec.shape}\0".encode())
        if source.kind == "spec":  # names and shapes of a public model: there are no numbers
            continue
        digest.update(source.read_bytes(name, 0, _SAMPLE_BYTES))
        tail = max(0, spec.size_bytes - _SAMPLE_BYTES)
        digest.update(source.read_bytes(name, tail, _SAMPLE_BYTES))
    return digest.hexdigest()


@dataclass(frozen=True)
class FusedLora:
    """One LoRA as it went in: which numbers, how strong, and whether alpha is over sqrt(rank)."""

    fingerprint: str
    strength: float
    rslora: bool = False

    def to_json(self) -> dict[str, object]:
        """Its entry in the header."""
        facts: dict[str, object] = {"file": self.fingerprint, "strength": self.strength}
        return facts | ({"rslora": True} if self.rslora else {})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of a converted file, its sources by their fingerprints.

    Two sources that differ only between the sampled numbers have one fingerprint.
    """

    source: str
    scheme: str
    loras: tuple[FusedLora, ...] = ()
    keep: tuple[str, ...] = ()
    dtype: str | None = None
    rotated: int | None = None
    format: str | None = None
    version: str = VERSION

    def to_json(self) -> str:
        facts: dict[str, object] = {
            "version": self.version,
            "source": self.source,
            "scheme": self.scheme,
            "loras": [lora.to_json() for lora in self.loras],
            "keep": list(self.keep),
            "dtype": self.dtype,
        }
        facts |= {"rotated": self.rotated} if self.rotated else {}
        facts |= {"format": self.format} if self.format else {}
        return json.dumps(facts, separators=(",", ":"))


def recipe_of(
    source: Source,
    scheme: str,
    loras: Sequence[tuple[Source, float, bool]] = (),
    keep: Sequence[str] = (),
    dtype: str | None = None,
    rotated: int | None = None,
    format: str | None = None,
) -> Recipe:
    """The recipe of a conversion, from opened files; `loras`: (source, strength, rslora)."""
    return Recipe(
        source=fingerprint(source),
        scheme=scheme,
        loras=tuple(
            FusedLora(fingerprint(lora), strength, rslora) for lora, strength, rslora in loras
        ),
        keep=tuple(keep),
        dtype=dtype,
        rotated=rotated,
        format=format,
    )
