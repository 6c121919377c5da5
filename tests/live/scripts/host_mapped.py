"""A model whose weights stay in the map of their file, beside the same model copied into memory."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(folder: str, large: str, lora: str, **files: str) -> Iterator[dict[str, Any]]:
    """A folder to write to, a file of some 100 MB, a LoRA and small files by name -> facts."""
    torch.set_num_threads(1)
    h = _models()
    with torch.inference_mode():
        yield _memory(large)
        for name, path in files.items():
            yield {"fact": "file", "name": name, **_beside_a_copy(h, path)}
        bfloat16 = files["bfloat16"]
        before = _digest(bfloat16)
        yield {"fact": "save", "equal": _saved(bfloat16, Path(folder))}
        yield {"fact": "lora", **_stock_lora(h, bfloat16, lora)}
        yield {"fact": "hook", **_hooked(h, bfloat16, lora)}
        yield {"fact": "merge", **_merged(h, bfloat16, files["other"])}
        yield {"fact": "placed", **_placed(h, bfloat16)}
        yield {"fact": "bytes of the file", "equal": _digest(bfloat16) == before}


def _mapped(path: str) -> Any:
    from fusequant.host.load import load_diffusion_model

    return load_diffusion_model(path)[0]


def _copied(path: str) -> Any:
    """The host's own copies, held in the dtype of the file as in ours."""
    import comfy.sd

    from fusequant.host.pristine import file_numbers

    return comfy.sd.load_diffusion_model(path, model_options={"dtype": file_numbers(path)[0]})


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _memory(large: str) -> dict[str, Any]:
    """Private bytes of a loaded model, and of the host's copies, by the size of its file."""
    from fusequant.engine.measure.timing import private_bytes

    def held(load: Any) -> float:
        gc.collect()
        before = private_bytes()
        kept = load(large)
        after = private_bytes()
        del kept
        return (after - before) / Path(large).stat().st_size

    held(_mapped)  # what the first load of a process leaves behind
    return {"fact": "memory", "mapped": held(_mapped), "copied": held(_copied)}


def _beside_a_copy(h: Any, path: str) -> dict[str, Any]:
    import comfy.sd

    mapped, copied = _mapped(path), _copied(path)
    stock = comfy.sd.load_diffusion_model(path)
    facts = {
        "size": mapped.model_size() == copied.model_size(),
        "shapes": _shapes(mapped) == _shapes(stock),
        "bits": h.same(h.state(mapped), h.state(copied)),
        "output": h.error(h.output(mapped), h.output(copied)),
        "stock": h.error(h.output(mapped), h.output(stock)),
        "factory": mapped.cached_patcher_init[0].__name__,
        "aligned": all(t.data_ptr() % t.itemsize == 0 for t in h.state(mapped).values()),
    }
    again = mapped.clone(force_deepcopy=True)
    return facts | {"again": h.error(h.output(again), h.output(mapped))}


def _shapes(patcher: Any) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in patcher.model.state_dict().items()}


def _saved(path: str, folder: Path) -> bool:
    """ModelSave writes the same file from the map and from a copy."""
    import comfy.sd

    ways = {"mapped": _mapped, "copied": _copied}
    for name, load in ways.items():
        comfy.sd.save_checkpoint(str(folder / f"{name}.saved.safetensors"), load(path))
    return len({_digest(str(folder / f"{name}.saved.safetensors")) for name in ways}) == 1


def _stock_lora(h: Any, path: str, lora: str) -> dict[str, Any]:
    """ComfyUI's LoRA loader: on, off again, and as LowVramPatch on weights that are not loaded."""
    import comfy.model_management

    mapped, copied = _mapped(path), _copied(path)
    plain = h.output(mapped)
    wanted = h.output(h.with_lora(copied, lora))
    with_lora = h.with_lora(mapped, lora)
    found = h.output(with_lora)
    comfy.model_management.unload_all_models()
    return {
        "changes": h.error(found, plain),
        "equal": torch.equal(found, wanted),
        "off": torch.equal(h.output(mapped), plain),
        "bits": h.same(h.state(mapped), h.state(_copied(path))),
    }


def _hooked(h: Any, path: str, lora: str) -> dict[str, Any]:
    """A LoRA hook, which the host writes into the parameters in place; then without it again."""
    import comfy.hooks
    import comfy.utils

    outputs = []
    for load in (_mapped, _copied):
        patcher = load(path)
        plain = h.output(patcher)
        hooks = comfy.hooks.create_hook_lora(comfy.utils.load_torch_file(lora), 1.0, 0.0)
        target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
        patcher.register_all_hook_patches(hooks, target)
        patcher.apply_hooks(hooks)
        hooked = h.call(patcher)
        patcher.apply_hooks(None)
        outputs.append((plain, hooked, h.call(patcher)))
    (plain, found, off), (_, wanted, _) = outputs
    return {
        "changes": h.error(found, plain),
        "equal": torch.equal(found, wanted),
        "off": torch.equal(off, plain),
    }


def _merged(h: Any, path: str, other: str) -> dict[str, Any]:
    """ModelMergeSimple of two models, either of them from a map."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    def merge(load: Any) -> tuple[Any, Any]:
        first, second = load(path), load(other)
        return h.output(ModelMergeSimple().merge(first, second, 0.25)[0]), h.output(second)

    found, second = merge(_mapped)
    wanted, _ = merge(_copied)
    return {
        "equal": torch.equal(found, wanted),
        "changes": min(h.error(found, second), h.error(found, h.output(_mapped(path)))),
    }


def _placed(h: Any, path: str) -> dict[str, Any]:
    """Loaded in part, placed on a device by ComfyUI's node, compiled."""
    import comfy.model_management
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode

    patcher = _mapped(path)
    wanted = h.output(patcher)
    cpu = torch.device("cpu")
    patcher.partially_unload(cpu, patcher.model_size() // 2)
    half = h.output(patcher)
    patcher.detach()
    patcher.partially_load(cpu, patcher.model_size() // 3)
    third = h.output(patcher)
    selected = SelectModelDeviceNode.execute(patcher, "cpu").result[0]
    compiled = patcher.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend="eager")
    found = {"half": half, "third": third, "selected": h.output(selected)}
    found["compiled"] = h.output(compiled)
    comfy.model_management.unload_all_models()
    return {name: h.error(output, wanted) for name, output in found.items()}
