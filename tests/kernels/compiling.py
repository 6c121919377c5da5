"""Our Triton kernels and a GPU's name in, what Triton compiles for it out; no GPU is needed."""

from __future__ import annotations

from typing import Any

from fusequant.kernels import product_tiles
from fusequant.kernels.product_tiles import BLOCK128, FP8, INT4, INT8, Tile

WARP = {"gfx9": 64, "gfx1": 32}
OPERANDS: dict[str, tuple[str, ...]] = {
    INT8: ("*i8", "*i8", "*fp32", "*fp32"),
    FP8: ("*fp8e4nv", "*fp8e4nv", "*fp32", "*fp32"),
    BLOCK128: ("*fp8e4nv", "*fp8e4nv", "*fp32", "*fp32"),
    INT4: ("*bf16", "*i8", "*bf16", "*bf16"),
}
QUANTIZED = ("int8", "e4m3 of layer_norm", "e4m3 per 128 of gelu_tanh", "int8 of silu")
DEQUANTIZED = ("int8", "e4m3", "e5m2")


def compiled(kernel: Any, arguments: dict[str, Any], arch: str, warps: int, stages: int) -> Any:
    """`arguments` maps each parameter to its type as text, or to (value,) for a constant."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {n: "constexpr" if isinstance(v, tuple) else v for n, v in arguments.items()}
    constants = {n: v[0] for n, v in arguments.items() if isinstance(v, tuple)}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(types.items())
        if kind.startswith("*") or name in ("inputs", "outputs", "rank")
    }
    amd = arch.startswith("gfx")
    target = (
        GPUTarget("hip", arch, WARP[arch[:4]])
        if amd
        else GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    )
    source = ASTSource(kernel, signature=types, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})


def product(kind: str, arch: str, tile: Tile, rank: int = 0) -> Any:
    """The kernel of a kind of product, with a bias, on a tile."""
    import triton.language as tl

    from fusequant.kernels.triton_kernels import fp8_block128, int4_group, row_scaled

    kernels = {
        INT8: row_scaled.row_scaled_product,
        FP8: row_scaled.row_scaled_product,
        BLOCK128: fp8_block128.block128_product,
        INT4: int4_group.int4_product,
    }
    constants: dict[str, Any] = {
        "block_rows": tile.rows, "block_outputs": tile.outputs, "has_bias": True,
        "block_rank": product_tiles.block_rank(rank), "compute": tl.bfloat16,
    }  # fmt: skip
    if kind in (INT8, FP8):
        constants |= {"per_output": True, "integer": kind == INT8, "block_inputs": tile.inputs}
    if kind == INT4:
        constants |= {"group": 128, "has_zeros": True, "block_inputs": tile.inputs}
    side = "*bf16" if rank else (None,)
    given = dict(
        zip(("bias", "middle", "up", "result"), ("*bf16", side, side, "*bf16"), strict=True)
    )
    names = kernels[kind].arg_names
    first = dict(zip(names, OPERANDS[kind], strict=False))
    sizes = dict.fromkeys(("rows", "outputs", "inputs", "rank"), "i32")
    known = {**first, **given, **sizes, **{n: (v,) for n, v in constants.items()}}
    arguments = {name: known[name] for name in names}
    return compiled(kernels[kind], arguments, arch, tile.warps, tile.stages)


def quantizer(what: str, arch: str, inputs: int = 3072) -> Any:
    """The kernel that quantizes bf16 rows, one of QUANTIZED."""
    from fusequant.kernels.triton_kernels import quantize

    block = 1 << (inputs - 1).bit_length()
    rows = product_tiles.rows_at_once(block)
    norm, integer = "layer_norm" in what, what.startswith("int8")
    types = {
        "x": "*bf16", "gain": "*fp32" if norm else (None,), "shift": "*fp32" if norm else (None,),
        "codes": "*i8" if integer else "*u8", "scales": "*fp32", "rows": "i32", "inputs": "i32",
        "epsilon": "fp32", "top": "fp32", "least_amax": "fp32", "least_scale": "fp32",
    }  # fmt: skip
    constants = {
        "group": 128 if "128" in what else block, "block_rows": rows, "block": block,
        "before": what.partition(" of ")[2] or "none", "has_gain": norm, "has_shift": norm,
        "integer": integer, "cast": arch in ("sm_89", "sm_90", "sm_100", "sm_120"),
    }  # fmt: skip
    arguments = {**types, **{name: (value,) for name, value in constants.items()}}
    warps = product_tiles.quantize_warps(block * rows, arch)
    return compiled(quantize.quantize_rows, arguments, arch, warps, 3)


def scaler(arch: str) -> Any:
    """The kernel that scales int32 sums to float16."""
    from fusequant.kernels.triton_kernels import scale_sums

    arguments = {
        "sums": "*i32", "x_scale": "*fp32", "scale": "*fp32", "bias": "*fp16", "result": "*fp16",
        "rows": "i32", "outputs": "i32", "block_rows": (4,), "block": (1024,),
        "per_output": (True,), "has_bias": (True,),
    }  # fmt: skip
    return compiled(scale_sums.scale_sums, arguments, arch, 4, 3)


def dequantizer(kind: str, arch: str) -> Any:
    """The kernel that widens codes to bf16."""
    from fusequant.kernels.triton_kernels import dequantize

    arguments = {
        "codes": "*i8" if kind == "int8" else "*u8", "scale": "*fp32", "result": "*bf16",
        "rows": "i32", "inputs": "i32", "block_rows": (4,), "block": (1024,), "kind": (kind,),
        "per_row": (True,),
    }  # fmt: skip
    return compiled(dequantize.dequantize_rows, arguments, arch, 4, 3)
