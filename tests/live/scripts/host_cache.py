"""The cache of Quantize Model inside ComfyUI on a tiny FLUX: one line of facts a question."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

SCHEMES = (
    "fp8", "int8", "int8_convrot", "fp8_row", "int4_g128", "mxfp8", "nvfp4", "w4a4_convrot", "w4a8",
)  # fmt: skip
Lines = Iterator[dict[str, Any]]


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, lora: str, folder: str) -> Lines:
    """The file of a FLUX, a LoRA for it and a user folder -> facts."""
    import comfy.sd
    import folder_paths

    torch.set_num_threads(1)
    folder_paths.set_user_directory(folder)
    h = _models()
    source = comfy.sd.load_diffusion_model(model)
    patched = h.with_lora(source, lora)
    reference = h.output(source)
    with torch.inference_mode():
        yield from _schemes(h, source, patched)
        yield from _strengths(h, source, lora)
        yield from _damage(h, patched)
        yield from _gone(h, patched)
        yield from _limits(h, patched, Path(folder))
        yield from _not_cached(h, source, lora)
    yield {"fact": "upstream", "same": torch.equal(h.output(source), reference)}


def _quantize(patcher: Any, scheme: str, policy: str = "on", **more: Any) -> Any:
    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(patcher, Request(scheme, cache=policy, **more))


def _files() -> list[Path]:
    from fusequant.host.paths import cache_folder

    return sorted(path for path in cache_folder().iterdir() if path.is_file())


def _empty() -> None:
    for path in _files():
        path.unlink()


def _numbers(h: Any, patcher: Any) -> dict[str, torch.Tensor]:
    """Every stored tensor; plain ones as float32, whatever they are held in."""
    wide = (torch.bfloat16, torch.float16)
    return {name: t.float() if t.dtype in wide else t for name, t in h.state(patcher).items()}


def _schemes(h: Any, source: Any, patched: Any) -> Lines:
    """With and without a LoRA: the bits of quantizing in memory, then a load of the same file."""
    for fact, patcher in (("plain", source), ("fused", patched)):
        for scheme in SCHEMES:
            wanted, memory = _quantize(patcher, scheme, "off")
            first, wrote = _quantize(patcher, scheme)
            inode = {path: path.stat().st_ino for path in _files()}
            second, read = _quantize(patcher, scheme)
            copy = second.clone(force_deepcopy=True)
            yield {
                "fact": fact, "scheme": scheme, "first": wrote.text(), "second": read.text(),
                "bits": h.same(_numbers(h, first), _numbers(h, wanted)),
                "again": h.same(h.state(second), h.state(first)),
                "rebuilt": h.same(h.state(copy), h.state(first)),
                "output": h.error(h.output(second), h.output(wanted)),
                "same_file": inode == {path: path.stat().st_ino for path in _files()},
                "layers": [memory.quantized, wrote.quantized, read.quantized],
                "loras": [memory.fused, wrote.fused, read.fused, len(second.patches)],
            }  # fmt: skip
            _empty()


def _strengths(h: Any, source: Any, lora: str) -> Lines:
    """Another strength is another file, and the report proposes Live LoRA."""
    _, first = _quantize(h.with_lora(source, lora, 0.5), "int8")
    _, second = _quantize(h.with_lora(source, lora, 0.75), "int8")
    _, back = _quantize(h.with_lora(source, lora, 0.5), "int8")
    yield {"fact": "strength", "files": len(_files()), "first": first.text(),
           "second": second.text(), "back": back.text()}  # fmt: skip
    again = _quantize(_quantize(h.with_lora(source, lora, 0.5), "int8")[0], "fp8")[0]
    wanted = _quantize(h.with_lora(source, lora, 0.5), "fp8", "off")[0]
    late = _quantize(h.with_lora(_quantize(source, "int8")[0], lora, 0.5), "fp8", "off")[0]
    yield {"fact": "quantized again", "bits": h.same(_numbers(h, again), _numbers(h, wanted)),
           "late": h.same(h.state(late), h.state(wanted))}  # fmt: skip
    _empty()


def _damage(h: Any, patched: Any) -> Lines:
    """A damaged file is made again."""
    wanted = h.state(_quantize(patched, "int8")[0])
    wanted = {name: tensor.clone() for name, tensor in wanted.items()}
    whole = _files()[0].read_bytes()
    for how, data in (
        ("cut", whole[: len(whole) // 2]), ("header", b"\xff" * 64 + whole[64:]),
        ("longer", whole + b"\0" * 4096), ("empty", b""),
    ):  # fmt: skip
        target = _files()[0]
        target.unlink()
        target.write_bytes(data)
        made, report = _quantize(patched, "int8")
        yield {"fact": "damaged", "how": how, "bits": h.same(h.state(made), wanted),
               "whole": _files()[0].read_bytes() == whole, "text": report.text()}  # fmt: skip


def _gone(h: Any, patched: Any) -> Lines:
    """A model whose file was removed still makes fresh copies of itself."""
    made, _ = _quantize(patched, "int8")
    wanted = h.output(made)
    _empty()
    copy = made.clone(force_deepcopy=True)
    yield {"fact": "removed", "output": h.error(h.output(copy), wanted)}


def _limits(h: Any, patched: Any, folder: Path) -> Lines:
    """The file used longest ago goes first; what can never fit is made in memory."""
    from fusequant.host import cache

    _empty()
    sizes = []
    for at, scheme in enumerate(("int8", "fp8", "int8_convrot")):
        _quantize(patched, scheme)
        newest = next(path for path in _files() if path.stat().st_mtime > 1e9)
        sizes.append(newest.stat().st_size)
        os.utime(newest, (1000 + at, 1000 + at))
    before = _files()
    _quantize(patched, "int8")  # used now: fp8 is the oldest from here on
    cache.MAX_BYTES = sum(sizes) + 100_000
    _quantize(patched, "fp8_row")
    held = _files()
    gone = [path for path in before if path not in held]
    texts = {_quantize(patched, scheme)[1].text() for scheme in ("int8", "fp8_row")}
    yield {"fact": "limit", "gone": len(gone), "held": sum(p.stat().st_size for p in held),
           "limit": cache.MAX_BYTES, "texts": sorted(texts)}  # fmt: skip
    cache.MAX_BYTES = 1000
    _, report = _quantize(patched, "int4_g128")
    yield {"fact": "too large", "text": report.text(), "layers": report.quantized,
           "files": len(_files())}  # fmt: skip
    cache.MAX_BYTES = 60 * 10**9


def _not_cached(h: Any, source: Any, lora: str) -> Lines:
    """Small models by default, patches without content, a damaged LoRA, an interrupt."""
    import comfy.model_management

    _empty()
    _, report = _quantize(source, "int8", "auto")
    yield {"fact": "auto", "files": len(_files()), "text": report.text()}
    merged = source.clone()
    theirs = source.get_key_patches("diffusion_model.double_blocks.0.img_attn.qkv.weight")
    merged.add_patches(theirs, 0.5, 0.5)
    _, report = _quantize(merged, "int8")
    yield {"fact": "merge", "files": len(_files()), "text": report.text()}
    broken = source.clone()
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    broken.patches = {key: [(1.0, ("diff", (torch.full((768, 256), float("nan")),)), 1.0, None,
                             None)]}  # fmt: skip
    _, report = _quantize(broken, "int8")
    yield {"fact": "nan", "files": len(_files()), "text": report.text(),
           "warnings": len(report.warnings)}  # fmt: skip
    for patcher in (source, h.with_lora(source, lora)):
        comfy.model_management.interrupt_current_processing()
        try:
            _quantize(patcher, "int8")
            raised = None
        except comfy.model_management.InterruptProcessingException as stopped:
            raised = type(stopped).__name__
        yield {"fact": "interrupt", "raised": raised, "files": len(_files()),
               "threads": torch.get_num_threads()}  # fmt: skip
    logging.getLogger().setLevel(logging.INFO)
