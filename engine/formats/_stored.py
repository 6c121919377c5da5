"""What another tool stores for a weight in, its layer out: in a scheme of ours, or for a codec."""

from __future__ import annotations

from collections.abc import Mapping

from ..bits import BITS, all_zero, values
from ..layer import Layer, Part
from ..tensors import TensorSpec
from ._layers import SCHEMES, Reading
from ._scales import check_grid, check_numbers, fit

HALVES = ("BF16", "F16")
CODES = ("I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FULL = {"full_precision_matrix_mult": True}  # the tool leaves activations as they are
ROW_SCALES = ("row", "row-flat", "tensor")
ACTIVATION_SCALES = ("input_scale", "output_scale")
MANY = 1 << 16  # scales that are no longer looked at one by one


def name_of(key: str) -> str:
    """A parameter's module."""
    return key.removesuffix(".weight")


def needed(reading: Reading, key: str, *names: str) -> list[TensorSpec]:
    """The tensors that a weight cannot be read without; where one is missing it is told: none."""
    tensors = reading.source.tensors
    absent = [name for name in names if name not in tensors]
    reading.used.update(name for name in names if name in tensors)
    for name in absent:
        reading.tell("codes-without-scale", f"no {name}", name_of(key))
    return [] if absent else [tensors[name] for name in names]


def check_scales(reading: Reading, key: str, *grids: TensorSpec) -> None:
    """Tell what is wrong with the numbers of scales."""
    for grid in grids:
        check = check_numbers if grid.elements <= MANY else check_grid
        reading.problems += check(reading.source, grid, name_of(key))


def check_finite(reading: Reading, key: str, *grids: TensorSpec) -> None:
    """Tell NaN and infinity among numbers that may be negative or zero."""
    for grid in grids:
        reading.problems += check_grid(reading.source, grid, name_of(key))


def coded(
    reading: Reading, key: str, shape: tuple[int, ...], codec: str, tensors: Mapping[str, str],
    settings: Mapping[str, object], dtype: str,
) -> None:  # fmt: skip
    """List a weight of logical `shape` that a codec reads."""
    reading.add(Layer(key, shape, dtype, (Part(codec, tensors, settings, view=shape),)))


def dtype_of(reading: Reading, scale: TensorSpec) -> str:
    """The logical dtype of codes: that of their scale where it has 16 bits, else the file's."""
    return scale.dtype if scale.dtype in HALVES else reading.dtype


def eight_bits(
    reading: Reading, key: str, weight: TensorSpec, scale: TensorSpec, *,
    zeros: TensorSpec | None = None, columns: TensorSpec | None = None,
    dtype: str | None = None, weight_only: bool = True, bits: int = 8,
) -> None:  # fmt: skip
    """List codes of a byte each (n, k) by the spread of their scale.

    `zeros` are zero points like the scale, `columns` a factor for each input; `bits` is how much of
    a byte the codes use.
    """
    check_scales(reading, key, scale)
    if weight.dtype not in CODES:
        found = f"{weight.name} of dtype {weight.dtype}"
        reading.tell("codes-shape", f"{found} where a code of a byte is stored", name_of(key))
    found = dtype or dtype_of(reading, scale)
    if zeros is not None and all_zero(reading.source, zeros):
        reading.used.add(zeros.name)
        zeros = None
    spread = fit(weight, scale)
    plain = zeros is None and columns is None
    if plain and bits == 8 and spread in (*ROW_SCALES, "block128"):
        scheme = SCHEMES.get((weight.dtype, spread.removesuffix("-flat")))
        if scheme is not None:
            settings: dict[str, object] = dict(FULL) if weight_only else {}
            scheme = "int8_weight_only" if weight_only and scheme == "int8" else scheme
            if scheme == "fp8_block128":
                settings["group_size"] = 128
            tensors = {"weight": weight.name, "scale": scale.name}
            part = Part(scheme, tensors, settings)
            reading.add(Layer(key, weight.shape, found, (part,)))
            return
    _on_a_grid(reading, key, weight, scale, zeros, columns, found, bits)


def _on_a_grid(
    reading: Reading, key: str, weight: TensorSpec, scale: TensorSpec, zeros: TensorSpec | None,
    columns: TensorSpec | None, dtype: str, bits: int,
) -> None:  # fmt: skip
    """List codes whose scales lie on a grid of blocks."""
    shape = weight.shape
    grid = scale.shape if scale.elements > 1 else (1, 1)
    grid = (*grid, 1) if len(grid) == 1 else grid
    fits = len(shape) == 2 and len(grid) == 2 and all(grid)
    fits = fits and not any(side % count for side, count in zip(shape, grid, strict=True))
    same = zeros is None or zeros.elements == scale.elements
    if not fits or not same or (columns is not None and columns.elements != shape[1]):
        others = [x for x in (scale, zeros, columns) if x is not None]
        found = ", ".join(f"{x.name} {list(x.shape)}" for x in others)
        reading.tell("scale-shape", f"{found} for a weight {list(shape)}", name_of(key))
        grid = (1, 1)
        shape = (*shape, 1, 1)[:2]
    tensors = {"weight": weight.name, "scale": scale.name}
    tensors |= {"zeros": zeros.name} if zeros is not None else {}
    tensors |= {"columns": columns.name} if columns is not None else {}
    settings = {
        "rows": max(1, shape[0] // grid[0]),
        **grouping(bits, max(1, shape[1] // grid[1]), shape[1], scale),
        "centered": weight.dtype == "I8"
        and zeros is None
        and columns is None
        and grid[0] == shape[0],
    }
    coded(reading, key, weight.shape, "scaled_blocks", tensors, settings, dtype)


def grouping(bits: int, group: int, inputs: int, scale: TensorSpec) -> dict[str, object]:
    """The settings of codes in groups that say where else they can live."""
    return {"bits": bits, "group": group, "inputs": inputs, "scale": scale.dtype}


def leave_activations(reading: Reading, leaves: tuple[str, ...] = ACTIVATION_SCALES) -> None:
    """Leave out the scales of activations; one that was calibrated is told."""
    for name, module in reading.modules.items():
        for leaf in leaves:
            spec = module.get(leaf)
            if spec is None:
                continue
            reading.used.add(spec.name)
            small = spec.dtype in BITS and spec.elements <= MANY
            if not small or set(values(reading.source, spec)) != {1.0}:
                reading.tell("activation-scales-unread", f"{spec.name} other than 1", name)


def expect(reading: Reading, key: str, spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has the shape that its weight asks for; else it is told."""
    if spec.shape == shape:
        return True
    found = f"{spec.name} {list(spec.shape)} where {list(shape)} fits"
    reading.tell("scale-shape", found, name_of(key))
    return False
