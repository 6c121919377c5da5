"""FuseQuant: fuse, quantize and offload diffusion transformers. Imports nothing when loaded."""
