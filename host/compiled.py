"""A MODEL in, the same compiled by the host's own mechanism out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.patcher_extension
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS

BACKENDS = ("inductor", "cudagraphs")
_APPLY = comfy.patcher_extension.WrappersMP.APPLY_MODEL


def _without_options(guards: Sequence[Any]) -> list[bool]:
    """Guard everything but the options of a step, which are other objects at each step."""
    return ["transformer_options" not in guard.name for guard in guards]


def compiled(patcher: Any, backend: str) -> Any:
    """A clone whose diffusion model torch compiles at the first step.

    Under dynamic VRAM the host makes the clone from the loader again, as its own node does.
    """
    result = patcher.clone(disable_dynamic=True)
    set_torch_compile_wrapper(
        model=result, backend=backend, options={"guard_filter_fn": _without_options}
    )
    return result


def is_compiled(patcher: Any) -> bool:
    """Whether torch compiles the diffusion model, by our node or by another."""
    return bool(patcher.get_wrappers(_APPLY, COMPILE_KEY))


def compile_again(patcher: Any) -> Any:
    """`patcher`, whose module was exchanged: what was compiled before is the module of another."""
    settings = patcher.model_options.get(TORCH_COMPILE_KWARGS)
    if is_compiled(patcher) and settings is not None:
        set_torch_compile_wrapper(model=patcher, **settings)
    return patcher
