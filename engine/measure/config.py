"""Sizes of a transformer in, its parameters' names and shapes out; FLUX's here. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..errors import Refused

HEAD_DIM = 128  # FLUX: rotary axes of 16 + 56 + 56 numbers
LATENT_CHANNELS = 64  # 16 channels x a patch of 2 x 2
TIME_CHANNELS = 256
BLOCK_SIZES = (3072, 2048, 1536, 1024, 768, 512, 256)  # hidden sizes tried by of_size, widest first

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Raised:
    """The inputs of `layers` are multiplied by 1 + row `row` of a tensor seen as (rows, hidden)."""

    layers: tuple[str, ...]
    row: int
    rows: int


class Config(Protocol):
    """The sizes of a transformer, and which of its layers play which part."""

    @property
    def hidden(self) -> int:
        """Channels of the stream that every block adds to."""
        ...

    @property
    def context(self) -> int:
        """Channels of the text that comes in."""
        ...

    def shapes(self) -> Shapes:
        """{parameter name: shape}, in the order of a file."""
        ...

    def quantized(self) -> list[str]:
        """The attention and MLP layers of every block: what every scheme quantizes."""
        ...

    def modulation(self) -> list[str]:
        """The layers whose output shifts, scales and gates the blocks."""
        ...

    def raised(self) -> dict[str, tuple[Raised, ...]]:
        """{tensor: which activations its rows multiply}."""
        ...


def misfit(family: str, found: str) -> Refused:
    """The refusal of parameters that are not those of a reference transformer."""
    return Refused(
        f"not-{family.replace('_', '-')}-shaped",
        found=f"no fitting {found}",
        expected=f"exactly the parameters of a {family} transformer",
        fix="use a file made by `fusequant demo` or the plain model of this family",
    )


@dataclass(frozen=True)
class FluxConfig:
    """A FLUX.1 of any size: `hidden` is a multiple of 128, a head has 128 numbers."""

    hidden: int = 512
    double_blocks: int = 2
    single_blocks: int = 2
    context: int = 256
    vector: int = 256
    guidance: bool = True

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_DIM

    @property
    def size_bytes(self) -> int:
        """Bytes of all parameters in bf16."""
        return 2 * sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> Shapes:
        """{parameter name: shape}, in the order of a FLUX file."""
        h = self.hidden
        linears = {"img_in": (h, LATENT_CHANNELS), "txt_in": (h, self.context)}
        embedders = {"time_in": TIME_CHANNELS, "vector_in": self.vector}
        embedders |= {"guidance_in": TIME_CHANNELS} if self.guidance else {}
        for name, width in embedders.items():
            linears |= {f"{name}.in_layer": (h, width), f"{name}.out_layer": (h, h)}
        norms = []
        for i in range(self.double_blocks):
            for side in ("img", "txt"):
                at = f"double_blocks.{i}.{side}"
                linears |= {
                    f"{at}_mod.lin": (6 * h, h),
                    f"{at}_attn.qkv": (3 * h, h),
                    f"{at}_attn.proj": (h, h),
                    f"{at}_mlp.0": (4 * h, h),
                    f"{at}_mlp.2": (h, 4 * h),
                }
                norms.append(f"{at}_attn.norm")
        for i in range(self.single_blocks):
            at = f"single_blocks.{i}"
            linears |= {
                f"{at}.linear1": (7 * h, h),
                f"{at}.linear2": (h, 5 * h),
                f"{at}.modulation.lin": (3 * h, h),
            }
            norms.append(f"{at}.norm")
        linears |= {
            "final_layer.adaLN_modulation.1": (2 * h, h),
            "final_layer.linear": (LATENT_CHANNELS, h),
        }
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in norms:
            shapes |= {
                f"{name}.query_norm.scale": (HEAD_DIM,),
                f"{name}.key_norm.scale": (HEAD_DIM,),
            }
        return shapes

    def linears(self) -> dict[str, tuple[int, int]]:
        """{layer name: (outputs, inputs)} of every matrix."""
        return {
            key.removesuffix(".weight"): (shape[0], shape[1])
            for key, shape in self.shapes().items()
            if len(shape) == 2
        }

    def quantized(self) -> list[str]:
        """The attention and MLP layers of every block: what every scheme quantizes."""
        return [
            name
            for name in self.linears()
            if "_blocks." in name and not name.endswith(("_mod.lin", "modulation.lin"))
        ]

    def modulation(self) -> list[str]:
        """The layers that make the modulation of each block, and of the last one."""
        ends = ("_mod.lin", "modulation.lin", "adaLN_modulation.1")
        return [name for name in self.linears() if name.endswith(ends)]

    def raised(self) -> dict[str, tuple[Raised, ...]]:
        """What the modulation's bias multiplies the inputs of a block's layers by."""
        found: dict[str, tuple[Raised, ...]] = {}
        for i in range(self.double_blocks):
            for side in ("img", "txt"):
                at = f"double_blocks.{i}.{side}"
                rows = (Raised((f"{at}_attn.qkv",), 1, 6), Raised((f"{at}_mlp.0",), 4, 6))
                found[f"{at}_mod.lin.bias"] = rows
        for i in range(self.single_blocks):
            at = f"single_blocks.{i}"
            found[f"{at}.modulation.lin.bias"] = (Raised((f"{at}.linear1",), 1, 3),)
        return found


TINY = FluxConfig()


def of_size(size_bytes: int) -> FluxConfig:
    """The widest FLUX shape whose parameters take at most `size_bytes` in bf16.

    One double and two single blocks at least; about twice as many single as double blocks.
    """
    for hidden in BLOCK_SIZES:
        context, vector = (4096, 768) if hidden >= 1024 else (256, 256)
        base = FluxConfig(hidden, 0, 0, context, vector).size_bytes
        double = FluxConfig(hidden, 1, 0, context, vector).size_bytes - base
        single = FluxConfig(hidden, 0, 1, context, vector).size_bytes - base
        doubles = (size_bytes - base) // (double + 2 * single)
        if doubles >= 1:
            singles = (size_bytes - base - doubles * double) // single
            return FluxConfig(hidden, doubles, singles, context, vector)
    raise Refused(
        "size-too-small",
        found=f"{size_bytes} bytes",
        expected=f"at least {FluxConfig(BLOCK_SIZES[-1], 1, 2).size_bytes}",
        fix="ask for a larger file.",
    )


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> FluxConfig:
    """The config whose parameters these are, from the names and shapes of a file."""

    def blocks(kind: str) -> int:
        return len({key.split(".")[1] for key in shapes if key.startswith(kind)})

    needed = ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight")
    absent = [key for key in needed if key not in shapes]
    if not absent:
        config = FluxConfig(
            hidden=shapes["img_in.weight"][0],
            double_blocks=blocks("double_blocks."),
            single_blocks=blocks("single_blocks."),
            context=shapes["txt_in.weight"][1],
            vector=shapes["vector_in.in_layer.weight"][1],
            guidance="guidance_in.in_layer.weight" in shapes,
        )
        absent = [key for key, shape in config.shapes().items() if shapes.get(key) != shape]
    if absent:
        raise Refused(
            "not-flux-shaped",
            found=f"no fitting {absent[0]} ({len(absent)} in all)",
            expected="the parameters of a FLUX.1 transformer",
            fix="use a file made by `fusequant demo` or a FLUX.1 checkpoint.",
        )
    return config
