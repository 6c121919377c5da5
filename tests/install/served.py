"""A repository and a zip, handed out on this machine as GitHub and the Comfy Registry would."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

GIT = "fusequant.git"
ZIP = "node.zip"


class Answers(SimpleHTTPRequestHandler):
    """Files as they lie there, and the one question that ComfyUI-Manager asks the registry."""

    def do_GET(self) -> None:
        """`/nodes/ID/install?version=V` -> where the zip is; everything else is a file."""
        asked = urlparse(self.path)
        if asked.path != "/nodes/fusequant/install":
            super().do_GET()
            return
        version = parse_qs(asked.query).get("version", ["0.0.0"])[0]
        host = f"http://{self.headers['Host']}"
        answer = {
            "id": "fusequant", "version": version, "downloadUrl": f"{host}/{ZIP}",
            "status": "NodeVersionStatusActive",
        }  # fmt: skip
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written about requests."""


def bare_clone(repository: Path, folder: Path) -> Path:
    """A repository's HEAD -> a bare clone that git can fetch over plain HTTP."""
    target = folder / GIT
    clone = ["git", "clone", "--quiet", "--bare", "--no-local", "--single-branch"]
    subprocess.run([*clone, str(repository), str(target)], check=True)
    subprocess.run(["git", "-C", str(target), "update-server-info"], check=True)
    return target


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A folder -> the address that hands it out until the block ends."""
    answers = partial(Answers, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
