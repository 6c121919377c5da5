"""HiDream I1 and E1 (full, dev, fast): FAMILY out. Core's names are Diffusers' too.

Each block has four experts, of which a router picks two for every token.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _keep
from ._spelling import Sign, known_by

_LINEARS = (
    r"(?:double|single)_stream_blocks\.\d+\.block\."
    r"(?:attn1\.to_(?:[qkv]|out)(?:_t)?|ff_[it]\.(?:(?:shared_experts|experts\.\d+)\.)?w[123]"
    r"|adaLN_modulation\.1)"
)
FAMILY = Family(
    name="hidream",
    title="HiDream",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=(
                "caption_projection.0.linear.weight",
                "double_stream_blocks.0.block.attn1.to_q.weight",
            ),
        )
    ),
    keep=(
        Rule(
            r"caption_projection\..*",
            "text projection: it reads a language model's features, which have large outliers",
        ),
        Rule(r"(?:x|t|p)_embedder\..*", "embedder: small, and it steers every block"),
        Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
        Rule(r".*\.ff_i\.gate", "router: four rows that choose the experts"),
        _keep.modulation(r".*adaLN_modulation\.1"),
        _keep.only(_LINEARS, "outside the blocks' attention, expert and modulation linears"),
    ),
)
