"""FuseQuant: fuse, quantize and offload diffusion transformers. Imports nothing when loaded."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    """Called by ComfyUI when it loads the pack -> the extension that names our nodes."""
    from .nodes._loading import extension

    return extension()
