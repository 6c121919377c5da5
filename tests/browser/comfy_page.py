"""ComfyUI's own page in a browser: a workflow in, what it became out.

`ours` are the complaints that concern the workflow; the page makes others of its own, about
services that it does not reach here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..live.server import ComfyServer
from .chromium import Chromium, Page

# a new user sees neither the tutorial nor release notes; each file is checked against the schema
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingNodesWarning": True,
    "Comfy.Validation.Workflows": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.WarnBlueprintOverwrite": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Queue.QPOV2": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
READY = "window.app?.vueAppReady && window.LiteGraph?.registered_node_types?.FQLoadDiT"
# what the page says of itself wherever it runs without the network
OTHERS = (
    "net::ERR", "Failed to fetch", "Network Error", "favicon", "WebGL", "deprecat", "Deprecat",
    "userdata", "404 (Not Found)", "passive", "i18n", "Content Security Policy",
)  # fmt: skip

LOAD = """(async () => {
  const file = %s;
  await app.loadGraphData(file, true, true, null, {});
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const known = type => type in LiteGraph.registered_node_types;
  const prompt = await app.graphToPrompt();
  const widgets = {};
  for (const node of app.graph.nodes) {
    widgets[node.id] = Object.fromEntries((node.widgets ?? []).map(w => [w.name, w.value]));
  }
  return {
    missing: app.graph.nodes.map(n => n.type).filter(t => !known(t)),
    errors: app.graph.nodes.filter(n => n.has_errors).map(n => n.type),
    dialogs: [...document.querySelectorAll('.p-dialog')].map(d => d.innerText),
    serialized: app.graph.serialize(), widgets, prompt: prompt.output,
    boxes: app.graph.nodes.map(n => ({id: n.id, type: n.type, title: n.title,
      x: n.pos[0], y: n.pos[1], width: n.size[0], height: n.size[1], flags: n.flags,
      computed: Array.from(n.computeSize())})),
    groups: app.graph.groups.map(g => ({title: g.title, x: g.pos[0], y: g.pos[1],
      width: g.size[0], height: g.size[1]})),
  };
})()"""
# the graph in view, or the groups whose titles fit a pattern
FIT = """(async () => {
  const fits = new RegExp(%s), some = fits.source !== '(?:)';
  const groups = app.graph.groups.filter(g => !some || fits.test(g.title))
    .map(g => [g.pos[0], g.pos[1], g.size[0], g.size[1]]);
  const nodes = some ? [] : app.graph.nodes.map(n => [n.pos[0], n.pos[1] - 40, n.size[0],
                                                      n.size[1] + 40]);
  const boxes = [...groups, ...nodes];
  const left = Math.min(...boxes.map(b => b[0])), right = Math.max(...boxes.map(b => b[0] + b[2]));
  const top = Math.min(...boxes.map(b => b[1])), bottom = Math.max(...boxes.map(b => b[1] + b[3]));
  const [edge, bar] = [70, 90];
  const wide = window.innerWidth - edge - 30, high = window.innerHeight - bar - 60;
  const scale = Math.min(wide / (right - left), high / (bottom - top), 1.0);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [(edge + (wide - (right - left) * scale) / 2) / scale - left,
                          bar / scale - top];
  app.canvas.setDirty(true, true);
  await new Promise(done => setTimeout(done, 1000));
})()"""


@dataclass(frozen=True)
class Opened:
    """What a workflow became in the page.

    missing    node types that the page does not know
    errors     types of nodes that the page marked, as it does where a file is missing
    dialogs    texts of what is open above the graph
    widgets    node id -> {widget's name: value}
    prompt     what the page would post
    boxes      where nodes stand and the size that they ask for
    ours       complaints of the console since the page was ready
    """

    missing: list[str]
    errors: list[str]
    dialogs: list[str]
    serialized: dict[str, Any]
    widgets: dict[str, dict[str, Any]]
    prompt: dict[str, dict[str, Any]]
    boxes: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    ours: list[str]


def settle(server: ComfyServer) -> None:
    """The settings of the page's user, before it is opened."""
    folder = server.base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")


class ComfyPage:
    """The page of one server."""

    def __init__(self, browser: Chromium, server: ComfyServer, width: int = 1600) -> None:
        settle(server)
        self.page: Page = browser.open(f"http://127.0.0.1:{server.port}/", width)
        self.page.wait(READY)

    def open(self, workflow: dict[str, Any]) -> Opened:
        """A workflow as its file has it -> what the page made of it."""
        self.page.complaints.clear()
        found = self.page.run(LOAD % json.dumps(workflow))
        ours = [said for said in self.page.complaints if not any(part in said for part in OTHERS)]
        return Opened(**found, ours=ours)

    def picture(
        self, path: Path, height: int = 1000, width: int = 1600, groups: str = "",
        quality: int = 85,
    ) -> Path:  # fmt: skip
        """The loaded workflow as a whole, or the groups whose titles fit a pattern."""
        self.page.size(width, height)
        self.page.run(FIT % json.dumps(groups))
        return self.page.picture(path, quality)
