"""ComfyUI's models folder in, a tiny FLUX with LoRA, VAE and CLIP-L out, in seconds and offline."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "live"))

import tiny


def main(models: Path) -> int:
    """Write the files that picture.json names."""
    flux = tiny.flux(models / "diffusion_models" / "tiny-flux.safetensors", context=768)
    tiny.lora(models / "loras" / "tiny-style.safetensors", flux)
    tiny.vae(models / "vae" / "tiny-vae.safetensors")
    tiny.clip_l(models / "text_encoders" / "tiny-clip-l.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
