"""The predicted memory of a step beside the bytes that were alive while real models computed one.

Recorded inside ComfyUI 0.33.0 on a CPU: every tensor from its making to its end, models of one or
two blocks with random numbers, the fullest moment of one call.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusequant.engine.advise.activations import held_on, in_blocks, net_of
from fusequant.engine.advise.subject import public
from fusequant.engine.place.moments import ANY_FAMILY, BLOCKS
from fusequant.engine.place.step import (
    CPU_RUN_BYTES,
    GPU_RUN_BYTES,
    Call,
    Matrix,
    Net,
    query_rows,
    step_bytes,
    working,
)
from fusequant.kernels.backends._by_rows import BLOCK_BYTES, BLOCK_BYTES_ELSEWHERE

D, S, Q = "double_blocks.0.", "single_blocks.0.", "transformer_blocks.0."


def flux(hidden: int, wide: int, held: str = "none") -> Net:
    """A FLUX whose block matrices are held in one way."""
    return Net(BLOCKS["flux"], hidden, wide, {
        "img_in": Matrix(hidden, 64),
        f"{D}img_mod.lin": Matrix(6 * hidden, hidden),
        f"{D}img_mlp.0": Matrix(wide, hidden, held),
        f"{D}img_mlp.2": Matrix(hidden, wide, held),
        f"{S}linear1": Matrix(3 * hidden + wide, hidden, held),
        f"{S}linear2": Matrix(hidden, hidden + wide, held),
    })  # fmt: skip


def wan(hidden: int, wide: int, held: str = "none") -> Net:
    """A Wan."""
    return Net(BLOCKS["wan"], hidden, wide, {
        "patch_embedding": Matrix(hidden, 64),
        "time_projection.1": Matrix(6 * hidden, hidden),
        "text_embedding.0": Matrix(hidden, 4096),
        "blocks.0.ffn.0": Matrix(wide, hidden, held),
        "blocks.0.ffn.2": Matrix(hidden, wide, held),
    })  # fmt: skip


def qwen_image(hidden: int, wide: int, held: str = "none") -> Net:
    """A Qwen-Image."""
    return Net(BLOCKS["qwen_image"], hidden, wide, {
        "img_in": Matrix(hidden, 64),
        f"{Q}img_mod.1": Matrix(6 * hidden, hidden),
        f"{Q}img_mlp.net.0.proj": Matrix(wide, hidden, held),
        f"{Q}img_mlp.net.2": Matrix(hidden, wide, held),
        f"{Q}attn.to_out.0": Matrix(hidden, hidden, held),
    })  # fmt: skip


MODELS = {"flux": flux, "wan": wan, "qwen_image": qwen_image}
# family, hidden, MLP width, image tokens, text tokens, bytes alive at the fullest moment
RECORDED = [
    ("flux", 1024, 4096, 64, 16, 32_537_600),  # a widened weight
    ("flux", 1024, 4096, 256, 64, 41_932_544),  # its output as well
    ("flux", 512, 2048, 256, 256, 22_170_000),  # attention scores
    ("flux", 256, 1024, 1024, 64, 34_045_696),
    ("wan", 1024, 2764, 192, 16, 26_308_608),  # modulation
    ("wan", 256, 691, 48, 512, 4_850_688),  # the text embedding
    ("wan", 512, 1536, 432, 128, 12_950_000),  # MLP
    ("wan", 256, 691, 768, 64, 15_415_296),  # attention scores
    ("wan", 1024, 2764, 768, 64, 58_122_240),
    ("qwen_image", 3072, 12288, 64, 16, 227_819_520),
    ("qwen_image", 3072, 12288, 256, 128, 231_920_000),
    ("qwen_image", 3072, 12288, 1024, 64, 335_769_600),
]
# scheme: bytes that one layer took, float32 activations (m, k) and weight (n, k), in MiB
SHAPES = [(8, 2048, 2048), (2048, 512, 512), (512, 2048, 512), (512, 512, 2048)]
LAYERS = {
    "none": (16.0, 5.0, 8.0, 5.0),
    "fp8": (7.08, 9.5, 14.0, 8.0),
    "fp8_e5m2": (6.09, 9.5, 14.0, 8.0),
    "int8": (4.23, 11.5, 17.25, 12.0),
    "int8_convrot": (4.3, 15.5, 18.25, 16.0),
    "int8 by a loop": (0.19, 9.01, 8.25, 4.0),
    "int8_convrot by a loop": (0.25, 13.01, 9.25, 8.0),
    "fp8 of ComfyUI": (32.0, 5.0, 8.0, 8.0),
    "int8 of ComfyUI": (4.0, 21.0, 20.25, 6.0),
    "int8_convrot of ComfyUI": (4.15, 25.0, 21.25, 10.0),
    "int8_weight_only": (4.09, 9.0, 12.0, 6.0),
    "fp8_row": (7.08, 9.5, 14.0, 8.0),
    "fp8_block128": (7.08, 9.5, 14.0, 8.0),
    "int4_g128": (6.08, 9.0, 12.0, 7.0),
}


@pytest.mark.parametrize(("family", "hidden", "wide", "image", "text", "alive"), RECORDED)
def test_the_fullest_moment_is_predicted_within_five_per_cent(
    family: str, hidden: int, wide: int, image: int, text: int, alive: int
) -> None:
    found = step_bytes(MODELS[family](hidden, wide), Call(1, image, text, 4096))
    assert found == pytest.approx(alive, rel=0.05)


@pytest.mark.parametrize(("scheme", "shape", "mib"), [
    (scheme, shape, mib)
    for scheme, found in LAYERS.items() for shape, mib in zip(SHAPES, found, strict=True)
])  # fmt: skip
def test_one_layer_is_predicted_within_ten_per_cent(
    scheme: str, shape: tuple[int, int, int], mib: float
) -> None:
    m, n, k = shape
    call = Call(1, m, 0, run_bytes=CPU_RUN_BYTES)
    taken = sum(count * elements for count, elements in working(Matrix(n, k, scheme), m, call))
    assert taken * 4 == pytest.approx(mib * 2**20, rel=0.10)


def test_a_batch_multiplies_what_is_alive_and_no_weight() -> None:
    one, four = (step_bytes(flux(256, 1024), Call(b, 1024, 64, 4096)) for b in (1, 4))
    assert 3.9 * one < four <= 4 * one
    resident = flux(1024, 4096, "resident")
    small = [step_bytes(resident, Call(b, 16, 16, 4096)) for b in (1, 2)]
    assert small[1] < 1.02 * small[0]  # the weight of the modulation, widened all the same


def test_attention_that_keeps_no_scores_takes_less_and_fewer_rows_too() -> None:
    whole, rows, none = (
        step_bytes(flux(3072, 12288), Call(1, 4096, 256, r)) for r in (4096, 512, None)
    )
    assert whole > 3 * rows > 3 * none


def test_small_pieces_that_an_allocator_keeps_come_on_top_of_the_large_ones() -> None:
    net, call = flux(2048, 8192), Call(1, 256, 256, 4096)
    kept = step_bytes(net, replace(call, kept_bytes=32 << 20))
    widened = 4 * 14336 * 2048  # of linear1, the one piece over 32 MiB
    joint, image, wide, scores = 512 * 2048, 256 * 2048, 512 * 8192, 2 * 16 * 512 * 512
    attention = 4 * (8 * joint + image + wide + scores)
    assert kept == widened + attention + 4 * 512 * 2 * 128
    assert kept > step_bytes(net, call) > widened
    assert step_bytes(net, replace(call, kept_bytes=1 << 40)) == step_bytes(net, call)


def test_half_the_itemsize_is_half_of_the_memory() -> None:
    wide = step_bytes(wan(256, 691), Call(1, 768, 64, 4096))
    assert step_bytes(wan(256, 691), Call(1, 768, 64, 4096, itemsize=2)) == wide // 2


def test_rows_are_as_many_as_a_quarter_of_the_free_memory_takes() -> None:
    call = Call(1, 4096, 256)
    row = 24 * 4 * 4 * 4352
    assert query_rows(4096 * row, call, 24) == 4096
    assert query_rows(4096 * row - 1, call, 24) == 2048
    assert query_rows(1, call, 24) == 512


def test_a_public_model_is_told_from_its_header() -> None:
    net = net_of(public("flux1-dev").model, in_blocks("int8", "cpu"))
    assert net.matrices["img_in"] == Matrix(3072, 64, "none")
    assert (net.hidden, net.wide) == (3072, 12288)
    assert net.matrices[f"{S}linear1"] == Matrix(21504, 3072, "int8")
    assert net_of(public("wan2.2-i2v-14b").model).hidden == 5120
    assert net_of(public("qwen-image-edit-2511").model).wide == 12288


def test_a_family_that_nobody_counted_is_told_by_its_widths() -> None:
    net = net_of(public("z-image-turbo").model)
    assert net.blocks is ANY_FAMILY
    call = Call(1, 4096, 512, itemsize=2)
    tokens = 4096 + 512
    expected = tokens * (5 * net.hidden + 2 * net.wide + 2 * 128) * 2
    assert step_bytes(net, call) == expected


def test_codes_that_a_gpu_multiplies_are_not_widened() -> None:
    assert held_on("int8", "sm_86") == "fused" and held_on("int8", "sm_75") == "sums"
    assert held_on("fp8", "sm_86") == "fp8 of ComfyUI" and held_on("fp8", "sm_89") == "fused fp8"
    assert held_on("int8", "cpu") == "int8"  # measured there
    assert held_on("a format of the host alone", "sm_89") == "a format of the host alone"


def test_what_a_cpu_needs_for_whole_numbers_is_not_predicted_for_a_gpu() -> None:
    n, k, m = 512, 2048, 4096
    call = Call(1, m, 0, itemsize=2)
    cpu, fused, sums = (
        sum(count * x for count, x in working(Matrix(n, k, held), m, call))
        for held in ("int8_convrot", "fused", "sums")
    )
    assert fused == m * n + m * k / 2  # the output, one byte a number of the input
    assert sums == fused + 2 * m * n  # four bytes beside every two
    assert cpu > sums


def test_a_rotation_that_applies_the_activation_saves_its_output() -> None:
    call = Call(1, 32760, 512, itemsize=2)
    fused, folded = (step_bytes(wan(5120, 13824, held), call) for held in ("fused", "folded"))
    video, text, h = 32760, 512, 5120
    # three arrays, the MLP's numbers before GELU, the output and the codes after it
    expected = video * (3 * h + 13824 + h + 13824 / 2) + text * h + video * 2 * 128
    assert folded == 2 * expected
    assert fused - folded == 2 * video * 13824


@pytest.mark.parametrize(("itemsize", "products"), [(2, 3), (4, 1)])
def test_products_of_16_bits_are_scaled_in_float32(itemsize: int, products: int) -> None:
    n, k, m = 512, 512, 65536
    call = Call(1, m, 0, itemsize=itemsize)
    taken = sum(count * x for count, x in working(Matrix(n, k, "int8_weight_only"), m, call))
    assert taken == n * k + (1 + products) * m * n


def test_runs_are_as_large_as_the_product_makes_them() -> None:
    assert BLOCK_BYTES["cpu", torch.float32] == CPU_RUN_BYTES
    assert BLOCK_BYTES_ELSEWHERE == GPU_RUN_BYTES


def test_small_pieces_are_kept_for_the_next_block_where_there_is_one() -> None:
    many, call = qwen_image(3072, 12288), Call(1, 400, 64, 4096, kept_bytes=32 << 20)
    one = replace(many, repeated=False)
    modulation = 4 * 6 * 3072 * 3072
    assert step_bytes(one, call) < step_bytes(many, call)
    assert step_bytes(one, call) < modulation + (16 << 20)  # its own small pieces alone
    alike = replace(call, kept_bytes=0)
    assert step_bytes(one, alike) == step_bytes(many, alike)


def test_a_model_of_one_block_is_told_from_its_header() -> None:
    model = public("qwen-image-edit-2511").model
    first = [x for x in model.layers if not x.name.startswith(f"{Q[:-2]}") or Q in x.name]
    assert net_of(model).repeated
    assert not net_of(replace(model, layers=tuple(first))).repeated
