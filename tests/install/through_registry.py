"""The address of a registry, then the words of `cm-cli`: ComfyUI-Manager asks that registry.

Its address is a constant in ComfyUI-Manager, and no switch changes it.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    """Run cm-cli as its console script does, with another registry."""
    sys.path.append(os.environ["COMFYUI_PATH"])
    address = sys.argv.pop(1)
    from comfyui_manager.common import cnr_utils

    cnr_utils.base_url = address
    runpy.run_module("cm_cli", run_name="__main__")


if __name__ == "__main__":
    main()
