"""One strategy in a process of its own: orders in, seconds, bytes and errors out.

`python -m fusequant.engine.bench.strategy NAME TASK` reads orders from standard input: load and
switch (strength), step, output (path), error (reference).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..measure.errors import layer_error
from ..measure.timing import PrivatePeak, private_bytes
from .strategies import STRATEGIES, Opened, Strategy, Task
from .turns import serve


class Served:
    """A strategy under orders; private memory is told over what imports and headers leave."""

    def __init__(self, made: Strategy) -> None:
        self._made = made
        self._baseline = private_bytes() or 0

    def _timed(self, run: Any, *given: Any) -> dict[str, Any]:
        with PrivatePeak(interval_s=0.005) as peak:
            started = time.perf_counter()
            with torch.inference_mode():
                run(*given)
            seconds = time.perf_counter() - started
        top = peak.peak_bytes
        return {"seconds": seconds, "peak_bytes": None if top is None else top - self._baseline}

    def load(self, strength: float) -> dict[str, Any]:
        """From the files to ready."""
        return self._timed(self._made.load, strength) | {"bytes": self._made.bytes}

    def switch(self, strength: float) -> dict[str, Any]:
        """Another strength of the LoRA."""
        return self._timed(self._made.switch, strength)

    def step(self) -> dict[str, Any]:
        """One call of the transformer."""
        return self._timed(self._made.step)

    def output(self, path: str) -> dict[str, Any]:
        """What the transformer answers, as a file."""
        from safetensors.torch import save_file

        save_file({"output": self._made.step().float().clone()}, path)
        return {"path": path}

    def error(self, reference: str) -> dict[str, Any]:
        """Mean relative error of the layers that the LoRA changes, against a float32 file."""
        exact = Opened(Path(reference))
        errors = []
        for key in self._made.touched:
            name = exact.layers[key].name
            found = layer_error(name, exact.whole(key), self._made.numbers(name))
            errors.append(found.relative_error)
        return {"weight_error": sum(errors) / max(1, len(errors))}


def main(argv: list[str]) -> int:
    """Serve until standard input ends."""
    name, said = argv
    facts = json.loads(said)
    task = Task(
        Path(facts["model"]), Path(facts["lora"]), facts["scheme"], Path(facts["folder"]),
        tuple(facts["grid"]), facts["text_tokens"],
    )  # fmt: skip
    torch.manual_seed(0)
    served = Served(STRATEGIES[name](task))
    return serve({word: getattr(served, word) for word in
                  ("load", "switch", "step", "output", "error")})  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
