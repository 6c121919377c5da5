"""The pickle of a torch checkpoint in, descriptions of its tensors out; its code is never run.

The opcodes are decoded by the standard library's `pickletools`, which runs nothing, and followed
here by a small stack machine that knows containers, numbers, text and the names that torch writes
for tensors. Any other name is refused where it stands. Objects are only ever described, so that no
torch is needed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from ..tensors import DTYPES
from .safetensors import AGAIN

OPCODE_CAP = 500_000  # some 30 for a tensor; bounds time and memory of a hostile file
PICKLE_CAP = 16 << 20  # bytes; some 200 for a tensor

STORAGES: dict[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
TORCH_DTYPES = {spelled for _, spelled in DTYPES.values()} | set(STORAGES.values())


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions, `module.name`, of the allowed ones."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A stored run of numbers: archive entry `data/<key>`, torch dtype (None: raw), count."""

    key: str
    dtype: str | None
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage: torch dtype name, then offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Opaque:
    """A value that carries no tensor: bytes, a set, a complex number."""


class _Mark:
    """The stack's MARK."""


_MARK = _Mark()


def describe(data: bytes, file: str) -> Any:
    """The pickled object: dicts, lists, tuples, text, numbers, StoredTensor in place of tensors."""
    machine = _Machine(file)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > OPCODE_CAP:
                raise too_long(f"more than {OPCODE_CAP} steps", file)
            step = _STEPS.get(opcode.name)
            if step is None:
                raise machine.code(f"the opcode {opcode.name}")
            step(machine, argument)
        return machine.stack.pop()
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as fault:
        raise Refused(
            "pickle-broken",
            found=f"a pickle in {file} that does not add up ({fault})",
            expected="what torch.save writes",
            fix=AGAIN,
        ) from fault


def too_long(found: str, file: str) -> Refused:
    """The refusal of a pickle that no checkpoint of tensors needs."""
    return Refused(
        "pickle-too-long",
        found=f"{found} in the pickle of {file}",
        expected="a checkpoint of tensors",
        fix="get the model as safetensors",
    )


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def code(self, what: str) -> Refused:
        return Refused(
            "pickle-code",
            found=f"{what} in the pickle of {self.file}",
            expected="tensors and plain containers only",
            fix="load it nowhere, it may run code; get the model as safetensors",
        )

    def after_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                return values
        raise ValueError("no mark")

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"{type(self.stack[-1]).__name__} in place of {kind.__name__}")
        return self.stack[-1]

    def name(self, spelled: str) -> None:
        module, _, last = spelled.rpartition(".")
        storage = module in ("torch", "torch.storage") and last in (*STORAGES, "UntypedStorage")
        dtype = module == "torch" and last in TORCH_DTYPES
        if not (storage or dtype or spelled in _CALLS or spelled in _TYPES):
            raise self.code(f"the name {spelled!r}")
        self.stack.append(Name(spelled))

    def put(self, slot: int | None) -> None:
        self.memo[len(self.memo) if slot is None else slot] = self.stack[-1]

    def set_items(self, values: list[Any]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise ValueError("a key without value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | None):
                raise TypeError(f"{type(key).__name__} as a key")
            target[key] = value

    def reduce(self, _: object) -> None:
        arguments = self.stack.pop()
        called = self.stack.pop()
        if not isinstance(called, Name) or called.name not in _CALLS:
            raise self.code(f"a call of {type(called).__name__} {getattr(called, 'name', '')!r}")
        self.stack.append(_CALLS[called.name](*arguments))

    def build(self, _: object) -> None:
        self.stack.pop()  # attributes, such as a state dict's _metadata, carry no tensor
        if not isinstance(self.stack[-1], dict | StoredTensor):
            raise self.code(f"a state for {type(self.stack[-1]).__name__}")

    def storage(self, _: object) -> None:
        kind, storage_type, key, _, count = self.stack.pop()
        dtype = STORAGES.get(storage_type.name.rpartition(".")[2])
        untyped = storage_type.name.endswith("UntypedStorage")
        if kind != "storage" or type(count) is not int or not (dtype or untyped):
            raise ValueError("a storage of no known kind")
        self.stack.append(Storage(str(key), dtype, count))


def _tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *rest: Any,
) -> StoredTensor:
    """`_rebuild_tensor` and `_v2`: rest is requires_grad, hooks and marks of a lazy change."""
    if rest[2:] and rest[2]:
        raise ValueError("a conjugated or negated view")
    if storage.dtype is None:
        raise ValueError("a tensor without dtype")
    return _checked(StoredTensor(storage, storage.dtype, offset, shape, strides))


def _typed_tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    grad: object,
    hooks: object,
    dtype: Name,
    *rest: Any,
) -> StoredTensor:
    """`_rebuild_tensor_v3`: dtypes without a storage class of their own, such as float8."""
    if rest and rest[0]:
        raise ValueError("a conjugated or negated view")
    return _checked(
        StoredTensor(storage, dtype.name.removeprefix("torch."), offset, shape, strides)
    )


def _checked(tensor: StoredTensor) -> StoredTensor:
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if not isinstance(tensor.storage, Storage) or tensor.dtype not in TORCH_DTYPES:
        raise ValueError("a tensor without storage or dtype")
    if not isinstance(tensor.shape, tuple) or len(tensor.shape) != len(tensor.strides):
        raise ValueError("a shape that does not fit its strides")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a negative shape, stride or offset")
    return tensor


def _parameter(data: StoredTensor, *_: object) -> StoredTensor:
    return data


def _subclass(build: Name, kind: object, arguments: tuple[Any, ...], state: object) -> StoredTensor:
    return _TENSORS[build.name](*arguments)


def _new_dict() -> dict[Any, Any]:
    return {}


def _size(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return values


def _opaque(*_: object) -> Opaque:
    return Opaque()


_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
_TENSORS: dict[str, Callable[..., StoredTensor]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_OPAQUE = ("set", "frozenset", "complex", "bytearray")
_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "torch.device": _opaque,
    "collections.OrderedDict": _new_dict,
    "_codecs.encode": _opaque,
    **{f"builtins.{name}": _opaque for name in _OPAQUE},
    **{f"__builtin__.{name}": _opaque for name in _OPAQUE},
}


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _tuple(size: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < size:
            raise IndexError("a tuple of too few")
        machine.stack[-size:] = [tuple(machine.stack[-size:])]

    return step


def _appends(machine: _Machine, values: list[Any]) -> None:
    machine.top(list).extend(values)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _append(machine: _Machine, _: Any) -> None:
    value = machine.stack.pop()
    _appends(machine, [value])


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.after_mark()


def _marked_dict(machine: _Machine, _: Any) -> None:
    values = machine.after_mark()
    machine.stack.append({})
    machine.set_items(values)


def _stack_name(machine: _Machine, _: Any) -> None:
    last, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(last, str):
        raise TypeError("a name that is no text")
    machine.name(f"{module}.{last}")


_PUSHED = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_PUSHED, _push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, slot: m.stack.append(m.memo[slot])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    "EMPTY_DICT": _constant(dict),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), _constant(list)),
    "EMPTY_TUPLE": _constant(tuple),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "MARK": _constant(lambda: _MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.after_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda machine, _: machine.stack.append(machine.after_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.after_mark()),
    "APPEND": _append,
    "APPENDS": lambda machine, _: _appends(machine, machine.after_mark()),
    "ADDITEMS": lambda machine, _: _appends(machine, machine.after_mark()),
    "DICT": _marked_dict,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.after_mark()),
    "GLOBAL": lambda machine, argument: machine.name(argument.replace(" ", ".")),
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
