"""VRAM Manager, Speed Options and the order warning while a tiny FLUX is sampled: facts."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
TOTAL, FOREIGN, LIMIT = 24 * GIB, 3 * GIB, 10 * GIB


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


class StoppedError(Exception):
    """Raised by a step of a test."""


def run(model: str, lora: str) -> Iterator[dict[str, Any]]:
    """The file of a FLUX and a LoRA for it -> facts."""
    import comfy.sd

    torch.set_num_threads(1)
    h = _models()
    objects, settings = h.host_objects(), _settings()
    source = comfy.sd.load_diffusion_model(model)
    yield from _limits(source)
    yield from _dynamic(source)
    yield from _measured(source)
    yield from _tf32(source)
    yield from _attention(source)
    yield from _compiled(h, source)
    yield from _computing(h, source)
    yield from _order(h, model, lora)
    changed = [
        name for name, found in h.host_objects().items() if objects.get(name, found) != found
    ]
    yield {"fact": "untouched", "changed": changed, "settings": _settings() == settings,
           "wrappers": source.wrappers, "attachments": list(source.attachments),
           "options": source.model_options}  # fmt: skip


def _settings() -> dict[str, Any]:
    """Everything process-wide that these nodes touch, or could be thought to."""
    import comfy.model_management as management

    return {
        "reserved": management.EXTRA_RESERVED_VRAM,
        "state": management.vram_state.name,
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "newer": torch.backends.cuda.matmul.fp32_precision,
        "cudnn": torch.backends.cudnn.allow_tf32,
        "named": torch.get_float32_matmul_precision(),
    }


def _sample(patcher: Any, step: Callable[[], None] = lambda: None, cfg: float = 1.0) -> Any:
    """Two steps as KSampler makes them; `step` is called in each."""
    import comfy.sample

    generator = torch.Generator().manual_seed(0)
    context = torch.randn((1, 8, 128), generator=generator)
    told = {"pooled_output": torch.randn((1, 768), generator=generator), "guidance": 4.0}
    noise = torch.randn((1, 16, 8, 8), generator=generator)
    return comfy.sample.sample(
        patcher, noise, 2, cfg, "euler", "simple", [[context, told]], [[context * 0, told]],
        torch.zeros_like(noise), disable_pbar=True, callback=lambda *_: step(),
    )  # fmt: skip


def _fails(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except StoppedError as stop:
        return str(stop)
    return None


@contextmanager
def _card() -> Iterator[None]:
    """Our own view of the device says: an NVIDIA card of 24 GiB, 3 of them held by others."""
    from fusequant.host import vram

    why_not, facts = vram.why_not, vram.facts
    vram.why_not = lambda patcher: None
    vram.facts = lambda device: vram.Vram(TOTAL, TOTAL - FOREIGN - vram.CONTEXT_BYTES, 0)
    try:
        yield
    finally:
        vram.why_not, vram.facts = why_not, facts


class Probe:
    """A wrapper inside the manager's that notes what ComfyUI would see as it loads."""

    def __init__(self, patcher: Any, fail: bool = False) -> None:
        import comfy.patcher_extension

        self.seen: list[tuple[int, bool]] = []
        self._fail = fail
        kind = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
        patcher.add_wrapper_with_key(kind, "probe", self)

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        import comfy.model_management

        reserved = comfy.model_management.EXTRA_RESERVED_VRAM
        self.seen.append((reserved, bool(kwargs.get("force_full_load"))))
        if self._fail:
            raise StoppedError("loading")
        return executor(*args, **kwargs)


def _managed(source: Any, mode: str, limit: float = 0.0, buffer: float = 0.0) -> Any:
    from fusequant.host import memory

    return memory.manage(source, memory.asked(mode, limit, buffer))[0]


def _limits(source: Any) -> Iterator[dict[str, Any]]:
    """What each mode has ComfyUI reserve, and that it is put back."""
    import comfy.model_management as management

    before = management.EXTRA_RESERVED_VRAM
    chosen = {
        "auto": ("auto", 0, 0), "auto_offload": ("auto_offload", 0, 0), "limit": ("limit", 10, 0),
        "buffer": ("auto", 0, 2), "both": ("limit", 20, 4), "low VRAM": ("low VRAM", 0, 0),
        "keep resident": ("keep resident", 0, 0), "loose": ("limit", 30, 0),
    }  # fmt: skip
    steps: list[int] = []
    with _card():
        for name, asked in chosen.items():
            managed = _managed(source, *asked)
            probe = Probe(managed)
            _sample(managed.clone(), lambda: steps.append(management.EXTRA_RESERVED_VRAM))
            yield {"fact": "mode", "mode": name, "reserved": probe.seen[0][0], "before": before,
                   "full": probe.seen[0][1], "after": management.EXTRA_RESERVED_VRAM}  # fmt: skip
        twice = _managed(_managed(source, "limit", 4), "limit", 10)
        probe = Probe(twice)
        _sample(twice)
        yield {"fact": "twice", "reserved": [found for found, _ in probe.seen],
               "wrappers": [len(found) for kind in twice.wrappers.values()
                            for key, found in kind.items() if key != "probe"]}  # fmt: skip
        loading = _managed(source, "limit", 10)
        Probe(loading, fail=True)
        stepping = _managed(source, "limit", 10)
        yield {
            "fact": "failure", "raised": [_fails(lambda: _sample(loading)),
                                          _fails(lambda: _sample(stepping, _stop))],
            "after": management.EXTRA_RESERVED_VRAM, "before": before,
            "told": stepping.get_attachment("fusequant_memory").text(),
        }  # fmt: skip
        cfg = _managed(source, "limit", 10)
        probe = Probe(cfg)
        _sample(cfg, cfg=3.0)
        yield {"fact": "cfg", "reserved": probe.seen[0][0]}
    yield {"fact": "in the steps", "reserved": sorted({*steps, before})}


def _stop() -> None:
    raise StoppedError("step")


class Bar:
    """Stands for the pages of a model under dynamic VRAM."""

    max_size = 1000 * GIB

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def set_watermark(self, size: int) -> None:
        """Note the cap."""
        self.calls.append(("cap", size))

    def set_watermark_limit(self, size: int) -> None:
        """Note what is held."""
        self.calls.append(("hold", size))


class OldBar:
    """The pages as a host without these calls has them."""


def _paged(source: Any, bar: Any, mode: str, limit: float = 0.0) -> Any:
    managed = _managed(source, mode, limit)
    managed.is_dynamic = lambda: True
    managed._vbar_get = lambda create=False: bar
    return managed


def _dynamic(source: Any) -> Iterator[dict[str, Any]]:
    """The calls that a model under dynamic VRAM gets."""
    with _card():
        for name, asked in {
            "auto": ("auto",), "limit": ("limit", 10.0), "low VRAM": ("low VRAM",),
            "keep resident": ("keep resident",),
        }.items():  # fmt: skip
            bar, failing, old = Bar(), Bar(), OldBar()
            _sample(_paged(source, bar, *asked))
            stopped = _fails(
                lambda bar=failing, asked=asked: _sample(_paged(source, bar, *asked), _stop)
            )
            _sample(_paged(source, old, *asked))
            yield {"fact": "dynamic", "mode": name, "calls": bar.calls, "stopped": stopped,
                   "same": failing.calls == bar.calls, "size": source.model_size()}  # fmt: skip


def _measured(source: Any) -> Iterator[dict[str, Any]]:
    """The record after sampling on this machine, and what can be said before."""
    from fusequant.host import memory
    from fusequant.host.free import free_memory

    managed, report = memory.manage(source, memory.asked("limit", 8.0, None))
    empty = memory.measured(managed.clone()).text()
    _sample(managed.clone())
    record = memory.measured(managed)
    last = record.runs[-1]
    yield {"fact": "measured", "before": report.text(), "empty": empty, "text": record.text(),
           "peak": last.peak_bytes, "parts": last.parts, "runs": len(record.runs),
           "free": free_memory(True, managed),
           "upstream": memory.measured(source) is None}  # fmt: skip


def _tf32(source: Any) -> Iterator[dict[str, Any]]:
    """The switch inside and after sampling, from each state that it may be in."""
    from fusequant.host import speed

    matmul = torch.backends.cuda.matmul
    for state in ("fresh", "older", "medium", "newer"):
        {"fresh": lambda: None, "older": lambda: setattr(matmul, "allow_tf32", True),
         "medium": lambda: torch.set_float32_matmul_precision("medium"),
         "newer": lambda: setattr(matmul, "fp32_precision", "tf32")}[state]()  # fmt: skip
        for allowed in (True, False):
            faster = source.clone()
            speed.allow_tf32(faster, allowed)
            before, inside = _flags(), []
            _sample(faster.clone(), lambda inside=inside: inside.append(matmul.fp32_precision))
            after = _flags()
            stopped = _fails(lambda model=faster: _sample(model, _stop))
            yield {"fact": "tf32", "state": state, "allowed": allowed, "stopped": stopped,
                   "inside": sorted(set(inside)), "restored": before == after}  # fmt: skip
        if state != "newer":
            torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        matmul.fp32_precision = "none"


def _flags() -> list[Any]:
    matmul, found = torch.backends.cuda.matmul, []
    for read in (
        lambda: matmul.allow_tf32, lambda: matmul.fp32_precision,
        torch.get_float32_matmul_precision, lambda: torch.backends.mkldnn.matmul.fp32_precision,
    ):  # fmt: skip
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found


def _attention(source: Any) -> Iterator[dict[str, Any]]:
    """An attention backend for one model, and what is said of those that are not there."""
    from fusequant.engine.errors import Refused
    from fusequant.host import speed

    plain = _sample(source)
    named = {name: speed.speed_up(source, name) for name in ("pytorch", "sub_quad")}
    override = "optimized_attention_override"
    try:
        speed.speed_up(source, "flash9")
        refused = ""
    except Refused as error:
        refused = str(error)
    yield {
        "fact": "attention", "names": speed.attention_names(), "refused": refused,
        "error": max(float((_sample(m) - plain).abs().max()) for m, _ in named.values()),
        "set": [override in m.model_options["transformer_options"] for m, _ in named.values()],
        "upstream": override in source.model_options["transformer_options"],
        "text": speed.speed_up(source, "pytorch", tf32="on")[1].text(),
        "fp8": speed.check_attention("fp8"), "other": speed.check_attention("flash9"),
    }  # fmt: skip


def _compiled(h: Any, source: Any) -> Iterator[dict[str, Any]]:
    """Compiled equals plain, also when quantizing comes after compiling."""
    from fusequant.host import speed
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    plain = _sample(source)
    faster, report = speed.speed_up(source, compiler="aot_eager")
    yield {"fact": "compiled", "error": h.error(_sample(faster), plain), "text": report.text()}
    quantized = _sample(quantize_model(source, Request("int8"))[0])
    late = _sample(quantize_model(faster, Request("int8"))[0])
    first = _sample(speed.speed_up(quantize_model(source, Request("int8"))[0],
                                   compiler="aot_eager")[0])  # fmt: skip
    yield {"fact": "compiled, quantized", "late": h.error(late, quantized),
           "first": h.error(first, quantized), "source": h.error(quantized, plain)}  # fmt: skip


def _computing(h: Any, source: Any) -> Iterator[dict[str, Any]]:
    """Another compute dtype by our node and by the host's own: what multiplied, what is said."""
    from fusequant.host import speed
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request
    from fusequant.kernels.registry import noted

    for scheme in ("none", "int8", "fp8"):
        made = source if scheme == "none" else quantize_model(source, Request(scheme))[0]
        wanted = _sample(made)
        ours, report = speed.speed_up(made, compute="bf16")
        hosts = made.clone()
        hosts.set_model_compute_dtype(torch.bfloat16)
        with noted() as ops:
            found = _sample(ours)
        with noted() as other:
            again = _sample(hosts)
        yield {"fact": "computing", "scheme": scheme, "text": report.text(),
               "error": h.error(found, wanted), "same": torch.equal(found, again),
               "ops": sorted({op for op, _ in (*ops, *other)}),
               "upstream": torch.equal(_sample(made), wanted)}  # fmt: skip


class Lines(logging.Handler):
    """The lines that the order warning logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logging.getLogger("fusequant.host.order").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        self.lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """The lines since the last call."""
        found, self.lines = self.lines, []
        return found


def _order(h: Any, model: str, lora: str) -> Iterator[dict[str, Any]]:
    """One line for each set of LoRAs on quantized layers, on clones too."""
    from fusequant.host import memory
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    log = Lines()
    loaded, _ = load_diffusion_model(model)
    quantized, _ = quantize_model(loaded, Request("int8"))
    late = h.with_lora(quantized, lora)
    found: dict[str, list[str]] = {}
    for name, patcher in {
        "loaded": loaded, "unquantized": h.with_lora(loaded, lora), "quantized": quantized,
        "fused": quantize_model(h.with_lora(loaded, lora), Request("int8"))[0], "late": late,
        "again": late, "clone": late.clone(), "more": h.with_lora(late, lora, 0.5),
        "on load": h.with_lora(load_diffusion_model(model, "int8")[0], lora),
    }.items():  # fmt: skip
        _sample(patcher)
        found[name] = log.taken()
    yield {"fact": "order", "lines": found,
           "report": memory.manage(late, memory.asked("auto", 0, 0))[1].text()}  # fmt: skip
