"""compressed-tensors files with packed weights (`weight_packed`): recognised and refused."""

from __future__ import annotations

from ._foreign import foreign, has_leaf

FORMAT = foreign(
    "compressed_tensors", "compressed-tensors packed checkpoint", has_leaf("weight_packed")
)
