"""int8 codes (N, K) in, a tensor that stands for them and is multiplied in oneDNN's order out.

Where the CPU has int8 units the first product puts the codes into oneDNN's own order, and the rows
are let go of: there is one copy, shared by every weight over the same codes. A model that is only
loaded or saved pays nothing. Whoever asks for numbers gets rows, made for that moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from ..kernels import ops
from ..kernels.registry import refusal, use_backend
from .backends import WHERE_IT_CAN
from .opaque import BRANCHED, LINEAR

Tensor = torch.Tensor

PACKER = "onednn"
SCHEMES = ("int8", "int8_convrot")
LEAST = 256  # inputs and outputs: the product of a smaller layer is over before its order matters
_OURS = LINEAR.partition("::")[0]
_PLAIN = ("full_precision_matrix_mult", True)  # activations stay as they are: no int8 product
_packing = threading.Lock()


def held(scheme: str, codes: Tensor, params: Any) -> Tensor:
    """`codes` of a layer that computes on the CPU, so that they can be packed where that pays."""
    pays = scheme in SCHEMES and _PLAIN not in params.settings and min(codes.shape) >= LEAST
    if not pays or codes.device.type != "cpu" or isinstance(codes, Codes) or refusal(PACKER):
        return codes
    return Codes(_Place(codes))


def mapped_bytes(model: torch.nn.Module) -> int:
    """Of rows in the map of their file that products of a model will pack into memory."""
    places = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        codes = getattr(weight, "_qdata", None)
        if isinstance(codes, Codes) and _packs(weight._params.backend or ""):
            places[id(codes.place)] = codes.place
    return sum(place.mapped_bytes for place in places.values())


class _Place:
    """Where the codes are: `tensor` is their rows or, after a product, the same packed."""

    def __init__(self, tensor: Tensor, stays: bool = False) -> None:
        self.tensor, self.shape, self.stays = tensor, tuple(tensor.shape), stays

    @property
    def mapped_bytes(self) -> int:
        """Of rows in the map of a file, 0 if they stay there or are packed.

        Memory of a map is not torch's own, which could resize it.
        """
        if self.stays or self.tensor.is_mkldnn or self.tensor.untyped_storage().resizable():
            return 0
        return self.tensor.nbytes

    def rows(self) -> Tensor:
        """int8 (N, K); made for the caller where the codes are packed."""
        return ops.unpack_int8(self.tensor)

    def packed(self) -> Tensor:
        """What a product takes: packed from now on, or the rows where they have to stay."""
        if self.stays or self.tensor.is_mkldnn:
            return self.tensor
        with _packing, torch.inference_mode(False), torch.no_grad(), use_backend(PACKER):
            if not self.tensor.is_mkldnn:
                self.tensor = ops.pack_int8(self.tensor)
        return self.tensor

    def unpack(self, stays: bool = False) -> Tensor:
        """The rows, which take the place of the packed codes; for good where they have to stay."""
        with _packing:
            self.tensor, self.stays = self.rows(), self.stays or stays
        return self.tensor


class Codes(torch.Tensor):
    """int8 (N, K) to everybody; `place` knows in which order the bytes really lie.

    Copies that the host makes without copying (`detach`) share the place. Who wants the memory
    itself, as a compiler does, gets rows that stay rows: an address must not go stale.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl
    place: _Place

    @staticmethod
    def __new__(cls, place: _Place) -> Codes:
        made: Codes = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, place.shape, dtype=torch.int8, device=place.tensor.device
        )
        made.place = place
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].place)
        if func is torch.ops.aten.clone.default:
            return cls(_Place(args[0].place.tensor.clone(), args[0].place.stays))
        kwargs = kwargs or {}
        if func.namespace == _OURS:  # these take either
            multiplies = func._schema.name in (LINEAR, BRANCHED)
            take = _for_product(args[-1]) if multiplies else _as_it_is
            return func(*map(take, args), **kwargs)
        if func._schema.is_mutable and isinstance(args[0], cls):
            func(args[0].place.unpack(), *map(_as_rows, args[1:]), **kwargs)
            return args[0]
        return func(*map(_as_rows, args), **{key: _as_rows(v) for key, v in kwargs.items()})

    def __repr__(self) -> str:  # type: ignore[override]
        order = "packed" if self.place.tensor.is_mkldnn else "rows"
        return f"Codes({tuple(self.shape)}, {order})"

    def is_contiguous(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the memory is that of the rows: who saves asks before it reads."""
        return not self.place.tensor.is_mkldnn

    def contiguous(self, *args: Any, **kwargs: Any) -> Tensor:
        """Rows as a plain tensor."""
        return self.place.rows()

    def data_ptr(self) -> int:
        """The address of rows that stay."""
        return self.place.unpack(stays=True).data_ptr()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Rows as an array."""
        return self.place.rows().numpy(*args, **kwargs)

    @property
    def rows(self) -> Tensor:
        """What `__tensor_flatten__` names."""
        return self.place.tensor

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """A compiler takes weights apart into tensors that it can imitate: rows, from now on."""
        self.place.unpack(stays=True)
        return ["rows"], None

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], context: None, size: Any, stride: Any
    ) -> Codes:  # fmt: skip
        return Codes(_Place(inner["rows"], stays=True))


def _for_product(backend: str) -> Callable[[Any], Any]:
    """How a product takes codes: as rows where it is forced to a backend that knows no other."""
    return _packed if _packs(backend) else _as_rows


def _packs(backend: str) -> bool:
    return backend.removesuffix(WHERE_IT_CAN) in ("", PACKER)


def _packed(value: Any) -> Any:
    return value.place.packed() if isinstance(value, Codes) else value


def _as_it_is(value: Any) -> Any:
    return value.place.tensor if isinstance(value, Codes) else value


def _as_rows(value: Any) -> Any:
    return value.place.rows() if isinstance(value, Codes) else value
