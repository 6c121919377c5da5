"""What the loaders of text and vision encoders share: operations, names, layers by their tensor.

Encoders save memory, not time: every product is computed in full precision, as the host does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import comfy.model_management
import torch

from ..engine.layer import Layer
from ..engine.model import UNKNOWN, Model
from ..engine.plan import Choice
from ..engine.source import Source
from ..engine.tensors import FP8, torch_dtype
from . import devices
from .load import Streaming
from .ops import Rewrite, quantized_operations
from .pristine import Request
from .report import Report
from .translate import State, Translation, translate

# what is looked up, or what the host renames by its weight alone: no quantized Linear
_NOT_LINEAR = re.compile(r"(?:.*\.)?(?:shared|lm_head|\w*embed\w*|relative_attention_bias)")
_TOKENS = re.compile(r"(?:.*\.)?(?:shared|embed_tokens|token_embedding)")
_READ_IN_TABLES = ("fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only")


def encoder_operations(load_device: torch.device, rewrite: Rewrite | None = None) -> Any:
    """The operations for all encoders of a CLIP: each layer keeps the dtype that it is made with.

    `rewrite` sees each Linear's tensors before they are loaded.
    """
    backend = devices.stored_backend(_READ_IN_TABLES, load_device, None)
    base = quantized_operations(
        torch.float16, load_device, backend, rewrite=rewrite, full_precision=True
    )

    class EncoderOperations(base):  # type: ignore[misc, valid-type]
        """The host's operations; a Linear has a dtype of its own."""

        class Linear(base.Linear):  # type: ignore[misc, name-defined]
            """The host's Linear. The forward pass is its own."""

            def __init__(
                self, in_features: int, out_features: int, bias: bool = True,
                device: Any = None, dtype: torch.dtype | None = None,
            ) -> None:  # fmt: skip
                super().__init__(in_features, out_features, bias, device, dtype)
                if dtype is not None:
                    self.factory_kwargs = {**self.factory_kwargs, "dtype": dtype}
                self.register_parameter("weight", None)  # the host asks for it, loaded or not
                if bias and dtype is not None:
                    empty = torch.empty(out_features, device=device, dtype=dtype)
                    self.bias = torch.nn.Parameter(empty, requires_grad=False)

    return EncoderOperations


class ByTensor(Streaming):
    """Quantizes layers as the host loads them; knows each by its tensor, whatever it is called.

    The host renames layers of some encoders. `state` keeps the tensors alive meanwhile, so that an
    id means one of them. `later` has the choices by their key in `state`.
    """

    def __init__(
        self, source: Source, state: State, later: Mapping[str, Choice],
        request: Request, report: Report,
    ) -> None:  # fmt: skip
        device = comfy.model_management.get_torch_device()
        choices = {choice.layer.name: choice for choice in later.values()}
        super().__init__(source, choices, device, request, report)
        self._state = state
        self._by_id = {id(state[key]): choice for key, choice in later.items()}

    def choice_of(self, name: str, weight: torch.Tensor) -> Choice | None:
        """The choice for the tensor."""
        return self._by_id.get(id(weight))

    def finish(self) -> None:
        """Let go of the tensors too; with nothing to do there is no progress to show."""
        self._state, self._by_id, self._source = {}, {}, None
        if self.choices:
            super().finish()


def encoder_translation(
    source: Source, model: Model, later: Collection[str], plain: bool
) -> Translation:
    """The state dict of an encoder; keys in `later` are shapes alone where the file has codes.

    `plain` dequantizes everything.
    """
    # the names of an unknown model may be no Linear of the host: it must find numbers there
    unknown = bool(later) and model.family.name == UNKNOWN
    dense = tuple(layer for layer in model.layers if _is_dense(layer))
    rest = tuple(layer for layer in model.layers if not _is_dense(layer))
    made = translate(rest, source, () if unknown else later, plain or unknown)
    tables = translate(dense, source, plain=True)
    made.state |= tables.state
    made.how += tables.how
    for key, tensor in made.state.items():
        made.state[key] = _widened(key, tensor, made.state)
    return made


def _is_dense(layer: Layer) -> bool:
    """A quantized layer that the host can only take as plain numbers."""
    if layer.scheme == "none" or not _NOT_LINEAR.fullmatch(layer.name):
        return False
    return not (_TOKENS.fullmatch(layer.name) and layer.scheme in _READ_IN_TABLES)


def _widened(key: str, tensor: torch.Tensor, state: State) -> torch.Tensor:
    """Float8 numbers that are no codes in bfloat16: the host takes its dtype from a norm's."""
    float8 = tensor.dtype in [torch_dtype(name) for name in FP8]
    codes = f"{key.removesuffix('.weight')}.comfy_quant" in state
    return tensor.to(torch.bfloat16) if float8 and not codes and not tensor.is_meta else tensor
