"""A real ComfyUI server on the CPU with this pack and nothing else: graphs in, results out.

Only the standard library: the server runs in ComfyUI's interpreter, the tests talk HTTP to it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .comfy import Comfy
from .graphs import Graph

ROOT = Path(__file__).resolve().parents[2]
TEST_NODES = Path(__file__).resolve().parent / "conditioning_nodes"
MODEL_FOLDERS = (
    "diffusion_models", "loras", "vae", "text_encoders", "clip_vision", "style_models",
)  # fmt: skip
FLAGS = (
    "--cpu", "--disable-auto-launch", "--disable-api-nodes", "--dont-print-server",
    "--database-url", "sqlite:///:memory:", "--preview-method", "none",
)  # fmt: skip
# nothing is looked up on the network; waiting threads leave the cores to others
SHARE = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(SHARE), "PYTHONUNBUFFERED": "1",
}  # fmt: skip
START_S, PROMPT_S, STOP_S, POLL_S = 300.0, 180.0, 10.0, 0.05


@dataclass(frozen=True)
class Failure:
    """What stopped a graph: the node, its class, and the exception as ComfyUI reports it."""

    node: str
    node_class: str
    kind: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Result:
    """What became of one posted graph.

    outputs   node id -> what the node showed: images, latents, text
    cached    nodes whose result was taken from an earlier graph
    refused   set when the graph was not even started: the error and the inputs' errors by node
    failure   set when a node raised; interrupted when it was stopped
    """

    prompt: str
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    refused: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """True when every output was made."""
        stopped = self.refused or self.node_errors or self.failure or self.interrupted
        return not stopped

    def text(self, node: str) -> str:
        """The text that a node showed."""
        return "\n".join(str(part) for part in self.outputs.get(node, {}).get("text", ()))

    def files(self, node: str) -> list[dict[str, str]]:
        """The images and latents that a node saved, as ComfyUI names them."""
        shown = self.outputs.get(node, {})
        return [item for kind in ("images", "latents") for item in shown.get(kind, ())]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def link_pack(folder: Path, target: Path) -> None:
    """Make `folder` show `target`: a link, else (Windows without the right) a copy."""
    if folder.exists():
        return
    try:
        folder.symlink_to(target, target_is_directory=True)
    except OSError:
        ignored = shutil.ignore_patterns(".git", ".venv", "tests", "__pycache__", "*.egg-info")
        shutil.copytree(target, folder, ignore=ignored if target == ROOT else None)


class ComfyServer:
    """`with ComfyServer(comfy) as server:` starts ComfyUI and kills its process tree at the end.

    Without `base` its folders are made in a temporary directory and removed. `packs` are loaded
    beside this one. `start_s` and `start_log` tell how it came up; `limit_s` is how long that may
    take.
    """

    limit_s = START_S

    def __init__(
        self, comfy: Comfy, base: Path | None = None, flags: tuple[str, ...] = (),
        packs: tuple[Path, ...] = (TEST_NODES,),
    ) -> None:  # fmt: skip
        self.comfy = comfy
        self.packs = packs
        self.flags = flags
        self.owns_base = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="fusequant-live-"))
        self.port = _free_port()
        self.log_path = self.base / "server.log"
        self.start_s = 0.0
        self.start_log = ""
        self._process: subprocess.Popen[bytes] | None = None

    # --- life ---

    def __enter__(self) -> ComfyServer:
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        for kind in MODEL_FOLDERS:
            self.models(kind).mkdir(parents=True, exist_ok=True)
        for name in ("custom_nodes", "input", "output", "temp", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link_pack(self.base / "custom_nodes" / "fusequant", ROOT)
        for pack in self.packs:
            link_pack(self.base / "custom_nodes" / f"fusequant_{pack.name}", pack)

    def _start(self) -> None:
        command = [
            str(self.comfy.python), str(self.comfy.path / "main.py"), *FLAGS, *self.flags,
            "--base-directory", str(self.base), "--listen", "127.0.0.1", "--port", str(self.port),
        ]  # fmt: skip
        started = time.monotonic()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.comfy.path,
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )
        while time.monotonic() - started < self.limit_s:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self.log()}")
            try:
                self.get("/system_stats")
            except OSError:
                time.sleep(0.1)
            else:
                self.start_s = time.monotonic() - started
                self.start_log = self.log()
                return
        raise TimeoutError(f"ComfyUI did not answer within {self.limit_s:.0f} s:\n{self.log()}")

    def stop(self) -> None:
        """End the server and whatever it started; remove the base directory if it is ours."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            self._signal(process, hard=False)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._signal(process, hard=True)
                process.wait(STOP_S)
        if self.owns_base:
            shutil.rmtree(self.base, ignore_errors=True)

    def _signal(self, process: subprocess.Popen[bytes], hard: bool) -> None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL if hard else signal.SIGTERM)
        else:
            force = ["/F"] if hard else []
            subprocess.run(["taskkill", "/T", *force, "/PID", str(process.pid)], check=False)

    # --- folders and logs ---

    def models(self, kind: str) -> Path:
        """`diffusion_models`, `loras`, ... -> that folder of this server."""
        return self.base / "models" / kind

    def log(self) -> str:
        """Everything the server has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def path(self, item: dict[str, str]) -> Path:
        """One entry of `Result.files` -> the file on disk."""
        kind = item.get("type", "output")
        return self.base / kind / item.get("subfolder", "") / item["filename"]

    # --- HTTP ---

    def _open(self, path: str, body: Any = None, timeout_s: float = 30.0) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=data,
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout_s) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        """GET -> the decoded JSON."""
        return json.loads(self._open(path))

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """All nodes as the browser sees them, or one."""
        return dict(self.get(f"/object_info/{node}" if node else "/object_info"))

    def interrupt(self) -> None:
        """Stop what runs now."""
        self._open("/interrupt", {})

    def free(self, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask for models to be unloaded and for cached results to be forgotten.

        Done by the server's worker a moment later, not when this returns.
        """
        self._open("/free", {"unload_models": unload_models, "free_memory": free_memory})

    def image(self, item: dict[str, str]) -> bytes:
        """One entry of `Result.files` -> its bytes as the browser downloads them."""
        return self._open("/view?" + urllib.parse.urlencode(item))

    # --- graphs ---

    def post(self, graph: Graph | dict[str, Any]) -> str | Result:
        """A graph -> its id in the queue, or the refused result."""
        nodes = graph.nodes if isinstance(graph, Graph) else graph
        try:
            return str(json.loads(self._open("/prompt", {"prompt": nodes}))["prompt_id"])
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            answer = json.loads(error.read())
            errors = dict(answer.get("node_errors") or {})
            return Result("", refused=answer["error"], node_errors=errors)

    def wait(self, prompt: str, timeout_s: float = PROMPT_S) -> Result:
        """The id of a posted graph -> its result, once it has ended in any way."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            entry = self.get(f"/history/{prompt}").get(prompt)
            if entry and entry.get("status", {}).get("status_str"):
                return _result(prompt, entry)
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the server ended while it worked:\n{self.log()[-4000:]}")
            time.sleep(POLL_S)
        raise TimeoutError(f"no result within {timeout_s:.0f} s:\n{self.log()[-4000:]}")

    def run(self, graph: Graph | dict[str, Any], timeout_s: float = PROMPT_S) -> Result:
        """Post a graph and wait for it."""
        posted = self.post(graph)
        return posted if isinstance(posted, Result) else self.wait(posted, timeout_s)


def _result(prompt: str, entry: dict[str, Any]) -> Result:
    """One entry of /history -> Result."""
    messages = dict(entry["status"]["messages"])
    failure, error = None, messages.get("execution_error")
    if error:
        trace = "".join(error.get("traceback") or ())
        failure = Failure(
            str(error["node_id"]), error["node_type"], error["exception_type"],
            error["exception_message"].strip(), trace,
        )  # fmt: skip
    times = [data["timestamp"] for data in messages.values() if "timestamp" in data]
    return Result(
        prompt,
        outputs=entry.get("outputs", {}),
        cached=frozenset(messages.get("execution_cached", {}).get("nodes", ())),
        failure=failure,
        interrupted="execution_interrupted" in messages,
        seconds=(max(times) - min(times)) / 1000 if times else 0.0,
    )
