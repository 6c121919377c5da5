"""A verb of the command line: its arguments, what it does and how its answer reads as text."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Answer = Mapping[str, Any]  # a JSON object


@dataclass(frozen=True)
class Verb:
    """`run` returns one JSON object; `text` renders it for a person.

    `failed(answer)` true makes the exit code 2 although the verb could answer.
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]
    text: Callable[[Answer], str]
    failed: Callable[[Answer], bool] = field(default=lambda answer: False)
