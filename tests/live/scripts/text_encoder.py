"""Quantized T5/CLIP Loader inside ComfyUI: kinds, dialects, schemes and devices at tiny sizes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
import torch

Facts = Iterator[dict[str, Any]]
LAYERS = 3
CLIP = {"width": 256, "layers": LAYERS}
T5_SCHEMES, CLIP_KIND = ("int8", "int4_g128"), "stable_diffusion"


def _files() -> Any:
    path = Path(__file__).with_name("encoder_files.py")
    spec = importlib.util.spec_from_file_location("encoder_files", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["encoder_files"] = module
    spec.loader.exec_module(module)
    return module


def run(folder: str, only: str = "") -> Facts:
    """A folder for the files -> facts."""
    import small_sizes.tokenizers  # noqa: F401

    torch.set_num_threads(1)
    h, where = _files(), Path(folder)
    parts = (_clip, _clip_schemes, _t5, _wan, _qwen, _qwen3, _kinds, _three, _refused)
    with torch.inference_mode():
        for part in parts:
            if not only or part.__name__ == only:
                yield from part(h, where)


def _load(paths: list[Any], kind: str, scheme: str | None = None, **more: Any) -> tuple[Any, Any]:
    from fusequant.host.text_encoder import load_text_encoder

    return load_text_encoder(paths, kind, scheme, **more)


def _stock(paths: list[Any], kind: str, options: dict[str, Any]) -> Any:
    import comfy.sd

    return comfy.sd.load_clip(
        [str(path) for path in paths], clip_type=comfy.sd.CLIPType[kind.upper()],
        model_options=options,
    )  # fmt: skip


def _output(clip: Any) -> torch.Tensor:
    tokens = clip.tokenize("a photograph of a red fox in the snow")
    return clip.encode_from_tokens(tokens).float()


def _copied(clip: Any) -> torch.Tensor:
    """The output of a fresh copy, as compile and several GPUs make it."""
    copy = clip.clone()
    copy.patcher = clip.patcher.clone(force_deepcopy=True)
    copy.cond_stage_model = copy.patcher.model
    return _output(copy)


def _clip(h: Any, folder: Path) -> Facts:
    """CLIP-L in every dialect, as stored, and what the stock loader makes of it."""
    from fusequant.kernels.registry import noted

    plain = tiny.clip_l(folder / "clip_l.safetensors", **CLIP)
    reference, _ = _load([plain], CLIP_KIND, options=tiny.clip_l_options(**CLIP))
    wanted = _output(reference)
    for dialect in h.DIALECTS:
        path, means = h.rewritten(str(plain), folder, dialect, "encoder.layers")
        clip, report = _load([path], CLIP_KIND, options=tiny.clip_l_options(**CLIP))
        model = clip.cond_stage_model
        found = h.weights(model, list(means))
        with noted() as ops:
            output = _output(clip)
        yield {
            "fact": "clip", "dialect": dialect, "text": report.text(),
            "ops": sorted({op for op, _ in ops}),
            "weights": max(h.error(found[x], means[x]) for x in means),
            "quantized": len(h.quantized_layers(model)), "layers": len(means),
            "error": h.error(output, wanted), "copy": torch.equal(_copied(clip), output),
            "bytes": h.held_bytes(model) / h.held_bytes(reference.cond_stage_model),
        }  # fmt: skip
    path = folder / "clip_l-core-fp8.safetensors"
    stock = _stock([path], CLIP_KIND, tiny.clip_l_options(**CLIP))
    yield {"fact": "stock clip", "error": h.error(_output(stock), wanted)}


def _clip_schemes(h: Any, folder: Path) -> Facts:
    """CLIP-L quantized on load: as Quantize Model does it, on the processor too."""
    from fusequant.engine.scheme_names import schemes
    from fusequant.host.model import quantize_clip
    from fusequant.host.pristine import Request

    # float16, as ComfyUI holds it: its loader and ours then quantize the same numbers
    plain = tiny.clip_l(folder / "clip_l-half.safetensors", **CLIP, dtype=torch.float16)
    source, _ = _load([plain], CLIP_KIND, options=tiny.clip_l_options(**CLIP))
    wanted = _output(source)
    for name in ("auto", "8-bit", "4-bit"):
        _, report = _load([plain], CLIP_KIND, name, options=tiny.clip_l_options(**CLIP))
        yield {"fact": "named scheme", "name": name, "schemes": dict(report.schemes)}
    for scheme in schemes():
        options = tiny.clip_l_options(**CLIP)
        clip, report = _load([plain], CLIP_KIND, scheme, device="cpu", options=options)
        later, _ = quantize_clip(source, Request(scheme))
        model = clip.cond_stage_model
        yield {
            "fact": "clip scheme", "scheme": scheme, "error": h.error(_output(clip), wanted),
            "bits": h.same(h.codes(model), h.codes(later.cond_stage_model)),
            "output": h.error(_output(later), _output(clip)) if report.quantized else 0.0,
            "copy": torch.equal(_copied(clip), _output(clip)), "layers": report.quantized,
            "text": report.text(),
            "device": [str(clip.patcher.load_device), str(clip.patcher.offload_device)],
        }  # fmt: skip
    again, report = quantize_clip(clip, Request("fp8"))
    yield {"fact": "clip source", "same": torch.equal(_output(source), wanted),
           "again": report.quantized, "text": report.text(),
           "error": h.error(_output(again), wanted)}  # fmt: skip


def _t5_file(folder: Path) -> Path:
    """T5-XXL, written when first asked for."""
    path = folder / "t5.safetensors"
    return path if path.exists() else tiny.t5(path, layers=LAYERS)


def _t5(h: Any, folder: Path) -> Facts:
    """T5-XXL beside CLIP-L as FLUX has them; a core-native file as the stock loader reads it."""
    from safetensors.torch import load_file

    clip_l = tiny.clip_l(folder / "clip_l.safetensors", **CLIP)
    t5 = _t5_file(folder)

    def options() -> dict[str, Any]:
        return {**tiny.clip_l_options(**CLIP), **tiny.t5_options(layers=LAYERS)}

    reference = _stock([clip_l, t5], "flux", options())
    wanted = _output(reference)
    plain_bytes = h.held_bytes(reference.cond_stage_model, "encoder.block")
    native, _ = h.rewritten(str(t5), folder, "core fp8", "block")
    quantized, _ = h.rewritten(str(clip_l), folder, "core int8", "encoder.layers")
    stock = _output(_stock([clip_l, native], "flux", options()))
    ours, told = _load([clip_l, native], "flux", options=options())
    both, told_both = _load([quantized, native], "flux", options=options())
    yield {
        "fact": "t5 native", "stock": h.error(_output(ours), stock), "text": told.text(),
        "translated": h.error(_output(both), stock), "both": told_both.text(),
        "error": h.error(stock, wanted),
    }  # fmt: skip
    del ours, both
    for scheme in T5_SCHEMES:
        clip, report = _load([clip_l, t5], "flux", scheme, options=options())
        yield {
            "fact": "t5 scheme", "scheme": scheme, "error": h.error(_output(clip), wanted),
            "weights": h.weight_error(clip.cond_stage_model, load_file(t5), "encoder.block"),
            "layers": report.quantized, "text": report.text(),
            "bytes": h.held_bytes(clip.cond_stage_model, "encoder.block") / plain_bytes,
        }  # fmt: skip


def _wan(h: Any, folder: Path) -> Facts:
    """UMT5 in the names of Wan's own release, `.pth`, int8 rows and plain; its tokenizer beside."""
    import comfy.text_encoders.wan
    from safetensors.torch import load_file

    places = Path(comfy.text_encoders.wan.__file__).parent / "t5_pile_tokenizer"
    words = (places / "tokenizer.model").read_bytes()
    hugging = tiny.t5(folder / "umt5.safetensors", layers=LAYERS, spiece=words)
    options = tiny.t5_options(umt5=True, layers=LAYERS)
    wanted = _output(_stock([hugging], "wan", options))
    tensors = {_wan_name(k): v for k, v in load_file(hugging).items() if k != "spiece_model"}
    inside = [
        k.removesuffix(".weight") for k, v in tensors.items() if ".attn." in k or ".ffn." in k
    ]
    rows, means = h.spelled("lightx2v int8", tensors, inside)  # with the one of no module
    release = folder / "release"
    release.mkdir()
    torch.save(rows, release / "models_t5_umt5-xxl-enc-int8.pth")
    torch.save(tensors, release / "models_t5_umt5-xxl-enc-bf16.pth")
    missing = h.kind_of(
        lambda: _load([release / "models_t5_umt5-xxl-enc-bf16.pth"], "wan", options=options)
    )
    (release / "spiece.model").write_bytes(words)
    for name, scheme in (("int8", None), ("bf16", None), ("bf16", "int8"), ("int8", "none")):
        clip, report = _load(
            [release / f"models_t5_umt5-xxl-enc-{name}.pth"], "wan", scheme, options=options
        )
        yield {
            "fact": "wan", "file": name, "scheme": scheme, "missing": missing,
            "text": report.text(),
            "error": None if scheme == "none" else h.error(_output(clip), wanted),
            "layers": len(means) - 1, "quantized": len(h.quantized_layers(clip.cond_stage_model)),
        }  # fmt: skip


def _wan_name(key: str) -> str:
    """Hugging Face's name of a UMT5 tensor -> Wan's."""
    bias = "layer.0.SelfAttention.relative_attention_bias"
    for old, new in (
        ("encoder.block.", "blocks."), (bias, "pos_embedding.embedding"),
        ("layer.0.SelfAttention.", "attn."), ("layer.0.layer_norm", "norm1"),
        ("layer.1.layer_norm", "norm2"), ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
        ("layer.1.DenseReluDense.wi_1", "ffn.fc1"), ("layer.1.DenseReluDense.wo", "ffn.fc2"),
        ("encoder.final_layer_norm", "norm"), ("shared", "token_embedding"),
    ):  # fmt: skip
        key = key.replace(old, new)
    return key


def _qwen(h: Any, folder: Path) -> Facts:
    """Qwen2.5-VL: eight and four bits, its vision tower as it is."""
    from safetensors.torch import load_file, save_file

    plain = tiny.qwen_vl(folder / "qwen.safetensors")
    tensors, options = load_file(plain), tiny.qwen_vl_options()
    tensors["visual.blocks.0.attn.qkv.weight"] = torch.randn(3840, 1280).bfloat16()
    tensors["visual.blocks.0.attn.qkv.bias"] = torch.zeros(3840).bfloat16()
    seen = folder / "qwen-seen.safetensors"
    save_file(tensors, str(seen))
    for scheme in ("int8", "int4_g128", "fp8_row"):
        clip, report = _load([seen], "qwen_image", scheme, options=options)
        yield {
            "fact": "qwen", "scheme": scheme, "finite": bool(_output(clip).isfinite().all()),
            "weights": h.weight_error(clip.cond_stage_model, tensors, "model.layers"),
            "layers": report.quantized, "text": report.text(),
            "visual": [x for x in h.quantized_layers(clip.cond_stage_model) if "visual" in x],
        }  # fmt: skip


def _qwen3(h: Any, folder: Path) -> Facts:
    """Qwen3-VL, whose layers the host renames while it loads; by 2560 it knows the 4 B model."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.visual.deepstack_merger_list.0.norm.weight": (4096,),
        "model.visual.merger.linear_fc2.weight": (2560, 4096),
        "model.language_model.embed_tokens.weight": (64, 2560),
        "model.language_model.norm.weight": (2560,),
    }
    for block in (0, 1):
        at = f"model.language_model.layers.{block}."
        heads = zip("qkv", (4, 2, 2), strict=True)
        shapes |= {f"{at}self_attn.{x}_proj.weight": (n * 128, 2560) for x, n in heads}
        shapes |= {f"{at}mlp.{x}_proj.weight": (256, 2560) for x in ("gate", "up")}
        shapes[f"{at}self_attn.o_proj.weight"] = (2560, 512)
        shapes[f"{at}mlp.down_proj.weight"] = (2560, 256)
        shapes |= {f"{at}self_attn.{x}_norm.weight": (128,) for x in "qk"}
        shapes |= {f"{at}{x}_layernorm.weight": (2560,) for x in ("input", "post_attention")}
    path = tiny.write(folder / "qwen3vl.safetensors", shapes, 0, torch.bfloat16)
    sizes = {"hidden_size": 2560, "intermediate_size": 256, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}  # fmt: skip
    for scheme in (None, "int8", "int4_g128"):
        clip, report = _load(
            [path], "boogu", scheme, options={"qwen3vl_4b_model_config": dict(sizes)}
        )
        yield {
            "fact": "qwen3", "scheme": scheme, "layers": report.quantized, "text": report.text(),
            "quantized": h.quantized_layers(clip.cond_stage_model),
        }  # fmt: skip


def _kinds(h: Any, folder: Path) -> Facts:
    """Every kind that the host's loaders offer for one file, with a CLIP-L: int8 near as stored."""
    from fusequant.host.text_encoder import clip_types

    plain = tiny.clip_l(folder / "clip_l.safetensors", **CLIP)
    stored: dict[str, torch.Tensor] = {}
    for kind in clip_types(1):
        try:
            clip, _ = _load([plain], kind, "int8", options=tiny.clip_l_options(**CLIP))
        except FileNotFoundError as error:  # this ComfyUI lacks the tokenizer of the kind
            yield {"fact": "kind", "kind": kind, "error": None, "lacks": str(error)}
            continue
        model = type(clip.cond_stage_model).__name__
        if model not in stored:
            whole, _ = _load([plain], kind, options=tiny.clip_l_options(**CLIP))
            stored[model] = _output(whole)
        yield {"fact": "kind", "kind": kind, "error": h.error(_output(clip), stored[model])}


def _three(h: Any, folder: Path) -> Facts:
    """Three files are SD3's; CLIP-G is too large for a test, so the second one takes its name."""
    clip_l = tiny.clip_l(folder / "clip_l.safetensors", **CLIP)
    t5 = _t5_file(folder)
    options = {**tiny.clip_l_options(**CLIP), **tiny.t5_options(layers=LAYERS)}
    clip, report = _load([clip_l, t5], "sd3", "int8", options=options)
    model = clip.cond_stage_model
    missing = h.kind_of(lambda: _load([clip_l, t5, clip_l], "sd3", "int8", options=options))
    yield {"fact": "sd3", "layers": len(h.quantized_layers(model)), "text": report.text(),
           "missing": missing}  # fmt: skip


def _refused(h: Any, folder: Path) -> Facts:
    clip_l = tiny.clip_l(folder / "clip_l.safetensors", **CLIP)
    flux = tiny.flux(folder / "flux.safetensors", double=1, single=1)
    t5 = _t5_file(folder)
    options = tiny.clip_l_options(**CLIP)
    cases = {
        "no such kind": lambda: _load([clip_l], "sdxl", options=options),
        "too many": lambda: _load([clip_l] * 4, "sd3", options=options),
        "a diffusion model": lambda: _load([flux], CLIP_KIND, "int8"),
        "another width": lambda: _load([t5], "sd3", "int8"),
        "no such scheme": lambda: _load([clip_l], CLIP_KIND, "fp9", options=options),
        "no such device": lambda: _load([clip_l], CLIP_KIND, device="mars", options=options),
    }
    for name, call in cases.items():
        yield {"fact": "refused", "name": name, "kind": h.kind_of(call)}
