"""`python -m fusequant.authoring` writes workflows/, thumbnails too, and docs/workflows.md."""

from __future__ import annotations

import sys

from .build import workflows
from .table import FOLDER, ROOT, page
from .thumbnail import thumbnail
from .written import editor_json, text


def main() -> int:
    """Write what has changed; what no family makes any more goes away."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        if path.suffix in (".json", ".jpg") and path.stem not in workflows():
            path.unlink()
    for name, workflow in workflows().items():
        _write(f"{name}.json", text(editor_json(name, workflow.graph)).encode())
        _write(f"{name}.jpg", thumbnail(workflow))
    (ROOT / "docs" / "workflows.md").write_text(page(), encoding="utf-8", newline="\n")
    return 0


def _write(name: str, data: bytes) -> None:
    path = FOLDER / name
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
