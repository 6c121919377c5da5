"""A process in the place of the batch worker, without torch: what it does is its task's name.

`NAME BEHAVIOR SECONDS`, and its files are made from the name. It notes when it began and ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def note(folder: Path, what: str) -> None:
    with (folder / "notes").open("a") as file:
        file.write(what + "\n")


def main() -> None:
    task = json.loads(sys.stdin.readline())
    name, behavior, seconds = task["name"].split()
    out = Path(task["parts"][0]["out"])
    note(out.parent, f"+{name}")
    sys.stdout.write(json.dumps({"moved": [1, 2]}) + "\n")
    sys.stdout.flush()
    tries = sum(line == f"+{name}" for line in (out.parent / "notes").read_text().splitlines())
    time.sleep(float(seconds))
    if behavior == "killed" or (behavior == "once" and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if behavior == "silent":
        sys.stderr.write("gone without a word\n")
        sys.exit(3)
    if behavior == "cut":
        sys.stdout.write('{"state": "do')
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if behavior == "refused":
        answer = {"state": "refused", "facts": {"kind": "overflow", "found": "much"}}
    else:
        note(out.parent, f"-{name}")
        answer = {"state": "done", "facts": {"files": [], "seconds": float(seconds)}}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
