"""The ways to hold a FLUX-shaped model that are compared, and one denoising step of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SDPA, UNCHANGED = "pytorch", "auto"
BASELINE, CORE_BF16, OURS = "core fp32", "core bf16, SDPA", "int8, SDPA"
SHORT = {"latent": (1, 16, 8, 8), "text": 16}
WITH_LORA = "core fp32 + LoRA"
STRENGTH = 4.0  # far more than a style needs: what it changes shows above the error of int8
# |prediction - that of fp32| / |that of fp32|, as far as a way may be off
BOUNDS = {
    "fp32": 1e-4, "bf16": 0.01, "int8": 0.06, "int8_convrot": 0.015, "int8_weight_only": 0.025,
    "fp8": 0.02, "fp8_row": 0.02, "int4_g128": 0.2,
}  # fmt: skip
SCHEMES = ("int8", "int8_convrot", "fp8", "fp8_row", "int8_weight_only", "int4_g128")


@dataclass(frozen=True)
class Contender:
    """A way to hold and run the model. Those with the same `model`, of MODELS, share its weights.

    `reference`: the contender whose prediction it must give. `once`: its first step is all, since
    another shares its weights. `plain`: no pass over memory is compiled. With SDPA ours compute in
    the dtype that Speed Options advises for the processor; `other`: in the other one.
    """

    name: str
    model: str
    scheme: str
    attention: str = UNCHANGED
    reference: str = BASELINE
    once: bool = False
    plain: bool = False
    other: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether it is asked with SHORT first: whole numbers take a CPU without instructions for
        them hundreds of times as long, and so ComfyUI's int8.
        """
        return self.model == "core int8"

    @property
    def probed(self) -> bool:
        """Whether it is asked with SHORT too, so that what is doubtful has something beside it."""
        return self.name in (BASELINE, CORE_BF16, OURS)

    @property
    def ours(self) -> bool:
        """Whether our layers multiply."""
        return not self.model.startswith("core")


def compute_of(contender: Contender) -> str | None:
    """The compute dtype for Speed Options, None where nothing is set."""
    from fusequant.kernels import cpu

    if not contender.ours or contender.attention != SDPA:
        return None
    return "bf16" if cpu.multiplies_bf16() != contender.other else "fp32"


def _contenders() -> tuple[Contender, ...]:
    core = [
        Contender("core fp32", "core fp32", "fp32"),
        Contender("core fp32, SDPA", "core fp32", "fp32", SDPA),
        Contender(CORE_BF16, "core bf16", "bf16", SDPA),
        Contender("core bf16", "core bf16", "bf16", once=True),
    ]
    core += [Contender(f"core {scheme}", f"core {scheme}", scheme) for scheme in ("int8", "fp8")]
    own = [Contender(f"{scheme}, SDPA", scheme, scheme, SDPA) for scheme in SCHEMES]
    own += [Contender(scheme, scheme, scheme, once=scheme != "int8") for scheme in SCHEMES]
    return (
        *core,
        *own,
        Contender("int8, SDPA, the other dtype", "int8", "int8", SDPA, other=True),
        Contender("int8, SDPA, nothing compiled", "int8", "int8", SDPA, plain=True),
        Contender(WITH_LORA, WITH_LORA, "fp32", once=True, reference=WITH_LORA),
        Contender("int8, SDPA, Live LoRA", "int8 + live", "int8", SDPA, WITH_LORA),
        Contender("int8, SDPA, fused LoRA", "int8 + fused", "int8", SDPA, WITH_LORA),
    )


CONTENDERS = _contenders()


# --- the models ---


def _stock(path: str, **options: Any) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model(path, model_options=options)


def _stock_bf16(path: str) -> Any:
    """Held and computed in bf16: `--bf16-unet` and the node ModelComputeDtype."""
    import torch

    patcher = _stock(path, dtype=torch.bfloat16)
    patcher.set_model_compute_dtype(torch.bfloat16)
    return patcher


def _stock_lora(files: Mapping[str, str]) -> Any:
    import comfy.sd
    import comfy.utils

    tensors = comfy.utils.load_torch_file(files["lora"], safe_load=True)
    return comfy.sd.load_lora_for_models(_stock(files["model"]), None, tensors, STRENGTH, 0.0)[0]


def _scheme(path: str, scheme: str) -> Any:
    """Load FP8 DiT, quantizing."""
    from fusequant.host.load import load_diffusion_model

    return load_diffusion_model(path, scheme)[0]


def _fused(files: Mapping[str, str], scheme: str) -> Any:
    """Load FP8 DiT, Fuse LoRA, Quantize Model."""
    from fusequant.host.cached import quantize_model
    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.pristine import Request

    upstream = load_diffusion_model(files["model"])[0]
    fused, _ = fuse_loras(upstream, _loras(files))
    return quantize_model(fused, Request(scheme, cache="off"))[0]


def _live(patcher: Any, files: Mapping[str, str]) -> Any:
    from fusequant.host.live_lora import add_live_loras

    return add_live_loras(patcher, _loras(files))[0]


def _loras(files: Mapping[str, str]) -> list[Any]:
    from fusequant.host.lora import Lora

    return [Lora(Path(files["lora"]), STRENGTH, False)]


# name: (files, the models loaded so far) -> patcher
Loaded = dict[str, Any]
MODELS: dict[str, Callable[[Mapping[str, str], Loaded], Any]] = {
    "core fp32": lambda files, have: _stock(files["model"]),
    "core bf16": lambda files, have: _stock_bf16(files["model"]),
    "core int8": lambda files, have: _stock(files["int8"]),
    "core fp8": lambda files, have: _stock(files["fp8"]),
    WITH_LORA: lambda files, have: _stock_lora(files),
    **{
        scheme: lambda files, have, scheme=scheme: _scheme(files["model"], scheme)
        for scheme in SCHEMES
    },
    "int8 + live": lambda files, have: _live(have["int8"], files),
    "int8 + fused": lambda files, have: _fused(files, "int8"),
}


def quantized(patcher: Any) -> list[Any]:
    """The quantized weights of a model."""
    from comfy_kitchen.tensor import QuantizedTensor

    found = (getattr(module, "weight", None) for module in patcher.model.modules())
    return [weight for weight in found if isinstance(weight, QuantizedTensor)]


# --- a step ---


@dataclass(frozen=True)
class Given:
    """What goes into a step."""

    noise: Any
    condition: list[Any]

    @classmethod
    def of(cls, latent: Sequence[int], text: int, context: int, vector: int) -> Given:
        """Random numbers from one seed, guidance 4.0 (bf16 holds it exactly)."""
        import torch

        source = torch.Generator().manual_seed(0)
        told = {"pooled_output": torch.randn((1, vector), generator=source), "guidance": 4.0}
        context_ = torch.randn((1, text, context), generator=source)
        return cls(torch.randn(tuple(latent), generator=source), [[context_, told]])


class Timed:
    """A patcher whose steps are timed where the sampler asks for them."""

    def __init__(self, patcher: Any, attention: str, compute: str | None = None) -> None:
        import comfy.patcher_extension

        from fusequant.host import speed

        self.patcher = speed.speed_up(patcher, attention, compute=compute)[0]
        self._seen: list[tuple[float, Any]] = []
        kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
        self.patcher.add_wrapper_with_key(kind, "bench_step", self._note)

    def _note(self, executor: Any, x: Any, *more: Any, **options: Any) -> Any:
        began = time.perf_counter()
        denoised = executor(x, *more, **options)
        self._seen.append((time.perf_counter() - began, x - denoised))
        return denoised

    def step(self, given: Given) -> tuple[float, Any]:
        """(seconds, what the model predicts) of one step of KSampler."""
        import comfy.sample
        import torch

        self._seen.clear()
        comfy.sample.sample(
            self.patcher, given.noise, 1, 1.0, "euler", "simple", given.condition,
            given.condition, torch.zeros_like(given.noise), disable_pbar=True, seed=0,
        )  # fmt: skip
        ((seconds, prediction),) = self._seen
        return seconds, prediction.to(torch.float32)
