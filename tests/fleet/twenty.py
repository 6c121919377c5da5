"""A folder in, tiny models of several families, LoRAs and a file of twenty recipes in it out."""

from __future__ import annotations

from pathlib import Path

from fusequant.engine.measure.synthetic import write_flux_like

from ..live import tiny

BIG_BYTES = 192 << 20  # long enough under way to be killed in the middle

RECIPES = """
[defaults]
scheme = "int8"
out = "{folder}/{name}.safetensors"

[[recipe]]
source = "flux.safetensors"
scheme = ["int8", "fp8", "fp8_row", "int4_g128", "none"]

[[recipe]]
name = "flux-style-{scheme}"
source = "flux.safetensors"
scheme = ["int8_convrot", "fp8", "int8"]
loras = ["flux-style.safetensors:0.8"]

[[recipe]]
name = "schnell-two-loras"
source = "schnell.safetensors"
loras = ["flux-style.safetensors:0.5", {{ file = "flux-turbo.safetensors", strength = -0.3 }}]
keep = ["double_blocks.0.img_mlp.*"]

[[recipe]]
source = "schnell.safetensors"
scheme = "fp8_e5m2"
dtype = "fp16"

[[recipe]]
name = "big"
source = "big.safetensors"
scheme = "int8_convrot"

[[recipe]]
source = "wan-high.safetensors"
scheme = ["int8", "fp8_block128", "int8_convrot", "int8_weight_only"]

[[recipe]]
name = "wan-image-{scheme}"
source = "wan-image.safetensors"
scheme = ["int8", "fp8_row"]
loras = ["wan-image-style.safetensors"]

[[recipe]]
name = "wan-pair"
scheme = "int8_convrot"
out = "{folder}/{name}-{part}.safetensors"
high = {{ source = "wan-high.safetensors", loras = ["wan-high-style.safetensors:0.9"] }}
low = {{ source = "wan-low.safetensors", loras = ["wan-low-style.safetensors:0.7"] }}

[[recipe]]
source = "t5.safetensors"
scheme = ["int8", "fp8"]
"""
COUNT, FILES = 20, 21


def write(folder: Path) -> None:
    """The models and the LoRAs."""
    tiny.flux(folder / "flux.safetensors", double=1, single=1)
    tiny.flux(folder / "schnell.safetensors", double=1, single=1, guidance=False, seed=1)
    tiny.wan(folder / "wan-high.safetensors", blocks=1, seed=2)
    tiny.wan(folder / "wan-low.safetensors", blocks=1, seed=3)
    tiny.wan(folder / "wan-image.safetensors", blocks=1, image=True, seed=4)
    tiny.t5(folder / "t5.safetensors", feed_forward=1024, layers=2)
    write_flux_like(folder / "big.safetensors", BIG_BYTES)
    for name, model, spelling in (
        ("flux-style", "flux", "kohya"),
        ("flux-turbo", "flux", "diffusers"),
        ("wan-image-style", "wan-image", "native"),
        ("wan-high-style", "wan-high", "native"),
        ("wan-low-style", "wan-low", "kohya"),
    ):
        lora = folder / f"{name}.safetensors"
        tiny.lora(lora, folder / f"{model}.safetensors", spelling, alpha=2)


def recipes(folder: Path, out: str) -> Path:
    """The twenty, writing into the folder `out`."""
    path = folder / f"{out}.toml"
    text = RECIPES.replace("{folder}", out).replace("{{", "{").replace("}}", "}")
    path.write_text(text, encoding="utf-8")
    return path
