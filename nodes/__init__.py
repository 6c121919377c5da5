"""ComfyUI's nodes: one V3 node a file, each ending in the constant NODE."""
