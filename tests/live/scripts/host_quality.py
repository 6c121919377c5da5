"""The Quality Meter on a tiny FLUX: a planted layer, a lost LoRA, other clones, one seed: facts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PLANTED = "double_blocks.1.img_mlp.2"


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, lora: str, small: str) -> Iterator[dict[str, Any]]:
    """The file of a FLUX, a LoRA for it and one that is 1 % of the weights -> facts."""
    import comfy.sd

    torch.set_num_threads(1)
    h = _models()
    source = comfy.sd.load_diffusion_model(model)
    yield from _planted(h, model, source)
    yield from _loras(h, model, lora, small, source)
    yield from _sampled(h, lora, source)


def _told(found: Any) -> dict[str, Any]:
    measured = found.measured
    worst = measured.layers[0]
    return {
        "passed": found.verdict.passed, "failures": list(found.verdict.failures),
        "worst": worst.name, "error": worst.relative_error, "layers": len(measured.layers),
        "kept": [lora.sums.kept for lora in measured.loras],
        "named": [lora.lora for lora in measured.loras],
        "text": found.text(),
    }  # fmt: skip


def _measure(first: Any, second: Any, level: str = "normal", **more: Any) -> Any:
    from fusequant.engine.measure.verdict import thresholds
    from fusequant.host import quality

    return quality.measure((first, second), None, thresholds(level), **more)


def _quantized(patcher: Any, scheme: str, backend: str | None = None) -> Any:
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(patcher, Request(scheme, backend=backend))[0]


def _planted(h: Any, model: str, source: Any) -> Iterator[dict[str, Any]]:
    import comfy.utils

    from fusequant.host.pristine import build, init_of

    good = _quantized(source, "int8")
    yield {"fact": "good", **_told(_measure(source, good))}
    bad = build(init_of(source))
    weight = comfy.utils.get_attr(bad.model, f"diffusion_model.{PLANTED}.weight")
    worse = weight.detach() + 0.3 * weight.std() * torch.randn(weight.shape)
    comfy.utils.set_attr_param(bad.model, f"diffusion_model.{PLANTED}.weight", worse)
    yield {"fact": "planted", **_told(_measure(source, bad))}
    comfy.utils.set_attr_param(bad.model, f"diffusion_model.{PLANTED}.weight", worse * float("nan"))
    yield {"fact": "nan", **_told(_measure(source, bad, "loose"))}


def _loras(h: Any, model: str, lora: str, small: str, source: Any) -> Iterator[dict[str, Any]]:
    import comfy.sd

    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.live_lora import add_live_loras
    from fusequant.host.lora_match import Lora

    fused = fuse_loras(source, [Lora(Path(small), 1.0)])[0]
    for scheme in ("fp8", "int8"):
        made = _quantized(fused, scheme)
        yield {"fact": "fused", "scheme": scheme, **_told(_measure(fused, made))}
        # without the LoRA on the reference it is found in the model's recipe
        yield {"fact": "recipe", "scheme": scheme, **_told(_measure(source, made))}
    bare = comfy.sd.load_diffusion_model(model, {"dtype": torch.float8_e4m3fn})
    lost = h.with_lora(bare, small)
    yield {"fact": "lost", **_told(_measure(h.with_lora(source, small), lost, "loose"))}
    quantized = _quantized(source, "int8", "kitchen")  # ComfyUI rounds at random, ours to nearest
    after = h.with_lora(quantized, small)
    yield {"fact": "after", **_told(_measure(h.with_lora(source, small), after))}
    live = add_live_loras(quantized, [Lora(Path(small), 1.0)])[0]
    yield {"fact": "live", **_told(_measure(source, live))}
    # another clone's LoRA is in the shared module just now
    h.output(h.with_lora(source, lora))
    yield {"fact": "other clone", **_told(_measure(source, quantized))}
    h.output(source)


def _sampled(h: Any, lora: str, source: Any) -> Iterator[dict[str, Any]]:
    from fusequant.host.end_to_end import Sampling

    generator = torch.Generator().manual_seed(0)
    context = torch.randn((1, 8, 128), generator=generator)
    said = {"pooled_output": torch.randn((1, 768), generator=generator), "guidance": 4.0}
    cond, latent = [[context, said]], {"samples": torch.zeros(1, 16, 8, 8)}
    how = Sampling(cond, cond, latent, seed=5, steps=2, vae=_Vae())
    for scheme in ("int8", "int4_g128"):
        found = _measure(source, _quantized(source, scheme), "loose", sampling=how)
        yield {
            "fact": "sampled", "scheme": scheme, "latent": found.run.latent_error,
            "psnr": found.run.image.psnr, "chart": list(found.chart().shape), **_told(found),
        }  # fmt: skip
    with_lora = h.with_lora(source, lora)
    found = _measure(source, _quantized(with_lora, "int8"), "loose", sampling=how)
    yield {"fact": "same lora", "latent": found.run.latent_error, "text": found.text()}
    dark = Sampling(cond, cond, latent, seed=5, steps=1, vae=_Vae(black_at=2))
    yield {"fact": "black", **_told(_measure(source, _quantized(source, "int8"), sampling=dark))}


class _Vae:
    """Three channels of the latent as a picture; black from the call `black_at` on."""

    def __init__(self, black_at: int = 0) -> None:
        self._calls, self._black_at = 0, black_at

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """(1, 16, h, w) -> (1, h, w, 3)."""
        self._calls += 1
        picture = latent[:, :3].movedim(1, -1).sigmoid()
        return picture * (self._calls != self._black_at)
