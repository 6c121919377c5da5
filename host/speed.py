"""A MODEL and speed options in, a MODEL that uses them while it is sampled, and a report, out.

Attention and compiling are the host's own mechanisms, set on a clone; TF32 is a switch of the whole
process and is therefore thrown around the sampling of this MODEL alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.ldm.modules import attention as host_attention

from ..engine.errors import Refused
from . import order, precision
from .compiled import BACKENDS, compiled
from .computing import DTYPES, UNCHANGED, compute_in
from .report import Report

KEY = "fusequant_tf32"
AUTO, FP8, OFF, SDPA = "auto", "fp8", "off", "pytorch"
COMPILERS = (OFF, *BACKENDS)
COMPUTE = tuple(DTYPES)
TF32 = {UNCHANGED: None, "on": True, "off": False}
_OUTER = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE


@dataclass(frozen=True)
class Fp8Attention:
    """A backend of the host's registry that computes in fp8: where, and which product.

    `package` has one of `kernels` when it is new enough.
    """

    name: str
    package: str
    kernels: tuple[str, ...]
    since: tuple[int, int]
    what: str


FP8_ATTENTION = (
    Fp8Attention(
        "sage",
        "sageattention",
        ("sageattn_qk_int8_pv_fp8_cuda", "sageattn_qk_int8_pv_fp8_cuda_sm90"),
        (8, 9),
        "the product with V in fp8, the one of Q and K in int8",
    ),
)


def registered() -> list[str]:
    """The attention functions that the host has registered in this process."""
    return list(host_attention.REGISTERED_ATTENTION_FUNCTIONS)


def fp8_attention(device: torch.device) -> tuple[Fp8Attention | None, str]:
    """(a registered backend that computes in fp8 on `device` or None, what it does or why none)."""
    if device.type != "cuda" or torch.version.hip:
        return None, f"fp8 attention needs an NVIDIA device, this is {device.type}"
    reached = torch.cuda.get_device_capability(device)
    reasons = []
    for backend in FP8_ATTENTION:
        package = sys.modules.get(backend.package)
        if backend.name not in registered():
            reasons.append(f"{backend.package} is not installed")
        elif not any(hasattr(package, kernel) for kernel in backend.kernels):
            reasons.append(f"this {backend.package} has no fp8 kernel")
        elif reached < backend.since:
            needed, found = (f"sm_{a}{b}" for a, b in (backend.since, reached))
            reasons.append(f"{backend.package} computes in fp8 from {needed} on, this is {found}")
        else:
            return backend, f"{backend.name}: {backend.what}"
    return None, "; ".join(reasons)


def attention_names() -> list[str]:
    """What the node offers: fp8 only where a backend computes in it on the host's device."""
    there, _ = fp8_attention(comfy.model_management.get_torch_device())
    return [AUTO, *registered(), *([FP8] if there else [])]


def check_attention(name: str | None) -> bool | str:
    """True, or the sentence that says why an attention backend is not there."""
    if name is None or name in attention_names():
        return True
    if name == FP8:
        _, why = fp8_attention(comfy.model_management.get_torch_device())
        return f"attention: fp8 is not offered here: {why}"
    return f"attention: found {name}; expected one of {', '.join(attention_names())}; pick one"


def speed_up(
    patcher: Any, attention: str | None = None, compiler: str | None = None,
    tf32: str | None = None, compute: str | None = None,
) -> tuple[Any, Report]:  # fmt: skip
    """(clone of `patcher` with the options on it, report). None leaves an option as it is."""
    report = Report("Speed Options")
    device = patcher.load_device
    use_compiler = compiler not in (None, OFF)
    result = compiled(patcher, str(compiler)) if use_compiler else patcher.clone()
    report.notes.append(_attention(result, attention or AUTO, device))
    report.notes.append(compute_in(result, compute or UNCHANGED))
    report.notes.append(_compiler(str(compiler), patcher) if use_compiler else "compile: off")
    report.notes.append(_tf32(result, tf32 or UNCHANGED, device))
    backend, why = fp8_attention(device)
    offered = "offered" if backend else "not offered here"
    report.notes.append(f"FP8 attention: {offered}: {why}")
    report.notes.append(_copies())
    report.notes.append("KV reuse: ComfyUI's own, in the models that have it; nothing is set")
    late = order.warning(patcher)
    if late is not None:
        report.warn(late)
    return result, report


def _attention(result: Any, name: str, device: torch.device) -> str:
    if name == AUTO:
        return f"attention: unchanged{_on_a_cpu(device)}"
    if name == FP8:
        backend, why = fp8_attention(device)
        if backend is None:
            raise Refused(
                "fp8-attention",
                found=why,
                expected="a backend that computes attention in fp8 on this device",
                fix="pick auto",
            )
        name = backend.name
    found = host_attention.REGISTERED_ATTENTION_FUNCTIONS.get(name)
    if found is None:
        raise Refused(
            "attention-unavailable",
            found=f"attention {name}",
            expected=f"one of {', '.join(attention_names())}",
            fix="pick auto, or install the package and start ComfyUI again",
        )
    result.set_model_optimized_attention(found)
    return f"attention: {name}, for this model only"


def _on_a_cpu(device: torch.device) -> str:
    """What ComfyUI's own choice leaves out on a CPU: 1280 tokens took 1.28 times as long."""
    chosen = host_attention.optimized_attention
    sdpa = host_attention.REGISTERED_ATTENTION_FUNCTIONS.get(SDPA)
    if device.type != "cpu" or sdpa is None or chosen is sdpa:
        return ""
    return f" ({chosen.__name__}); on a CPU {SDPA}, torch's own, is exact as well and faster"


def _compiler(name: str, patcher: Any) -> str:
    line = f"compile: {name} by ComfyUI's own mechanism, at the first step"
    if patcher.is_dynamic():
        line += "; the model is loaded once more without dynamic VRAM"
    return line


def _tf32(result: Any, choice: str, device: torch.device) -> str:
    allowed = TF32[choice]
    if allowed is None:
        return "TF32: unchanged"
    why = precision.why_not(device)
    if why is not None:
        return f"TF32: nothing to set: {why}"
    allow_tf32(result, allowed)
    return f"TF32: {choice} while this model is sampled, then as before"


def allow_tf32(patcher: Any, allowed: bool) -> None:
    """Have float32 products use TF32, or not, while `patcher` or a clone of it is sampled."""

    def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with precision.tf32(allowed):
            return executor(*args, **kwargs)

    patcher.remove_wrappers_with_key(_OUTER, KEY)
    patcher.add_wrapper_with_key(_OUTER, KEY, sample)


def _copies() -> str:
    streams = getattr(comfy.model_management, "NUM_STREAMS", 0)
    how = f"on {streams} streams" if streams else "without streams here"
    return f"non-blocking copies: ComfyUI's own, {how}; nothing is set"
