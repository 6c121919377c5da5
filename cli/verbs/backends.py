"""`fusequant backends`: nothing in, the schemes and who can compute them here, or why not, out."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..text import columns
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """No argument of its own."""


def run(args: argparse.Namespace) -> Answer:
    """The registry's own facts."""
    from ...engine.scheme_names import schemes
    from ...kernels.registry import describe_backends

    return {
        "schemes": [
            {
                "name": scheme.name,
                "title": scheme.title,
                "bits": scheme.bits,
                "format": scheme.format_id,
                "core_reads": scheme.core_reads,
                "aliases": list(scheme.aliases),
            }
            for scheme in schemes().values()
        ],
        "backends": [asdict(facts) for facts in describe_backends()],
    }


def text(answer: Answer) -> str:
    """Two tables."""
    schemes = [("scheme", "bits", "stock ComfyUI", "what it is")]
    for scheme in answer["schemes"]:
        schemes.append((scheme["name"], scheme["bits"], scheme["core_reads"], scheme["title"]))
    lines = ["schemes", *columns(schemes), "backends"]
    for backend in answer["backends"]:
        state = backend["refusal"] or "available"
        lines.append(f"  {backend['name']}: {state} ({backend['proven']})")
        lines += columns(sorted(backend["ops"].items()), indent="    ")
    return "\n".join(lines)


VERB = Verb("backends", "list schemes and who can compute them here", arguments, run, text)
