"""Schemes that ComfyUI has no layout for in, comfy-kitchen layouts that compute with our ops out.

A quantized weight of ours is a comfy-kitchen QuantizedTensor, so the host's offloading, cloning,
LoRA and saving work on it as on its own formats. Importing this module registers nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from comfy_kitchen.tensor import (
    BaseLayoutParams,
    QuantizedLayout,
    QuantizedTensor,
    get_layout_class,
    register_layout_class,
)

from ..engine.rows import all_schemes
from ..engine.scheme import Scheme
from . import opaque, packed
from .backends import KITCHEN
from .products import answer_products
from .quantize import quantize_weight

log = logging.getLogger(__name__)

# of Params, all that may be there
TENSORS = ("scale", "zeros", "input_scale", "scale_2", "channel", "codebook")
SETTINGS = (
    "full_precision_matrix_mult", "convrot", "convrot_groupsize", "group_size", "linear_dtype",
    "orig_shape",
)  # fmt: skip


class SchemeLayout(QuantizedLayout):
    """The layout of one scheme: every method asks the scheme, a subclass only names it."""

    SCHEME: ClassVar[str]

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        """What belongs to the codes. Every tensor is a field: the host moves them by the fields.

        `settings` are what the layer's JSON says beside the format, as pairs. `backend` None leaves
        the choice to the registry.
        """

        zeros: torch.Tensor | None = None
        input_scale: torch.Tensor | None = None
        scale_2: torch.Tensor | None = None
        channel: torch.Tensor | None = None
        codebook: torch.Tensor | None = None
        settings: tuple[tuple[str, object], ...] = ()
        backend: str | None = None
        transposed: bool = False

        def _tensor_fields(self) -> list[str]:
            return [name for name in TENSORS if getattr(self, name) is not None]

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
        input_scale: torch.Tensor | None = None,
        full_precision: bool = False,
        packs: bool = False,
        **_: object,
    ) -> tuple[torch.Tensor, Params]:
        """Codes and params of `tensor` (n, k); the scale always comes from the tensor itself.

        The host asks for stochastic rounding where it adds a LoRA to a quantized weight. Rounding
        to nearest has the smaller error and leaves an unchanged weight unchanged: it is used here.
        """
        half = {torch.float16: "F16"}.get(scale_dtype or tensor.dtype, "BF16")
        pieces = quantize_weight(cls.SCHEME, tensor, tensor.device, half)
        codes = pieces["weight"]
        if input_scale is not None:
            pieces["input_scale"] = input_scale
        shape, facts = tuple(tensor.shape), {"full_precision_matrix_mult": True}
        params = cls.params_of(
            pieces, shape, tensor.dtype, facts if full_precision else {}, backend
        )
        return packed.held(cls.SCHEME, codes, params) if packs else codes, params

    @classmethod
    def params_of(
        cls,
        pieces: dict[str, torch.Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        facts: Mapping[str, object],
        backend: str | None = None,
    ) -> Params:
        """Params from a scheme's pieces; `facts` is what the layer's JSON says."""
        n, k = shape
        said = {**cls.scheme().config(n, k), **facts}
        beside = {role: pieces[role] for role in TENSORS if role in pieces}
        beside["scale"] = cls.scale_in_memory(pieces["scale"])
        return cls.Params(
            orig_dtype=dtype,
            orig_shape=shape,
            settings=tuple((name, _fixed(said[name])) for name in SETTINGS if name in said),
            backend=backend,
            **beside,
        )

    @classmethod
    def scale_in_memory(cls, scale: torch.Tensor) -> torch.Tensor:
        """The scale as Params hold it."""
        return scale

    @classmethod
    def tensors(cls, qdata: torch.Tensor, params: Params) -> dict[str, torch.Tensor]:
        """{role: tensor}, as the scheme's functions take them."""
        beside = {name: getattr(params, name) for name in params._tensor_fields()}
        return {"weight": qdata, **beside}

    @classmethod
    def dequantize(cls, qdata: torch.Tensor, params: Params) -> torch.Tensor:
        """(n, k) in the logical dtype, computed in float32."""
        k = params.orig_shape[0 if params.transposed else 1]
        return opaque.dequantize(
            cls.SCHEME, cls.tensors(qdata, params), params.settings, k, params.orig_dtype
        )

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
        found = {**cls.tensors(qdata, params), "scale": cls.scale_on_disk(params.scale)}
        return {
            pieces[role].suffix.removeprefix(".weight"): tensor
            for role, tensor in found.items()
            if role in pieces
        }

    @classmethod
    def scale_on_disk(cls, scale: torch.Tensor) -> torch.Tensor:
        """The scale as a file holds it."""
        return scale

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, object]:
        """What a new quantization of the same layer keeps."""
        params = qtensor.params
        return {
            "backend": params.backend,
            "scale_dtype": params.scale.dtype,
            "input_scale": params.input_scale,
            "full_precision": ("full_precision_matrix_mult", True) in params.settings,
            "packs": isinstance(qtensor._qdata, packed.Codes),
        }

    @classmethod
    def linear(
        cls, x: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """y = x W.T + bias as the scheme means it, on the backend that takes the call."""
        return cls.linear_of(x, weight._qdata, weight.params, bias)

    @classmethod
    def linear_of(
        cls,
        x: torch.Tensor,
        qdata: torch.Tensor,
        params: Params,
        bias: torch.Tensor | None,
        sides: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """`linear` of codes and params; with `sides` (R, K), (N, R) a low-rank branch is added."""
        tensors = cls.tensors(qdata, params)
        return opaque.linear(cls.SCHEME, x, tensors, params.settings, bias, params.backend, sides)


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


class FuseQuantFP8Layout(SchemeLayout):
    """The host's float8_e4m3fn on a backend that the user asked for."""

    SCHEME = "fp8"


class FuseQuantFP8E5M2Layout(SchemeLayout):
    """The host's float8_e5m2 on a backend that the user asked for."""

    SCHEME = "fp8_e5m2"


class FuseQuantInt8Layout(SchemeLayout):
    """The host's int8_tensorwise on a backend that the user asked for."""

    SCHEME = "int8"


class FuseQuantInt8ConvRotLayout(SchemeLayout):
    """The host's rotated int8_tensorwise on a backend that the user asked for."""

    SCHEME = "int8_convrot"


class FuseQuantInt8WeightOnlyLayout(SchemeLayout):
    """The host's int8_tensorwise with plain activations on a backend that the user asked for."""

    SCHEME = "int8_weight_only"


class FuseQuantMXFP8Layout(SchemeLayout):
    """The host's mxfp8 on a backend that the user asked for; exponents as bytes."""

    SCHEME = "mxfp8"


class FuseQuantNVFP4Layout(SchemeLayout):
    """The host's nvfp4 on a backend that the user asked for; block scales as bytes."""

    SCHEME = "nvfp4"


class FuseQuantW4A4Layout(SchemeLayout):
    """The host's convrot_w4a4 on a backend that the user asked for."""

    SCHEME = "w4a4_convrot"


class FuseQuantW4A8Layout(SchemeLayout):
    """The host's asym_w4a8_int8 on a backend that the user asked for; group scales as bytes."""

    SCHEME = "w4a8"


@dataclass(frozen=True)
class OwnFormat:
    """A layout of ours, the host's table entry that its layers point to and the dtype of its codes.

    `entry` is the format id on disk, except where the host would quantize the input before our
    layout sees it: there the entry is ours and the file says the host's id all the same.
    """

    entry: str
    layout: type[SchemeLayout]
    codes: torch.dtype

    @property
    def layout_name(self) -> str:
        """The name in comfy-kitchen's table."""
        return self.layout.__name__


# formats that the host cannot read, by format id
OWN_FORMATS = {
    own.entry: own
    for own in (
        OwnFormat("float8_e4m3fn_rowwise", FuseQuantFP8RowLayout, torch.float8_e4m3fn),
        OwnFormat("float8_e4m3fn_blockwise", FuseQuantFP8BlockLayout, torch.float8_e4m3fn),
        OwnFormat("awq_w4a16", FuseQuantInt4Layout, torch.int8),
    )
}
# the host's own formats on a forced backend, by scheme
FORCED_FORMATS = {
    own.layout.SCHEME: own
    for own in (
        OwnFormat("fusequant_float8_e4m3fn", FuseQuantFP8Layout, torch.float8_e4m3fn),
        OwnFormat("fusequant_float8_e5m2", FuseQuantFP8E5M2Layout, torch.float8_e5m2),
        OwnFormat("int8_tensorwise", FuseQuantInt8Layout, torch.int8),
        OwnFormat("int8_tensorwise", FuseQuantInt8ConvRotLayout, torch.int8),
        OwnFormat("int8_tensorwise", FuseQuantInt8WeightOnlyLayout, torch.int8),
        OwnFormat("fusequant_mxfp8", FuseQuantMXFP8Layout, torch.float8_e4m3fn),
        OwnFormat("fusequant_nvfp4", FuseQuantNVFP4Layout, torch.uint8),
        OwnFormat("convrot_w4a4", FuseQuantW4A4Layout, torch.int8),
        OwnFormat("asym_w4a8_int8", FuseQuantW4A8Layout, torch.int8),
    )
}
# the scheme of each format id that means one scheme alone
_ONE_SCHEME = {
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8_e5m2", "mxfp8": "mxfp8", "nvfp4": "nvfp4",
    "convrot_w4a4": "w4a4_convrot", "asym_w4a8_int8": "w4a8",
}  # fmt: skip
# hosts before 0.38 round the activations of these whatever the file says
_ROUNDS_INPUTS = ("int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8")


def own_format(
    facts: Mapping[str, object], backend: str | None, plain_input: bool = False
) -> OwnFormat | None:
    """The layout of ours for a layer whose JSON says `facts`; None where the host's is used.

    A forced backend takes ours, and so does `plain_input`: activations are to stay as they are and
    this host would quantize them all the same.
    """
    name = str(facts.get("format"))
    if name in OWN_FORMATS:
        return OWN_FORMATS[name]
    if backend == KITCHEN or (backend is None and not (plain_input and name in _ROUNDS_INPUTS)):
        return None
    if name == "int8_tensorwise":
        full = "int8_weight_only" if facts.get("full_precision_matrix_mult") else "int8"
        return FORCED_FORMATS["int8_convrot" if facts.get("convrot") else full]
    return FORCED_FORMATS.get(_ONE_SCHEME.get(name, ""))


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

    answer_products(SchemeLayout)
    for own in (*OWN_FORMATS.values(), *FORCED_FORMATS.values()):
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
            own.entry,
            {
                "storage_t": own.codes,
                "parameters": {"weight_scale", "input_scale"},
                "comfy_tensor_layout": own.layout_name,
                "quantize_input": False,
            },
        )


def _fixed(value: object) -> object:
    """A setting that can be a key."""
    return tuple(value) if isinstance(value, list) else value
