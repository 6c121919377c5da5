"""Schemes that ComfyUI has no layout for in, comfy-kitchen layouts that compute with our ops out.

A quantized weight of ours is a comfy-kitchen QuantizedTensor, so the host's offloading, cloning,
LoRA and saving work on it as on its own formats. Importing this module registers nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from comfy_kitchen.tensor import (
    BaseLayoutParams,
    QuantizedLayout,
    QuantizedTensor,
    dequantize_args,
    get_layout_class,
    register_layout_class,
    register_layout_op,
)

from ..engine.rows import all_schemes
from ..engine.scheme import Scheme
from ..kernels.registry import use_backend
from .quantize import quantize_weight

log = logging.getLogger(__name__)


class SchemeLayout(QuantizedLayout):
    """The layout of one scheme: every method asks the scheme, a subclass only names it."""

    SCHEME: ClassVar[str]

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        """What belongs to the codes. Every tensor is a field: the host moves them by the fields.

        `group_size` 0: the scheme has none. `backend` None leaves the choice to the registry.
        """

        zeros: torch.Tensor | None = None
        group_size: int = 0
        backend: str | None = None
        transposed: bool = False

        def _tensor_fields(self) -> list[str]:
            return ["scale"] if self.zeros is None else ["scale", "zeros"]

    @classmethod
    def scheme(cls) -> Scheme:
        """The scheme that this layout stores."""
        return all_schemes()[cls.SCHEME]

    @classmethod
    def quantize(
        cls,
        tensor: torch.Tensor,
        scale: object = None,
        stochastic_rounding: int | None = 0,
        inplace_ops: bool = False,
        backend: str | None = None,
        scale_dtype: torch.dtype | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, Params]:
        """Codes and params of `tensor` (n, k); the scale always comes from the tensor itself.

        The host asks for stochastic rounding where it adds a LoRA to a quantized weight. Rounding
        to nearest has the smaller error and leaves an unchanged weight unchanged: it is used here.
        """
        half = {torch.float16: "F16"}.get(scale_dtype or tensor.dtype, "BF16")
        pieces = quantize_weight(cls.SCHEME, tensor, tensor.device, half)
        params = cls.params_of(pieces, tuple(tensor.shape), tensor.dtype)
        return pieces["weight"], dataclasses.replace(params, backend=backend)

    @classmethod
    def params_of(
        cls,
        pieces: dict[str, torch.Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        settings: dict[str, Any] | None = None,
    ) -> Params:
        """Params from a scheme's pieces; `settings` is what the layer's JSON says."""
        n, k = shape
        facts = {**cls.scheme().config(n, k), **(settings or {})}
        return cls.Params(
            scale=cls.scale_in_memory(pieces["scale"]),
            orig_dtype=dtype,
            orig_shape=shape,
            zeros=pieces.get("zeros"),
            group_size=int(facts.get("group_size", 0)),
        )

    @classmethod
    def scale_in_memory(cls, scale: torch.Tensor) -> torch.Tensor:
        """The scale as Params hold it."""
        return scale

    @classmethod
    def tensors(cls, qdata: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        """{role: tensor}, as the scheme's functions take them."""
        found = {"weight": qdata, "scale": params.scale}
        return found if params.zeros is None else found | {"zeros": params.zeros}

    @classmethod
    def settings(cls, params: Params) -> dict[str, object]:
        """What the layer's JSON says beside the format."""
        return {"group_size": params.group_size} if params.group_size else {}

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: Params) -> torch.Tensor:
        """(n, k) in the logical dtype, computed in float32."""
        weight = cls.scheme().dequantize(cls.tensors(qdata, params), cls.settings(params))
        return weight.to(params.orig_dtype)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[torch.Tensor, ...]:
        """The codes, then every tensor of the params."""
        params = qtensor.params
        return qtensor._qdata, *(getattr(params, name) for name in params._tensor_fields())

    @classmethod
    def state_dict_tensors(cls, qdata: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        """{suffix after `weight`: tensor} in the shapes of the file."""
        rows, k = qdata.shape[0], params.orig_shape[0 if params.transposed else 1]
        pieces = cls.scheme().pieces(rows, k, "BF16")
        tensors = cls.tensors(qdata, params)
        spelled = {pieces[role].suffix.removeprefix(".weight"): t for role, t in tensors.items()}
        return spelled | {"_scale": cls.scale_on_disk(params.scale)}

    @classmethod
    def scale_on_disk(cls, scale: torch.Tensor) -> torch.Tensor:
        """The scale as a file holds it."""
        return scale

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, object]:
        """What a new quantization of the same layer keeps."""
        params = qtensor.params
        return {"backend": params.backend, "scale_dtype": params.scale.dtype}

    @classmethod
    def linear(
        cls, x: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """y = x W.T + bias as the scheme means it, on the backend that takes the call."""
        params = weight.params
        forced = use_backend(params.backend) if params.backend else nullcontext()
        with forced:
            tensors = cls.tensors(weight._qdata, params)
            return cls.scheme().linear(x, tensors, cls.settings(params), bias)


class FuseQuantFP8RowLayout(SchemeLayout):
    """e4m3 codes (n, k), scale (n, 1) in memory and (n) on disk."""

    SCHEME = "fp8_row"

    @classmethod
    def scale_in_memory(cls, scale: torch.Tensor) -> torch.Tensor:
        """(n) or (n, 1) or one number -> (n, 1) or ()."""
        return scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, 1)

    @classmethod
    def scale_on_disk(cls, scale: torch.Tensor) -> torch.Tensor:
        """(n, 1) -> (n)."""
        return scale.reshape(-1)


class FuseQuantFP8BlockLayout(SchemeLayout):
    """e4m3 codes (n, k), scale (ceil(n / 128), ceil(k / 128))."""

    SCHEME = "fp8_block128"


class FuseQuantInt4Layout(SchemeLayout):
    """Two 4-bit codes a byte (n, k / 2), scale and zeros (k / 128, n)."""

    SCHEME = "int4_g128"


@dataclass(frozen=True)
class OwnFormat:
    """A format id on disk, the layout that holds it and the dtype of its codes."""

    format_id: str
    layout: type[SchemeLayout]
    codes: torch.dtype

    @property
    def layout_name(self) -> str:
        """The name in comfy-kitchen's table."""
        return self.layout.__name__


OWN_FORMATS = {
    own.format_id: own
    for own in (
        OwnFormat("float8_e4m3fn_rowwise", FuseQuantFP8RowLayout, torch.float8_e4m3fn),
        OwnFormat("float8_e4m3fn_blockwise", FuseQuantFP8BlockLayout, torch.float8_e4m3fn),
        OwnFormat("awq_w4a16", FuseQuantInt4Layout, torch.int8),
    )
}


def registered(name: str) -> type[QuantizedLayout] | None:
    """The layout class that comfy-kitchen knows by `name`, or None."""
    try:
        found: type[QuantizedLayout] = get_layout_class(name)
    except KeyError:
        return None
    return found


def register() -> None:
    """Make our layouts and format ids known to comfy-kitchen and ComfyUI; theirs stay as they are.

    Where another copy of the pack was first, its layouts stay and are used.
    """
    import comfy.quant_ops

    for op, answer in _HANDLED.items():
        register_layout_op(getattr(torch.ops.aten, op).default, SchemeLayout)(answer)
    for own in OWN_FORMATS.values():
        first = registered(own.layout_name)
        if first is None:
            register_layout_class(own.layout_name, own.layout)
        elif first is not own.layout:
            log.warning(
                "%s is registered by %s, a second copy of the pack: that one is used",
                own.layout_name,
                first.__module__,
            )
        comfy.quant_ops.QUANT_ALGOS.setdefault(
            own.format_id,
            {
                "storage_t": own.codes,
                "parameters": {"weight_scale"},
                "comfy_tensor_layout": own.layout_name,
                "quantize_input": False,
            },
        )


def _ours(value: object) -> bool:
    return isinstance(value, QuantizedTensor) and hasattr(value.layout_cls, "SCHEME")


def _plain(value: Any) -> Any:
    return value.dequantize() if isinstance(value, QuantizedTensor) else value


def _multiply(x: Any, weight: Any, bias: Any, transposed: bool) -> torch.Tensor | None:
    """x W.T + bias when `weight` is ours and lies the right way round, else None."""
    if not _ours(weight) or weight.params.transposed != transposed:
        return None
    result: torch.Tensor = weight.layout_cls.linear(_plain(x), weight, _plain(bias))
    return result


def _transpose(first: Any, args: Any, kwargs: Any) -> Any:
    """The same codes, seen the other way round."""
    weight, params = args[0], args[0].params
    turned = dataclasses.replace(
        params, orig_shape=params.orig_shape[::-1], transposed=not params.transposed
    )
    return QuantizedTensor(weight._qdata, weight._layout_cls, turned)


def _linear(first: Any, args: Any, kwargs: Any) -> Any:
    """linear(x, W, bias)."""
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    done = _multiply(args[0], args[1], bias, transposed=False)
    return torch.nn.functional.linear(*dequantize_args(args)) if done is None else done


def _mm(first: Any, args: Any, kwargs: Any) -> Any:
    """mm(x, W.t()), what linear becomes outside inference mode."""
    done = _multiply(args[0], args[1], None, transposed=True)
    return torch.mm(*dequantize_args(args)) if done is None else done


def _addmm(first: Any, args: Any, kwargs: Any) -> Any:
    """addmm(bias, x, W.t()) with both factors 1."""
    plain = kwargs.get("beta", 1) == 1 and kwargs.get("alpha", 1) == 1
    done = _multiply(args[1], args[2], args[0], transposed=True) if plain else None
    if done is None:
        return torch.addmm(*dequantize_args(args), **dequantize_args(kwargs))
    return done


_HANDLED = {"t": _transpose, "linear": _linear, "mm": _mm, "addmm": _addmm}
