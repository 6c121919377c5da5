"""docs/images/chain.jpg: the fused chain of Qwen-Image-Edit as ComfyUI's page shows it.

    python -m tests.browser.picture [NAME OF A WORKFLOW] [FILE]

The files that the workflow names are there as stand-ins, so that the page finds every one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..live.comfy import HOW, find
from ..live.server import ComfyServer
from ..live.smallest import smallest
from ..live.stand_ins import StandIns
from ..workflows import shipped
from .chromium import Chromium
from .comfy_page import ComfyPage

CHAIN = "image_qwen-edit-2511_edit-fused_int8-convrot_10-12gb"
TARGET = shipped.ROOT / "docs" / "images" / "chain.jpg"
LARGEST, WIDTH, HEIGHT = 300_000, 1600, 700
GROUPS = "Load|Fuse|Quantize|Live|VRAM"  # what this pack does; prompt and sampling are cut off
QUALITIES = (92, 88, 84, 78, 70)


def picture(name: str, target: Path) -> Path:
    """Open a workflow and keep what the page shows, in fewer bytes than LARGEST."""
    comfy = find()
    if comfy is None:
        raise SystemExit(HOW)
    with ComfyServer(comfy) as server, Chromium() as browser:
        files = StandIns(comfy, server.base / "models", server.base / "stand-ins")
        smallest(shipped.prompt(name), server, files, shipped.folders(name))
        page = ComfyPage(browser, server, WIDTH)
        page.open(shipped.workflow(name))
        for quality in QUALITIES:
            page.picture(target, HEIGHT, WIDTH, GROUPS, quality)
            if target.stat().st_size < LARGEST:
                return target
    raise SystemExit(f"{target} does not come below {LARGEST} bytes")


if __name__ == "__main__":
    given = sys.argv[1:]
    picture(given[0] if given else CHAIN, Path(given[1]) if len(given) > 1 else TARGET)
