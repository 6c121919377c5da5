"""Fixtures of the live tests: a ComfyUI, a server with this pack, tiny models in its folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import tiny
from .comfy import HOW, Comfy, find
from .server import ComfyServer

HERE = Path(__file__).resolve().parent
ABSENT = "no ComfyUI"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a live one, skipped where there is no ComfyUI."""
    absent = find() is None
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("live")
            if absent:
                item.add_marker(pytest.mark.skip(reason=ABSENT))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line, however many tests it concerns, says how to get a ComfyUI."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any(ABSENT in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(HOW, red=True, bold=True)


@pytest.fixture(scope="session")
def comfy() -> Comfy:
    """The ComfyUI of this machine."""
    found = find()
    if found is None:
        pytest.skip(ABSENT)
    return found


@pytest.fixture(scope="session")
def server(comfy: Comfy) -> Iterator[ComfyServer]:
    """A running server with this pack; one for all tests."""
    with ComfyServer(comfy) as running:
        yield running


@dataclass(frozen=True)
class Models:
    """Tiny model files in the server's folders, written when first asked for."""

    server: ComfyServer

    def _once(self, kind: str, name: str, make: object, *inputs: object, **sizes: object) -> Path:
        path = self.server.models(kind) / name
        if not path.exists():
            make(path, *inputs, **sizes)  # type: ignore[operator]
        return path

    def model(self, family: str) -> Path:
        """One of the names below -> its file in diffusion_models.

        flux-clip takes 768-wide text, so that the stock CLIP-L alone can prompt it.
        """
        make, sizes = {
            "flux": (tiny.flux, {}),
            "flux-clip": (tiny.flux, {"context": 768}),
            "flux-schnell": (tiny.flux, {"guidance": False}),
            "wan": (tiny.wan, {}),
            "wan-i2v": (tiny.wan, {"image": True}),
            "qwen": (tiny.qwen_image, {}),
            "qwen-edit": (tiny.qwen_image, {"edit": True}),
        }[family]
        return self._once("diffusion_models", f"tiny-{family}.safetensors", make, **sizes)

    def lora(self, family: str, spelling: str = "native") -> Path:
        """A family and a spelling -> a LoRA for its model, in loras."""
        name = f"tiny-{family}-{spelling}.safetensors"
        return self._once("loras", name, tiny.lora, self.model(family), spelling=spelling)

    def vae(self) -> Path:
        """The 16-channel autoencoder."""
        return self._once("vae", "tiny-vae.safetensors", tiny.vae)

    def clip_l(self) -> Path:
        """CLIP-L at its real size."""
        return self._once("text_encoders", "tiny-clip-l.safetensors", tiny.clip_l)


@pytest.fixture(scope="session")
def models(server: ComfyServer) -> Models:
    """The tiny models of the running server."""
    return Models(server)
