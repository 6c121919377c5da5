"""The predicted memory of quantizing in memory: results so far, one layer's work, no source."""

from __future__ import annotations

from fusequant.engine.place.making import KEPT_BYTES, Made, made_elsewhere, making_bytes

MIB = 1 << 20
CHUNK = 4 * MIB  # elements


def test_the_results_add_up_and_the_last_layer_is_there_twice() -> None:
    layers = [Made(100 * MIB, 100 * MIB)] * 3
    assert making_bytes(layers, CHUNK) == KEPT_BYTES + (300 + 100 + 4 * 4 * 4) * MIB


def test_a_layer_with_a_lora_is_summed_whole_in_float32() -> None:
    plain, fused = (making_bytes([Made(100 * MIB, 100 * MIB, f)], CHUNK) for f in (False, True))
    assert plain == KEPT_BYTES + (200 + 64) * MIB
    assert fused == KEPT_BYTES + 1200 * MIB


def test_the_largest_layer_counts_wherever_it_stands() -> None:
    small, large = Made(MIB, MIB), Made(1000 * MIB, 500 * MIB)
    first, last = making_bytes([large, small], CHUNK), making_bytes([small, large], CHUNK)
    assert last - first == MIB  # the small result is there already


def test_a_layer_smaller_than_a_chunk_is_one_chunk() -> None:
    assert making_bytes([Made(MIB, MIB)], CHUNK) == KEPT_BYTES + (4 * 4 + 2) * MIB


def test_nothing_takes_what_is_kept_anyway() -> None:
    assert making_bytes([], CHUNK) == KEPT_BYTES


def test_codes_of_the_source_become_float32_first() -> None:
    plain, decoded = (
        making_bytes([Made(100 * MIB, 100 * MIB, decoded=d)], CHUNK) for d in (False, True)
    )
    assert decoded - plain == 400 * MIB


def test_on_a_gpu_the_results_are_in_main_memory_and_the_work_is_there() -> None:
    layers = [Made(100 * MIB, 100 * MIB), Made(50 * MIB, 50 * MIB, fused=True)]
    results, work = made_elsewhere(layers, CHUNK)
    assert results == KEPT_BYTES + 200 * MIB  # the first layer twice, or both and the second twice
    assert work == 600 * MIB  # the sum of the one with a LoRA, in float32 three times
