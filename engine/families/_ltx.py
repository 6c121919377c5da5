"""The blocks of LTX-Video and LTX-2: other names and rules out. Core's names are Lightricks' own.

One modulation serves all blocks; what a block adds is a table, not a matrix of a product.
"""

from __future__ import annotations

from ..family import Rule
from . import _keep
from ._spelling import Place, Table, renames

BLOCK = "transformer_blocks.{}."
EMBEDDER = ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")


def norms(*attentions: str) -> Table:
    """The norms of q and k in each attention of a block."""
    names = {f"{x}.norm_{y}": f"{x}.{y}_norm" for x in attentions for y in "qk"}
    return renames(names, BLOCK + "*", BLOCK + "*")


def modulations(names: dict[str, str]) -> dict[str, Place]:
    """The three linears of each time embedder, {spelled: core}."""
    return {f"{name}.{x}": Place(f"{core}.{x}") for name, core in names.items() for x in EMBEDDER}


KEEP = (
    _keep.width(r"transformer_blocks\.0\.attn2\.to_k"),
    Rule(r"(?:audio_)?patchify_proj", "input projection: small, and every token passes it"),
    Rule(r"(?:\w+_)?adaln_single\..*", "modulation: one for all blocks, so its error reaches all"),
    Rule(r"(?:audio_)?caption_projection\..*", "text projection: every block reads its output"),
    Rule(r"\w+_embeddings_connector\..*", "text connector: every block reads its output"),
    Rule(r"(?:audio_)?proj_out", "final layer: its error goes straight into the latent"),
    Rule(r".*\.to_gate_logits", "gates of the attention heads: one row for each head"),
    _keep.only(
        r"transformer_blocks\.\d+\.(?:\w*attn[12]?\.to_(?:[qkv]|out\.0)|(?:audio_)?ff\.net\."
        r"(?:0\.proj|2))",
        "outside the blocks' attention and feed-forward linears",
    ),
)
