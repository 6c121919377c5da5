"""A file in packed codes is still the model it was made from: its logical shapes tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from fusequant.engine.families._keep import FEWER_COLUMNS
from fusequant.engine.model import recognise
from fusequant.engine.outputs import specs_of
from fusequant.engine.pipeline import Request, prepare
from fusequant.engine.read import read
from fusequant.engine.rows import all_schemes
from fusequant.engine.specs import Spec, names, spec

LATER_BLOCK = re.compile(r"\.[1-9]\d*\.")
SCHEMES = ("nvfp4", "mxfp8", "w4a4_convrot", "w4a8", "int4_g128")


@dataclass(frozen=True)
class Header(Spec):
    """A header whose markers can be read; every other byte is 1, which is a number everywhere."""

    written: Mapping[str, bytes] | None = None

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        data = (self.written or {}).get(name) or b"\1" * self.tensors[name].size_bytes
        return data[at:] if size is None else data[at : at + size]


def first_blocks(name: str) -> Spec:
    """A spec's first block of each sort and everything around them."""
    whole = spec(name)
    few = {key: value for key, value in whole.tensors.items() if not LATER_BLOCK.search(key)}
    return replace(whole, tensors=few)


def converted(source: Spec, scheme: str) -> tuple[Header, int]:
    """(the header of the converted file, how many of its layers have the scheme)."""
    prepared = prepare(source, request=Request(scheme=scheme))
    outputs = prepared.outputs
    written = {x.tensors[role].name: data for x in outputs for role, data in x.known.items()}
    facts = {key: getattr(source, key) for key in Spec.__dataclass_fields__}
    tensors = {x.name: x for x in specs_of(outputs)}
    header = Header(**facts | {"tensors": tensors, "metadata": prepared.metadata}, written=written)
    return header, sum(x.choice.scheme == scheme for x in outputs)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", names())
def test_a_packed_file_is_recognised_with_its_logical_shapes(name: str, scheme: str) -> None:
    was = first_blocks(name)
    plain = recognise(read(was))
    packed, count = converted(was, scheme)
    found = recognise(read(packed))
    assert count
    assert (found.family.name, found.spelling, found.prefix) == (
        plain.family.name,
        plain.spelling,
        plain.prefix,
    )
    assert found.shapes == plain.shapes
    assert sum(x.parts[0].scheme == scheme for x in found.layers) == count


def test_the_schemes_with_fewer_columns_are_known_to_the_families() -> None:
    found = {
        x.name
        for x in all_schemes().values()
        if x.pieces(512, 512, "BF16")["weight"].shape != (512, 512)
    }
    assert found == set(FEWER_COLUMNS)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["ltx-2", "ltx-video-0.9-2b"])
def test_ltx_keeps_the_layer_that_tells_its_width(name: str, scheme: str) -> None:
    prepared = prepare(spec(name), request=Request(scheme=scheme))
    packed = {x.choice.layer.name for x in prepared.outputs if x.choice.scheme == scheme}
    layers = {f"transformer_blocks.{at}.attn2.to_k" for at in range(3)}
    told = {"transformer_blocks.0.attn2.to_k"} if scheme in FEWER_COLUMNS else set()
    assert layers - packed == told
