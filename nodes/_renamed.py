"""Old node ids -> what ComfyUI puts in their place when it opens or runs a graph saved with them.

No id has been renamed yet: the table is empty. Whoever renames one adds a line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Renamed:
    """An old node id and the node that takes its place.

    inputs   (new id, old id) of every input: ComfyUI drops those that are not listed
    widgets  the old inputs without a socket, in their order on the node
    outputs  (new place, old place), counted from 0
    """

    old: str
    new: str
    inputs: Sequence[tuple[str, str]]
    widgets: Sequence[str] = ()
    outputs: Sequence[tuple[int, int]] = ()


RENAMED: tuple[Renamed, ...] = ()


async def register(table: Sequence[Renamed]) -> None:
    """Tell ComfyUI of every line of a table."""
    from comfy_api.latest import ComfyAPI, io  # type: ignore[import-not-found]

    for line in table:
        replacement = io.NodeReplace(
            new_node_id=line.new,
            old_node_id=line.old,
            old_widget_ids=list(line.widgets),
            input_mapping=[{"new_id": new, "old_id": old} for new, old in line.inputs],
            output_mapping=[{"new_idx": new, "old_idx": old} for new, old in line.outputs],
        )
        await ComfyAPI().node_replacement.register(replacement)
