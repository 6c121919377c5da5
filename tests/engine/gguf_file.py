"""GGUF files written here from the format's description, whole or with one fault, for tests."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fusequant.engine.ggml import BY_NAME, TYPES

IDS = {kind.name: number for number, kind in TYPES.items()}
GOLDEN = json.loads((Path(__file__).parent / "gguf_golden.json").read_text(encoding="utf-8"))

# name: (type, shape from the outermost side, bytes)
Stored = Mapping[str, tuple[str, tuple[int, ...], bytes]]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def fact(key: str | bytes, value: object) -> bytes:
    """One key and its value: text, a whole number, a list of int32 or of texts."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    assert isinstance(value, list)
    if value and isinstance(value[0], str):
        rest = b"".join(text(item) for item in value)
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + rest
    return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def entry(name: str | bytes, sides: tuple[int, ...], kind: int, offset: int) -> bytes:
    """One tensor's description; `sides` from the outermost."""
    numbers = struct.pack(f"<I{len(sides)}Q", len(sides), *reversed(sides))
    return text(name) + numbers + struct.pack("<IQ", kind, offset)


def gguf(
    facts: list[bytes], entries: list[bytes], data: bytes = b"", *, version: int = 3,
    alignment: int = 32,
) -> bytes:  # fmt: skip
    """A whole file: header, entries, padding, data."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(entries), len(facts))
    head += b"".join((*facts, *entries))
    return head + bytes(-len(head) % alignment) + data


def file_of(stored: Stored, facts: Mapping[str, object] | None = None) -> bytes:
    """The file that holds these tensors, one after another at multiples of 32."""
    entries, data = [], b""
    for name, (kind, shape, content) in stored.items():
        data += bytes(-len(data) % 32)
        entries.append(entry(name, shape, IDS[kind], len(data)))
        data += content
    told = {"general.architecture": "flux", "general.quantization_version": 2} | dict(facts or {})
    return gguf([fact(key, value) for key, value in told.items()], entries, data)


def q8_0(weight: torch.Tensor) -> bytes:
    """Blocks of 32: d = amax / 127 as float16, then round(w / d) as int8."""
    blocks = weight.reshape(-1, 32).float()
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    codes = (blocks / scale.float().clamp(min=1e-30)).round().clamp(-127, 127).to(torch.int8)
    return torch.cat((scale.view(torch.uint8), codes.view(torch.uint8)), 1).numpy().tobytes()


def q4_k(weight: torch.Tensor) -> bytes:
    """Blocks of 256: d * s * q - e * m for 32 numbers each, s and m of 6 bits, q of 4."""
    parts = weight.reshape(-1, 8, 32).float()
    least = (-parts.amin(2)).clamp(min=0)
    step = (parts.amax(2) + least).clamp(min=1e-12) / 15
    d, e = (x.amax(1, keepdim=True).div(63).half() for x in (step, least))
    s = (step / d.float()).round().clamp(0, 63)
    m = (least / e.float().clamp(min=1e-12)).round().clamp(0, 63)
    size, offset = (d.float() * s)[..., None], (e.float() * m)[..., None]
    codes = ((parts + offset) / size.clamp(min=1e-12)).round().clamp(0, 15).to(torch.uint8)
    s, m = s.to(torch.uint8), m.to(torch.uint8)
    packed = [s[:, :4] | (s[:, 4:] >> 4 << 6), m[:, :4] | (m[:, 4:] >> 4 << 6)]
    packed.append((s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4))
    pairs = codes.view(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    halves = [x.view(torch.uint8) for x in (d, e)]
    return torch.cat((*halves, *packed, nibbles), 1).numpy().tobytes()


ENCODE = {"Q8_0": q8_0, "Q4_K": q4_k}


def encoded(tensors: Mapping[str, torch.Tensor], kind: str, inside: str) -> dict[str, Any]:
    """Tensors as a file stores them: matrices with `inside` in their names in blocks."""
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        whole = tensor.dim() == 2 and tensor.shape[1] % BY_NAME[kind].elements == 0
        if whole and inside in name:
            found[name] = (kind, tuple(tensor.shape), ENCODE[kind](tensor))
        else:
            found[name] = numbers(tensor if tensor.dim() > 1 else tensor.float())
    return found


def numbers(weight: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """A plain tensor as it is stored."""
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[weight.dtype]
    data = weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return kind, tuple(weight.shape), data


def golden(kind: str) -> tuple[bytes, torch.Tensor]:
    """(blocks, the numbers that the gguf package makes of them) of a type that is decoded here."""
    blocks, values = (base64.b64decode(GOLDEN[kind][part]) for part in ("blocks", "values"))
    return blocks, torch.frombuffer(bytearray(values), dtype=torch.float32)


def filled(kind: str, shape: tuple[int, ...]) -> tuple[bytes, torch.Tensor]:
    """Golden blocks over and over until they fill a shape, and its numbers."""
    blocks, values = golden(kind)
    count = math.prod(shape)
    times = -(-count // values.numel())
    size = count // BY_NAME[kind].elements * BY_NAME[kind].size
    return (blocks * times)[:size], values.repeat(times)[:count].reshape(shape)
