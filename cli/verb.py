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

    Although the verb could answer, `failed(answer)` true makes the exit code 2 and
    `faulty(answer)` true makes it 1.
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]
    text: Callable[[Answer], str]
    failed: Callable[[Answer], bool] = field(default=lambda answer: False)
    faulty: Callable[[Answer], bool] = field(default=lambda answer: False)
