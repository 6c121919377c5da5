"""The only door to ComfyUI's internals: models, layouts, loading, paths and progress."""
