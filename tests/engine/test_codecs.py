"""Every codec: rows of a stored weight in any cut are the rows of the whole, and so is its home."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from fusequant.engine.codec import Codec
from fusequant.engine.rows import all_schemes
from fusequant.engine.stored import all_codecs

from .coded import CODED


def codec_of(name: str) -> Codec:
    """The codec of an entry `codec` or `codec:variant`."""
    return all_codecs()[name.split(":")[0]]


@pytest.mark.parametrize("name", all_codecs())
def test_every_codec_has_a_stored_weight_to_be_tried_on(name: str) -> None:
    needs = all_codecs()[name].needs
    if needs and not find_spec(needs):
        pytest.skip(f"{needs} is not installed")
    assert name in CODED


def test_no_codec_has_the_name_of_a_scheme() -> None:
    assert not set(all_codecs()) & set(all_schemes())


@pytest.mark.parametrize("name", CODED)
def test_numbers(name: str) -> None:
    tensors, settings, expected = CODED[name]
    found = codec_of(name).rows(tensors, settings, 0, expected.shape[0])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CODED)
def test_a_run_of_rows_is_a_cut_of_the_whole(name: str) -> None:
    tensors, settings, expected = CODED[name]
    codec, n = codec_of(name), expected.shape[0]
    for start in range(0, n, 64 - 64 % codec.row_step or codec.row_step):
        stop = min(n, start + codec.row_step * 3 - codec.row_step // 2)
        torch.testing.assert_close(
            codec.rows(tensors, settings, start, stop), expected[start:stop].float(),
            rtol=1e-6, atol=0,
        )  # fmt: skip


@pytest.mark.parametrize("name", CODED)
def test_the_home_scheme_holds_the_same_numbers(name: str) -> None:
    tensors, settings, expected = CODED[name]
    codec = codec_of(name)
    home = codec.home(settings)
    assert (home is None) or codec.restate is not None
    if home is None or codec.restate is None:
        return
    pieces = codec.restate(tensors, settings, 0, expected.shape[0])
    found = all_schemes()[home].dequantize(pieces, all_schemes()[home].config(*expected.shape))
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)
