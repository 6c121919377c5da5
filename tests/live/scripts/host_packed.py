"""int8 weights packed inside ComfyUI on a CPU made to look able, by a tiny FLUX: facts.

oneDNN's sums may overflow on such a CPU: what multiplies packed codes is exact here, and counts.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

Lines = Iterator[dict[str, Any]]
calls: Counter[str] = Counter()


def _script(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, lora: str, folder: str) -> Lines:
    """The file of a FLUX, a LoRA for it and an output folder -> facts."""
    import comfy.sd
    import folder_paths

    torch.set_num_threads(1)
    folder_paths.set_output_directory(folder)
    h, sample = _script("host_models"), _script("host_sampling")._sample
    _able()
    source = comfy.sd.load_diffusion_model(model)
    with torch.inference_mode():
        for scheme in ("int8", "int8_convrot"):
            yield from _sampled(source, scheme, sample)
        yield from _saved(source, folder, sample)
        yield from _predicted(source, folder, sample)
        yield from _patched(h, source, lora, folder)
        yield from _live(h, source, lora)
        yield from _again(h, source)
    yield from _compiled(h, source)


def _able() -> None:
    from fusequant.host import packed
    from fusequant.kernels import cpu, registry
    from fusequant.kernels.backends import onednn

    def product(weight: torch.Tensor, *more: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        calls["products"] += 1
        rows = weight.to_dense().double()  # (K, N)
        scale = more[0].double().reshape(1, -1) if more else 1.0
        return lambda codes: ((codes.double() @ rows) * scale).float()

    unpack = packed.ops.unpack_int8

    def counted(weight: torch.Tensor) -> torch.Tensor:
        calls["unpacked"] += weight.is_mkldnn
        return unpack(weight)

    cpu.features = lambda: frozenset({"avx2", "avx512_vnni"})
    onednn.inexact = lambda: None
    onednn.packed_product = product
    packed.ops.unpack_int8 = counted
    registry.refusal.cache_clear()


@contextmanager
def _rows() -> Iterator[None]:
    """Models made inside hold rows."""
    from fusequant.host import packed

    before, packed.LEAST = packed.LEAST, 1 << 30
    try:
        yield
    finally:
        packed.LEAST = before


def _quantized(source: Any, scheme: str = "int8") -> Any:
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(source, Request(scheme, cache="off"))[0]


def _weights(patcher: Any) -> list[Any]:
    from comfy_kitchen.tensor import QuantizedTensor

    return [w for m in patcher.model.modules()
            if isinstance(w := getattr(m, "weight", None), QuantizedTensor)]  # fmt: skip


def _packed(patcher: Any) -> int:
    """How many weights lie in oneDNN's order."""
    places = [getattr(weight._qdata, "place", None) for weight in _weights(patcher)]
    return sum(place is not None and place.tensor.is_mkldnn for place in places)


def _storages(patcher: Any) -> list[StorageWeakRef]:
    """The memory of the rows, without keeping it."""
    places = [weight._qdata.place for weight in _weights(patcher)]
    return [StorageWeakRef(place.tensor.untyped_storage()) for place in places]


def _sampled(source: Any, scheme: str, sample: Callable[[Any], Any]) -> Lines:
    made = _quantized(source, scheme)
    with _rows():
        rows = _quantized(source, scheme)
    wanted, before, size = sample(rows), _packed(made), made.model_size()
    calls.clear()
    storages = _storages(made)
    found = sample(made)
    products = calls["products"]
    calls.clear()
    made.size = 0  # asked again, as of a clone that nobody has asked
    yield {
        "fact": "sampled", "scheme": scheme, "layers": len(_weights(made)), "before": before,
        "packed": _packed(made), "rows": _packed(rows), "products": products,
        "freed": sum(storage.expired() for storage in storages),
        "error": float((found - wanted).norm() / wanted.norm()),
        "size": made.model_size() == size == rows.model_size(),
    }  # fmt: skip
    again = sample(made.clone())
    yield {"fact": "sampled again", "scheme": scheme, "same": torch.equal(again, found),
           "unpacked": calls["unpacked"]}  # fmt: skip


def _saved(source: Any, folder: str, sample: Callable[[Any], Any]) -> Lines:
    """Files written before and after sampling, by us and by the host."""
    import comfy.sd

    from fusequant.host.load import load_diffusion_model
    from fusequant.host.save import save_model

    made = _quantized(source)
    paths: dict[str, Path] = {"fresh": save_model(made, "saved/fresh")[0]}
    unsampled = _packed(made)
    first = sample(made)
    paths["packed"] = save_model(made, "saved/packed")[0]
    paths["core"] = Path(folder) / "core.safetensors"
    comfy.sd.save_checkpoint(str(paths["core"]), made)
    loaded = load_diffusion_model(paths["fresh"])[0]
    stored = {"before": _packed(loaded), "same": torch.equal(sample(loaded), first),
              "packed": _packed(loaded)}  # fmt: skip
    yield {"fact": "loaded", **stored}
    yield {"fact": "saved", "unsampled": unsampled, "packed": _packed(made),
           "paths": {name: str(path) for name, path in paths.items()}}  # fmt: skip


def _predicted(source: Any, folder: str, sample: Callable[[Any], Any]) -> Lines:
    """What VRAM Manager says of packing: a file, the same again, one compiled, one in memory."""
    from fusequant.host import memory
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.speed import speed_up

    (path,) = Path(folder, "saved").glob("fresh*.safetensors")
    fresh, other = (load_diffusion_model(path)[0] for _ in range(2))
    compiled = speed_up(other, compiler="aot_eager")[0]
    told = []
    for patcher in (fresh, fresh, compiled, _quantized(source)):
        managed, _ = memory.manage(patcher, memory.asked("auto", None, None))
        sample(managed)
        told.append(memory.measured(managed).runs[-1].parts.get("packed weights", 0))
    yield {"fact": "predicted", "told": told, "rows": sum(w.nbytes for w in _weights(fresh))}


def _patched(h: Any, source: Any, lora: str, folder: str) -> Lines:
    """A LoRA of the host onto packed weights and off again, by another clone."""
    import comfy.sd
    import comfy.utils

    made = _quantized(source)
    with _rows():
        rows = _quantized(source)
    first = h.output(made)
    wanted = dict(made.model.diffusion_model.state_dict())
    wanted = {key: value.detach().contiguous().clone() for key, value in wanted.items()}
    found = []
    for patcher in (made, rows):
        state = comfy.utils.load_torch_file(lora)
        with_lora, _ = comfy.sd.load_lora_for_models(patcher, None, state, 1.0, 0.0)
        found.append(h.output(with_lora))
        name = f"patched-{len(found)}.safetensors"
        comfy.sd.save_checkpoint(str(Path(folder) / name), with_lora)
    calls.clear()
    patched = _packed(made)
    back = h.output(made)
    yield {
        "fact": "patched", "layers": len(_weights(made)), "packed": patched,
        "error": h.error(*found), "changed": h.error(found[0], first),
        "back": torch.equal(back, first), "restored": _packed(made), "products": calls["products"],
        "state": h.same(h.state(made), wanted),
    }  # fmt: skip


def _live(h: Any, source: Any, lora: str) -> Lines:
    """Live LoRA over packed weights, and over weights that it packs for the model before it."""
    from fusequant.host.live_lora import add_live_loras
    from fusequant.host.lora_match import Lora

    for first in (True, False):
        made = _quantized(source)
        with _rows():
            rows = _quantized(source)
        plain = h.output(made) if first else None
        live, _ = add_live_loras(made, [Lora(Path(lora), 1.0)])
        before = _packed(made)
        calls.clear()
        found = h.output(live)
        products = calls["products"]
        wanted = h.output(add_live_loras(rows, [Lora(Path(lora), 1.0)])[0])
        shared = {id(w._qdata.place) for w in _weights(made)}
        yield {
            "fact": "live", "first": first, "layers": len(_weights(live)), "before": before,
            "products": products, "error": h.error(found, wanted),
            "packed": [_packed(made), _packed(live)],
            "shared": shared == {id(w._qdata.place) for w in _weights(live)},
            "upstream": plain is None or torch.equal(h.output(made), plain),
        }  # fmt: skip


def _again(h: Any, source: Any) -> Lines:
    """Unloaded, loaded again, and quantized into another scheme."""
    import comfy.model_management as management

    made = _quantized(source)
    first = h.output(made)
    management.unload_all_models()
    same = torch.equal(h.output(made), first)
    other, wanted = _quantized(made, "fp8_row"), _quantized(source, "fp8_row")
    yield {"fact": "again", "same": same, "packed": _packed(made),
           "other": h.error(h.output(other), h.output(wanted))}  # fmt: skip


def _compiled(h: Any, source: Any) -> Lines:
    """A model that was sampled, then compiled: its weights are rows again."""
    from fusequant.host.speed import speed_up

    made = _quantized(source)
    plain = h.output(made)
    before = _packed(made)
    found = h.output(speed_up(made, compiler="aot_eager")[0])
    yield {"fact": "compiled", "before": before, "error": h.error(found, plain),
           "after": h.error(h.output(made), plain)}  # fmt: skip
