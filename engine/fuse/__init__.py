"""LoRA files in, float32 weight rows with every delta added out."""
