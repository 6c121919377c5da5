"""The Benchmark node on a server: eight orders with the graph's own sampler; kernels in seconds."""

from __future__ import annotations

import json

from .conftest import Models
from .graphs import FAMILIES, Graph, Node
from .server import ComfyServer, Result

ORDERS = {
    "lora_patch", "quantize_then_lora", "lora_then_quantize", "fused", "fused_quantized",
    "low_vram", "low_vram_fused", "live_lora",
}  # fmt: skip


def run(server: ComfyServer, graph: Graph) -> Result:
    result = server.run(graph)
    assert result.done, result.failure or result.node_errors
    return result


def order(graph: Graph, models: Models, **more: object) -> Node:
    loaded = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
    latent, size, (width, pooled) = FAMILIES["flux"]
    text = graph.add("FQTestConditioning", width=width, pooled=pooled, guidance=4.0, seed=0)
    asked = {
        "what": "order", "what.lora": models.lora("flux").name, "what.scheme": "int8",
        "what.positive": text.out(0), "what.rounds": 1, "what.steps": 2,
        "what.latent_image": graph.add(latent, **size, batch_size=1).out(0),
    }  # fmt: skip
    return graph.add("FQBenchmark", model=loaded, **{**asked, **more})


def test_eight_orders_in_one_run(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    bench = order(graph, models)
    shown = graph.add("SaveImage", images=bench.out(0), filename_prefix="bench")
    result = run(server, graph)
    told = result.text(bench.id)
    assert all(name in told for name in ORDERS)
    files = sorted((server.base / "output" / "fusequant" / "benchmark").glob("order_*.json"))
    rows = {row["strategy"]: row for row in json.loads(files[-1].read_text())["rows"]}
    assert set(rows) == ORDERS
    assert rows["fused_quantized"]["weight_error"] < rows["quantize_then_lora"]["weight_error"]
    assert rows["live_lora"]["switch_s"] < rows["quantize_then_lora"]["switch_s"]
    assert rows["lora_patch"]["output_error"] == 0.0
    assert all(row["step_s"] > 0 for row in rows.values())
    assert rows["live_lora"]["bytes"] < 0.7 * rows["lora_patch"]["bytes"]
    drawn = len(server.image(result.files(shown.id)[0])) > 5000
    assert drawn or "install matplotlib" in told


def test_kernels_on_the_layers_of_the_model(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
    bench = graph.add("FQBenchmark", model=loaded, **{"what": "kernels", "what.tokens": 64})
    told = run(server, graph).text(bench.id)
    assert "int8_convrot" in told and "torch_native" in told and "times as fast" in told


def test_what_is_missing_is_named(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    order(graph, models, **{"what.positive": None})
    result = server.run(graph)
    assert not result.done
    assert "benchmark-input-missing" in str(result.failure)
