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
        "orders": measured_orders(),
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


def measured_orders() -> list[Answer]:
    """For each device here: its class, and where the order of its backends comes from."""
    import torch

    from ...kernels import order

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    names = dict.fromkeys(order.device_class(device) for device in devices)
    return [
        {"device": name, "user_file": str(order.user_file()), "read": asdict(found)}
        for name in names
        for found in order.measured(name) or (order.Measured(""),)
    ]


def told_order(found: Answer) -> str:
    """One sentence on where an order comes from."""
    read, device = found["read"], found["device"]
    if read["problem"]:
        return f"{device}: {read['problem']}"
    if not read["path"]:
        return (
            f"{device}: nothing is measured, each backend's own order; "
            f"`fusequant bench ops --update` writes {found['user_file']}"
        )
    ops = ", ".join(read["order"])
    return f"{device}: measured {read['date']} on {read['hardware']} ({read['path']}): {ops}"


def text(answer: Answer) -> str:
    """Two tables, then where the order of the backends comes from."""
    schemes = [("scheme", "bits", "stock ComfyUI", "what it is")]
    for scheme in answer["schemes"]:
        schemes.append((scheme["name"], scheme["bits"], scheme["core_reads"], scheme["title"]))
    lines = ["schemes", *columns(schemes), "backends"]
    for backend in answer["backends"]:
        state = backend["refusal"] or "available"
        lines.append(f"  {backend['name']}: {state} ({backend['proven']})")
        ops = sorted(backend["ops"].items())
        told = [(op, "; or ".join(dict.fromkeys(needs)) or "any") for op, needs in ops]
        lines += columns(told, indent="    ")
    lines += ["order", *(f"  {told_order(found)}" for found in answer["orders"])]
    return "\n".join(lines)


VERB = Verb("backends", "list schemes and who can compute them here", arguments, run, text)
