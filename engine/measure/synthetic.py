"""A config and a seed in, random but lifelike weights out: in memory or streamed to a file.

What is lifelike, so that schemes are told apart as on real models:
- the scale of an output row is log-normal (sigma 0.4): heavy tails, some rows 3 times the median;
- in every attention and MLP matrix 1 input channel of 512 (at least two) is 3 to 8 times larger;
- the modulation of each block raises 1 channel of 512 (at least two) of the activations 10 to 40
  times; the weights that read such a channel are smaller by the square root of that, as if trained.

All numbers come from one block of normal numbers per seed, which every tensor reads from an offset
of its own. The block's length is prime, so rows that meet the same numbers again meet them shifted.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path

import torch

from ..tensors import dtype_name
from .config import Config, FluxConfig, of_size

BLOCK_ELEMENTS = 4_194_301  # the largest prime under 2**22: 8 MB of bf16
SYNC_EVERY_BYTES = 128 << 20
OUTLIER_EVERY = 512
ROW_SIGMA = 0.4
GAIN, MODULATION_GAIN = 0.7, 0.1  # of outputs for inputs around 1: modulation is mostly its bias

Weights = dict[str, torch.Tensor]


def make_weights(config: Config, seed: int = 0) -> Weights:
    """{parameter name: bf16 tensor} of a whole model; the numbers of `write_flux_like`'s file."""
    block, lifelike = _block(seed), _Lifelike(config, seed)
    weights: Weights = {}
    for key, shape in config.shapes().items():
        weights[key] = torch.empty(shape, dtype=torch.bfloat16)
        flat, first = weights[key].view(-1), 0
        for rows in lifelike.rows(block, key, shape):
            flat[first : first + rows.numel()] = rows.reshape(-1)
            first += rows.numel()
    return weights


def write_flux_like(path: str | Path, size: int | FluxConfig, seed: int = 0) -> FluxConfig:
    """Write a bf16 safetensors file of a FLUX shape and return its config; about 30 MB of memory.

    `size` is a config, or the bytes that the parameters may take at most (see `config.of_size`).
    """
    config = size if isinstance(size, FluxConfig) else of_size(size)
    write_like(path, config, seed)
    return config


def write_like(path: str | Path, config: Config, seed: int = 0) -> None:
    """Write a bf16 safetensors file of a config's shape; about 30 MB of memory.

    Where the system allows it the file ends up outside the page cache.
    """
    shapes = config.shapes()
    block, lifelike = _block(seed), _Lifelike(config, seed)
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", buffering=0) as file:
            file.write(_header({key: ("BF16", shape) for key, shape in shapes.items()}))
            unsynced = 0
            for key, shape in shapes.items():
                for rows in lifelike.rows(block, key, shape):
                    _write(file, rows)
                    unsynced += 2 * rows.numel()
                    if unsynced >= SYNC_EVERY_BYTES:
                        _sync_and_drop(file)
                        unsynced = 0
            _sync_and_drop(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors that fit in memory as one safetensors file, in their order."""
    specs = {key: (dtype_name(t.dtype), tuple(t.shape)) for key, t in tensors.items()}
    with open(path, "wb", buffering=0) as file:
        file.write(_header(specs))
        for tensor in tensors.values():
            _write(file, tensor.contiguous())


def outlier_channels(inputs: int, key: str, seed: int) -> torch.Tensor:
    """The input channels of a matrix that stand out: int64, at least two, 1 of 512."""
    count = max(2, inputs // OUTLIER_EVERY)
    return torch.randperm(inputs, generator=generator(seed, f"{key}/outliers"))[:count]


def weight_rms(inputs: int) -> float:
    """Root mean square of the matrix of an attention or MLP layer, its larger channels aside."""
    return GAIN * math.exp(ROW_SIGMA**2) / math.sqrt(inputs)


def generator(seed: int, key: str) -> torch.Generator:
    """The random numbers that belong to one name."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{key}".encode()))


def _block(seed: int) -> torch.Tensor:
    """(2 * BLOCK_ELEMENTS,) bf16 standard normal numbers; the second half repeats the first."""
    block = torch.empty(2 * BLOCK_ELEMENTS, dtype=torch.bfloat16)
    source = generator(seed, "block")
    step = 1 << 18
    for first in range(0, BLOCK_ELEMENTS, step):
        last = min(first + step, BLOCK_ELEMENTS)
        block[first:last] = torch.randn(last - first, generator=source)
    block[BLOCK_ELEMENTS:] = block[:BLOCK_ELEMENTS]
    return block


class _Lifelike:
    """The numbers of every tensor of a model, from the block of normal numbers."""

    def __init__(self, config: Config, seed: int) -> None:
        self._hidden, self._seed = config.hidden, seed
        self._matrices, self._modulation = set(config.quantized()), set(config.modulation())
        self._raised = config.raised()
        # the layers that read raised activations, by the one whose name they are drawn from
        self._reads = {
            name: raised.layers[0]
            for found in self._raised.values()
            for raised in found
            for name in raised.layers
        }

    def rows(self, block: torch.Tensor, key: str, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
        """The tensor in runs of rows of at most 4 MB (a vector: whole), bf16, in one buffer."""
        if len(shape) == 1 or key.endswith("modulation"):
            yield self._vector(block, key, math.prod(shape))
            return
        n, k = shape[0], math.prod(shape[1:])
        name, seed = key.removesuffix(".weight"), self._seed
        gain = MODULATION_GAIN if name in self._modulation else GAIN
        rows = (torch.randn(n, 1, generator=generator(seed, f"{key}/rows")) * ROW_SIGMA).exp()
        rows = (rows * gain / math.sqrt(k)).to(torch.bfloat16)
        columns = self._columns(name, k).to(torch.bfloat16)
        offset = zlib.crc32(f"{seed}/{key}/offset".encode()) % BLOCK_ELEMENTS
        step = max(1, (1 << 21) // k)
        buffer = torch.empty(min(step, n), k, dtype=torch.bfloat16)
        for first in range(0, n, step):
            last = min(first + step, n)
            out = buffer[: last - first]
            at = (offset + first * k) % BLOCK_ELEMENTS
            torch.mul(block[at : at + out.numel()].view(-1, k), rows[first:last], out=out)
            yield out.mul_(columns)

    def _vector(self, block: torch.Tensor, key: str, size: int) -> torch.Tensor:
        """Norm scales around 1, biases around 0; in a modulation the activations' outliers."""
        at = zlib.crc32(f"{self._seed}/{key}/offset".encode()) % BLOCK_ELEMENTS
        noise = block[at : at + size].float()
        if key.endswith((".scale", ".weight")):
            return (1 + 0.1 * noise).to(torch.bfloat16)
        vector = 0.02 * noise
        if key in self._raised:
            runs = vector.view(-1, self._hidden)  # shift, scale, gate, and again for the MLP
            runs[2::3] += 0.3  # gates: every block adds to the stream
            for raised in self._raised[key]:
                channels, factors = self._activation_outliers(raised.layers[0])
                runs[raised.row][channels] = factors - 1
        return vector.to(torch.bfloat16)

    def _columns(self, name: str, inputs: int) -> torch.Tensor:
        """(inputs,) float32: the factor of each input channel of a matrix."""
        columns = torch.ones(inputs)
        if name not in self._matrices:
            return columns
        channels = outlier_channels(inputs, name, self._seed)
        spread = torch.rand(len(channels), generator=generator(self._seed, f"{name}/factors"))
        columns[channels] = 3 + 5 * spread
        if name in self._reads:
            channels, factors = self._activation_outliers(self._reads[name])
            columns[channels] = factors.rsqrt()
        return columns

    def _activation_outliers(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(channels, factors of 10 to 40) of the modulated activations that `name` reads."""
        channels = outlier_channels(self._hidden, f"{name}/activations", self._seed)
        source = generator(self._seed, f"{name}/activation-factors")
        return channels, 10 + 30 * torch.rand(len(channels), generator=source)


def _header(specs: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The safetensors header of tensors that follow one another, padded to 8 bytes."""
    entries: dict[str, object] = {}
    at = 0
    for key, (dtype, shape) in specs.items():
        size = math.prod(shape) * (4 if dtype == "F32" else 2)
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _sync_and_drop(file: RawIOBase) -> None:
    """Bring the file to the disk and out of the page cache.

    Using the same pages again is 2 to 5 times faster on a virtual machine, where the host has to
    find each fresh page first (measured with 4 GiB: 2.2 against 0.4 to 1.4 GB/s).
    """
    if hasattr(os, "fdatasync") and hasattr(os, "posix_fadvise"):
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write(file: RawIOBase, tensor: torch.Tensor) -> None:
    """All bytes of a contiguous CPU tensor; through its address, since numpy knows no bf16."""
    size = tensor.numel() * tensor.element_size()
    if not size:
        return
    view = memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")
    while view:
        view = view[file.write(view) or 0 :]
