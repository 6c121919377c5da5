"""The pack loaded with some packages missing, or at all: which nodes come, what else changes."""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch

TORCH_FLAGS = (
    "backends.cuda.matmul.allow_tf32", "backends.cudnn.allow_tf32", "backends.cudnn.benchmark",
    "backends.cudnn.deterministic", "backends.cudnn.enabled",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
)  # fmt: skip
TORCH_CALLS = (
    "get_num_threads", "get_num_interop_threads", "get_default_dtype", "is_grad_enabled",
    "is_inference_mode_enabled", "get_float32_matmul_precision", "initial_seed",
    "are_deterministic_algorithms_enabled", "get_default_device",
)  # fmt: skip


class Missing(importlib.abc.MetaPathFinder):
    """Packages that cannot be found, as if they were not installed."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Refuse the packages and what is inside them; leave others to the next finder."""
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def run(base: str, missing: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """An empty folder to take for ComfyUI's own, packages to hide -> lines of facts.

    Without packages to hide: also what loading the pack, and then using it, changed in the process.
    """
    from comfy.cli_args import args

    args.base_directory = base
    if missing is not None:
        sys.meta_path.insert(0, Missing(missing))
        for name in [name for name in sys.modules if name.split(".")[0] in missing]:
            del sys.modules[name]
        yield {"fact": "nodes", **_load()}
        yield {"fact": "schemes", **_schemes()}
        return
    _server_modules()
    looks = [_look()]
    loaded = _load()
    looks.append(_look())
    used = _schemes(layouts=True)
    looks.append(_look())
    yield {"fact": "nodes", **loaded, **used}
    yield {"fact": "looked at", **{name: len(found) for name, found in looks[0].items()}}
    for step, before, after in (("loading", *looks[:2]), ("using", *looks[1:])):
        yield {"fact": step, "changed": _changed(before, after), "added": _added(before, after)}


def _load() -> dict[str, Any]:
    """The ids of the nodes that load, and the names of those that do not."""
    from fusequant.nodes._loading import load_nodes

    left_out: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            why = record.exc_info[1] if record.exc_info else ""
            left_out.append(f"{record.getMessage()}: {why}")

    log, listener = logging.getLogger("fusequant.nodes._loading"), Listener(logging.ERROR)
    log.addHandler(listener)
    try:
        nodes = load_nodes("fusequant.nodes")
    finally:
        log.removeHandler(listener)
    return {"ids": [node.GET_SCHEMA().node_id for node in nodes], "left_out": left_out}


def _schemes(layouts: bool = False) -> dict[str, Any]:
    """Quantize a small weight by every scheme; with `layouts` through ComfyUI's own Linear."""
    from fusequant.engine.rows import all_schemes
    from fusequant.host.ops import quantized_operations
    from fusequant.host.quantize import layer_tensors

    cpu, worked = torch.device("cpu"), []
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    for name, scheme in all_schemes().items():
        if scheme.format_id is None:
            continue
        tensors = layer_tensors("layer", name, weight, cpu)
        if layouts:
            linear = quantized_operations(torch.float32, cpu).Linear(256, 256, bias=False)
            linear.load_state_dict(tensors, strict=False, assign=True)
            with torch.inference_mode():
                linear(weight[:4])
        worked.append(name)
    return {"schemes": worked}


def _server_modules() -> None:
    """Import what a running server has loaded."""
    import comfy_extras.nodes_model_merging
    import comfy_extras.nodes_torch_compile  # noqa: F401
    import execution  # noqa: F401

    import nodes  # noqa: F401


def _look() -> dict[str, dict[str, Any]]:
    """Everything process-wide that a pack could touch, by kind and name."""
    import comfy.model_management
    import comfy.quant_ops
    import comfy_kitchen.tensor.base as kitchen

    containers = {
        name: repr(value) for name, value in vars(comfy.model_management).items()
        if isinstance(value, dict | list | set | str | int | float | bool)
        and not name.startswith("__")
    }  # fmt: skip
    return {
        "objects": _host_models().host_objects(),
        "model_management": containers,
        "torch": _torch_state(),
        "logging": _logging_state(),
        "formats": {name: repr(facts) for name, facts in comfy.quant_ops.QUANT_ALGOS.items()},
        "handlers": {
            f"{op} {layout.__name__}": id(handler)
            for op, found in kitchen._LAYOUT_DISPATCH_TABLE.items()
            for layout, handler in found.items()
        },
        "layouts": _layouts(kitchen),
        "process": _process_state(),
        "environment": dict(os.environ),
    }


def _layouts(kitchen: Any) -> dict[str, int]:
    """Every layout class that comfy-kitchen knows, from whatever table it keeps them in."""
    return {
        f"{table}.{name}": id(value)
        for table, found in vars(kitchen).items()
        if isinstance(found, dict) and not table.startswith("__")
        for name, value in found.items()
        if isinstance(name, str)
    }


def _torch_state() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in TORCH_FLAGS:
        at: Any = torch
        for part in path.split("."):
            at = getattr(at, part)
        found[path] = repr(at)
    found |= {name: repr(getattr(torch, name)()) for name in TORCH_CALLS}
    found["random numbers"] = hash(torch.get_rng_state().numpy().tobytes())
    return found


def _logging_state() -> dict[str, Any]:
    """Loggers outside the pack: handlers, filters, level; a placeholder has none."""
    known = {"root": logging.getLogger(), **logging.Logger.manager.loggerDict}
    return {
        name: repr((log.level, log.handlers, log.filters, log.propagate, log.disabled))
        for name, log in known.items()
        if isinstance(log, logging.Logger) and not name.startswith("fusequant")
    }


def _process_state() -> dict[str, Any]:
    found = {
        "sys.path": list(sys.path), "sys.meta_path": [id(one) for one in sys.meta_path],
        "sys.path_hooks": len(sys.path_hooks), "sys.excepthook": id(sys.excepthook),
        "sys.stdout": id(sys.stdout), "sys.stderr": id(sys.stderr),
        "warnings": repr(warnings.filters), "threads": threading.active_count(),
        "working directory": os.getcwd(), "recursion limit": sys.getrecursionlimit(),
    }  # fmt: skip
    names = [name for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
    return found | {name: repr(signal.getsignal(getattr(signal, name))) for name in names}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{kind}: {name}" for kind, found in before.items() for name, value in found.items()
        if after[kind].get(name) != value
    ]  # fmt: skip


def _added(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is there now and was not; attributes of modules that were imported meanwhile are not."""
    return [
        f"{kind}: {name}" for kind, found in after.items() for name in found
        if name not in before[kind] and kind not in ("objects", "logging")
    ]  # fmt: skip


def _host_models() -> Any:
    if "host_models" not in sys.modules:
        path = Path(__file__).with_name("host_models.py")
        spec = importlib.util.spec_from_file_location("host_models", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["host_models"] = module
        spec.loader.exec_module(module)
    return sys.modules["host_models"]
