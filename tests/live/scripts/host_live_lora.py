"""Live LoRA inside ComfyUI on a tiny FLUX and Wan: one line of facts for each question."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

BLOCKS = ("mxfp8", "nvfp4", "w4a4_convrot", "w4a8")
CORE = ("fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only", *BLOCKS)
OWN = ("fp8_row", "fp8_block128", "int4_g128")
LAYER = "double_blocks.0.img_attn.qkv"


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(**files: str) -> Iterator[dict[str, Any]]:
    """The files of models and LoRAs, by name -> facts."""
    import comfy.model_management
    import comfy.sd
    import comfy_extras.nodes_model_merging  # noqa: F401  what a server has loaded

    torch.set_num_threads(1)
    h = _models()
    source = comfy.sd.load_diffusion_model(files["flux"])
    _quantized(source, "fp8_row")  # our own layouts are there from here on
    before = h.host_objects()
    with torch.inference_mode():
        yield from _schemes(h, source, files)
        yield from _stacked(h, source, files)
        yield from _speed(h, source, files)
        yield from _input_quantized(h, source, files)
        yield from _gathered(h, source, files)
        yield from _foreign(h, source, files)
        yield from _others(h, source, files)
        yield from _wan(h, files)
    yield from _outside(h, source, files)
    after = h.host_objects()
    changed = [name for name, found in before.items() if after.get(name) != found]
    yield {"fact": "host untouched", "changed": changed}


def _quantized(patcher: Any, scheme: str, **more: Any) -> Any:
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(patcher, Request(scheme, **more))[0]


def _live(patcher: Any, *loras: tuple[str, float], rslora: bool = False) -> Any:
    from fusequant.host.live_lora import add_live_loras
    from fusequant.host.lora_match import Lora

    return add_live_loras(patcher, [Lora(Path(path), s, rslora) for path, s in loras])


def _layers(patcher: Any) -> dict[str, Any]:
    from fusequant.host.live_layouts import is_live

    return {
        name: module
        for name, module in patcher.model.diffusion_model.named_modules()
        if is_live(getattr(module, "weight", None))
    }


def _worst(base: Any, live: Any, deltas: dict[str, torch.Tensor]) -> float:
    """The largest error of a live layer against its base layer plus the delta on its input."""
    worst, generator = 0.0, torch.Generator().manual_seed(1)
    for name, module in _layers(live).items():
        x = torch.randn((5, module.in_features), generator=generator)
        wanted = base.model.diffusion_model.get_submodule(name)(x) + x @ deltas[name].T
        worst = max(worst, float((module(x) - wanted).norm() / wanted.norm()))
    return worst


def _deltas(model: str, strength: float = 1.0, **more: Any) -> dict[str, torch.Tensor]:
    import tiny

    made = tiny.deltas(Path(model), **more)
    return {name: strength * s * (up @ down) for name, (down, up, s) in made.items()}


def _schemes(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every scheme: each layer, the whole model, clone, partial load, rebuild, core LoRA on top."""
    import comfy.model_management
    import comfy.sd

    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.lora_match import Lora

    one = _deltas(files["flux"], 0.8)
    for scheme in (*CORE, *OWN):
        base = _quantized(source, scheme)
        plain, bits = h.output(base), {k: v.clone() for k, v in h.state(base).items()}
        live, report = _live(base, (files["lora"], 0.8))
        output = h.output(live)
        fused = fuse_loras(source, [Lora(Path(files["lora"]), 0.8)])[0]
        wanted = h.output(fused)
        part = live.clone()
        part.partially_load(torch.device("cpu"), extra_memory=1 << 20)
        partly = h.output(part)
        top = h.with_lora(live, files["lora"], -0.8)
        comfy.model_management.load_models_gpu([top])
        layouts = {module.weight._layout_cls for module in _layers(top).values()}
        cancelled = h.error(h.weight(top, LAYER), h.weight(base, LAYER))
        top.unpatch_model()
        path = f"{files['folder']}/live.safetensors"
        comfy.sd.save_checkpoint(path, live)
        stock = scheme not in OWN
        saved = comfy.sd.load_diffusion_model(path) if stock else base
        yield {
            "fact": "scheme", "scheme": scheme, "layers": len(_layers(live)),
            "worst": _worst(base, live, one), "change": h.error(output, plain),
            "fused": h.error(output, wanted), "clone": torch.equal(h.output(live.clone()), output),
            "partly": torch.equal(partly, output), "quantization": h.error(plain, h.output(source)),
            "rebuilt": torch.equal(h.output(live.clone(force_deepcopy=True)), output),
            "upstream": torch.equal(h.output(base), plain) and h.same(h.state(base), bits),
            "cancelled": cancelled, "layouts": sorted(layouts), "text": report.text(),
            "saved": h.error(h.output(saved), plain), "size": live.model_size() - base.model_size(),
        }  # fmt: skip


def _stacked(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Two LoRAs, in one node or two; other spellings; strengths 0 and below."""
    first, second = _deltas(files["flux"], 0.7), _deltas(files["flux"], -0.4, seed=5)
    both = {name: first[name] + second[name] for name in first}
    base = _quantized(source, "int8")
    pair = ((files["lora"], 0.7), (files["other"], -0.4))
    together = _live(base, *pair)[0]
    apart = _live(_live(base, pair[0])[0], pair[1])[0]
    yield {
        "fact": "stacked", "worst": _worst(base, together, both),
        "apart": torch.equal(h.output(apart), h.output(together)),
        "rebuilt": torch.equal(h.output(apart.clone(force_deepcopy=True)), h.output(apart)),
        "classes": len({type(m).__mro__ for m in _layers(apart).values()}),
    }  # fmt: skip
    alone = h.output(_live(base, (files["lora"], 0.7))[0])
    for name in ("diffusers", "kohya"):
        live, _ = _live(base, (files[name], 0.7))
        yield {"fact": "spelling", "name": name, "worst": _worst(base, live, first),
               "output": h.error(h.output(live), alone)}  # fmt: skip
    busy = h.with_lora(base, files["lora"])
    h.output(busy)  # the module that both share carries the other LoRA now
    hooked = _bypassed(base, files["other"])
    hooked.inject_model()
    patched = bool(base.backup) and "forward" in vars(
        base.model.diffusion_model.get_submodule(LAYER)
    )
    meanwhile = _live(base, pair[0])[0]
    hooked.eject_model()
    busy.unpatch_model()
    yield {
        "fact": "meanwhile",
        "patched": patched,
        "equal": torch.equal(h.output(meanwhile), alone),
    }
    zero, report = _live(base, (files["lora"], 0.0))
    yield {"fact": "zero", "equal": torch.equal(h.output(zero), h.output(base)),
           "layers": len(_layers(zero)), "text": report.text()}  # fmt: skip
    scaled = {name: delta * 2.5 / 4 for name, delta in first.items()}
    stabilised = {name: delta * 2.5 / 2 for name, delta in first.items()}
    for rslora, wanted in ((False, scaled), (True, stabilised)):
        live, _ = _live(base, (files["alpha"], 0.7), rslora=rslora)
        yield {"fact": "alpha", "rslora": rslora, "worst": _worst(base, live, wanted)}


def _speed(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A change of strength: how long it takes, and that the codes are the same memory."""
    base = _quantized(source, "int8")
    pointers = {n: m.weight._qdata.data_ptr() for n, m in base.model.named_modules()
                if hasattr(getattr(m, "weight", None), "_qdata")}  # fmt: skip
    _live(base, (files["lora"], 1.0))
    with h.Counted() as counted:
        started = time.process_time()
        live, _ = _live(base, (files["lora"], 0.5))
        seconds = time.process_time() - started
    same = [m.weight._qdata.data_ptr() == pointers[n] for n, m in live.model.named_modules()
            if n in pointers]  # fmt: skip
    yield {"fact": "speed", "seconds": seconds, "pointers": all(same) and len(same) > 20,
           "quantized": len(counted.layers)}  # fmt: skip


def _input_quantized(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """fp8 where the host quantizes the input, as on CUDA: the branch is not lost."""
    deltas = _deltas(files["flux"], 1.0)
    for scheme in ("fp8", "fp8_e5m2"):
        base = _quantized(source, scheme, backend="kitchen")
        for module in base.model.modules():
            if hasattr(module, "quant_format"):
                module._full_precision_mm = False
        live, _ = _live(base, (files["lora"], 1.0))
        formats = {module.quant_format for module in _layers(live).values()}
        yield {"fact": "input quantized", "scheme": scheme, "formats": sorted(formats),
               "quantized": all(m.weight._params.quantize_input for m in _layers(live).values()),
               "worst": _worst(base, live, deltas)}  # fmt: skip


def _gathered(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A live weight in one buffer of bytes, as dynamic VRAM and offloading hold it."""
    from comfy.memory_management import interpret_gathered_like, vram_aligned_size

    for scheme in ("fp8", "int8", *OWN):
        live, _ = _live(_quantized(source, scheme), (files["lora"], 0.8))
        module = live.model.diffusion_model.get_submodule(LAYER)
        buffer = torch.zeros(vram_aligned_size([module.weight]), dtype=torch.uint8)
        held = interpret_gathered_like([module.weight], buffer)[0]
        held.copy_(module.weight)
        x = torch.randn(3, module.in_features, generator=torch.Generator().manual_seed(0))
        wanted = torch.nn.functional.linear(x, module.weight)
        equal = torch.equal(torch.nn.functional.linear(x, held), wanted)
        new = module.weight.requantize_from_float(
            module.weight.dequantize(), scale="recalculate", stochastic_rounding=7
        )
        held.copy_(new)
        again = h.error(torch.nn.functional.linear(x, held), wanted)
        kept = torch.equal(torch.nn.functional.linear(x, module.weight), wanted)
        half = h.error(module(x.bfloat16()).float(), module(x))
        yield {"fact": "gathered", "scheme": scheme, "equal": equal, "requantized": again,
               "kept": kept, "half": half}  # fmt: skip


def _foreign(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A quantized file as ComfyUI's own loader opens it, and a model without a factory."""
    import comfy.sd

    from fusequant.engine.errors import Refused
    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.lora_match import Lora

    deltas = _deltas(files["flux"], 0.8)
    lora = Lora(Path(files["lora"]), 0.8)
    for scheme in ("fp8", "int8"):
        path = f"{files['folder']}/stock-{scheme}.safetensors"
        comfy.sd.save_checkpoint(path, _quantized(source, scheme))
        stock = comfy.sd.load_diffusion_model(path)
        live, _ = _live(stock, (files["lora"], 0.8))
        written = f"{files['folder']}/stock-live.safetensors"
        comfy.sd.save_checkpoint(written, live)
        again = comfy.sd.load_diffusion_model(written)
        int8 = _quantized(live, "int8")
        wanted = _quantized(fuse_loras(stock, [lora])[0], "int8")
        yield {
            "fact": "stock file", "scheme": scheme, "worst": _worst(stock, live, deltas),
            "layers": len(_layers(live)), "saved": h.error(h.output(again), h.output(stock)),
            "rebuilt": torch.equal(h.output(live.clone(force_deepcopy=True)), h.output(live)),
            "quantized": h.error(h.weight(int8, LAYER), h.weight(wanted, LAYER)),
        }  # fmt: skip
    orphan = _quantized(source, "int8")
    orphan.cached_patcher_init = None
    live, _ = _live(orphan, (files["lora"], 0.8))
    try:
        kind = str(fuse_loras(orphan, [lora], bake_now=True)[1])
    except Refused as refused:
        kind = refused.kind
    yield {"fact": "no factory", "layers": len(_layers(live)), "bake": kind,
           "worst": _worst(orphan, live, deltas)}  # fmt: skip


def _others(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Refusals, unquantized layers and models, what comes after it, the patches for saving."""
    from fusequant.engine.errors import Refused
    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.live_lora import live_patches
    from fusequant.host.lora_match import Lora

    base = _quantized(source, "int8")
    for name in ("dora", "loha", "nan", "wan_lora"):
        try:
            _live(base, (files[name], 1.0))
            yield {"fact": "refused", "name": name, "kind": None}
        except Refused as refused:
            yield {"fact": "refused", "name": name, "kind": refused.kind, "text": str(refused)}
    plain, report = _live(source, (files["lora"], 1.0))
    stock = h.with_lora(source, files["lora"])
    yield {"fact": "unquantized", "patches": len(plain.patches), "text": report.text(),
           "equal": torch.equal(h.output(plain), h.output(stock))}  # fmt: skip
    kept = _quantized(source, "int8", keep=("double_blocks.0.*",))
    mixed, report = _live(kept, (files["lora"], 1.0))
    yield {"fact": "mixed", "layers": len(_layers(mixed)), "patches": len(mixed.patches),
           "text": report.text(),
           "fused": h.error(h.output(mixed), h.output(stock))}  # fmt: skip
    live, _ = _live(base, (files["lora"], 0.6), (files["other"], 0.3))
    wanted = _quantized(
        fuse_loras(source, [Lora(Path(files["lora"]), 0.6), Lora(Path(files["other"]), 0.3)])[0],
        "fp8",
    )
    after = _quantized(live, "fp8")
    key = f"diffusion_model.{LAYER}.weight"
    yield {
        "fact": "quantized again", "bits": h.same(h.state(after), h.state(wanted)),
        "live": len(_layers(after)), "patches": [p[0] for p in live_patches(live)[key]],
        "none": live_patches(base),
    }  # fmt: skip
    then, report = fuse_loras(live, [Lora(Path(files["other"]), 0.5)])
    wanted = _quantized(
        fuse_loras(source, [Lora(Path(files["lora"]), 0.6), Lora(Path(files["other"]), 0.8)])[0],
        "int8",
    )
    yield {"fact": "fused after", "error": h.error(h.weight(then, LAYER), h.weight(wanted, LAYER)),
           "live": len(_layers(then)), "text": report.text()}  # fmt: skip


def _wan(h: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """int8 down-projections, where the host fuses the activation and passes forward hooks by."""
    import comfy.sd

    source = comfy.sd.load_diffusion_model(files["wan"])
    base = _quantized(source, "int8", backend="kitchen")
    block = base.model.diffusion_model.blocks[0].ffn
    live = _live(base, (files["wan_down"], 1.0))[0].model.diffusion_model.blocks[0].ffn
    bypass = _bypassed(base, files["wan_down"])
    x = torch.randn((1, 6, block[0].in_features), generator=torch.Generator().manual_seed(0))
    plain = block(x)
    hidden = torch.nn.functional.gelu(block[0](x), approximate="tanh")
    wanted = block[2](hidden) + hidden @ _deltas(files["wan"])["blocks.0.ffn.2"].T
    bypass.inject_model()
    lost = block(x)
    bypass.eject_model()
    yield {"fact": "int8 mlp", "live": h.error(live(x), wanted), "change": h.error(wanted, plain),
           "bypass": h.error(lost, plain)}  # fmt: skip


def _bypassed(patcher: Any, path: str) -> Any:
    """The patcher with a LoRA as ComfyUI's bypass loader adds it."""
    import comfy.sd
    import comfy.utils

    file = comfy.utils.load_torch_file(path, safe_load=True)
    return comfy.sd.load_bypass_lora_for_models(patcher, None, file, 1.0, 0.0)[0]


def _outside(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Made and run outside inference mode, and compiled."""
    import torch._dynamo.testing

    for scheme in ("int8", "fp8", *OWN):
        base = _quantized(source, scheme)
        live, _ = _live(base, (files["lora"], 1.0))
        block = live.model.diffusion_model.double_blocks[0].img_mlp
        x = torch.randn(4, block[0].in_features, generator=torch.Generator().manual_seed(0))
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        with torch.no_grad():
            compiled = torch.compile(block, backend=counter)
            equal = torch.equal(compiled(x), block(x))
            change = h.error(block(x), base.model.diffusion_model.double_blocks[0].img_mlp(x))
            graphs = counter.frame_count
            for module in block:
                if hasattr(module, "quant_format"):
                    strength = module.weight._params.strength
                    strength.mul_(0.5)
            again = torch.equal(compiled(x), block(x))
        yield {"fact": "compiled", "scheme": scheme, "equal": equal, "change": change,
               "again": again, "graphs": counter.frame_count - graphs}  # fmt: skip
