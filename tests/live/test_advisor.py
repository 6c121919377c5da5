"""GPU Advisor on a server: reports for public models and files, its plan in other nodes."""

from __future__ import annotations

from .conftest import Models
from .graphs import Graph
from .server import ComfyServer


def test_a_public_model_on_another_card(server: ComfyServer) -> None:
    graph = Graph()
    asked = {"model": "flux1-dev", "gpu": "RTX 3080", "ram_gb": 32.0}
    fast = graph.add("FQAdvisor", goal="speed", distill_lora=True, **asked)
    small = graph.add("FQAdvisor", goal="memory", style_lora=True, width=512, height=512, **asked)
    result = server.run(graph)
    assert result.done, (result.refused, result.node_errors, result.failure)
    assert "int8_convrot on RTX 3080" in result.text(fast.id)
    assert "LoRAs         fuse" in result.text(fast.id)
    assert "int4_g128" in result.text(small.id) and "512x512" in result.text(small.id)
    assert "LoRAs         live" in result.text(small.id)


def test_the_plan_for_a_file_on_this_machine_is_taken_by_other_nodes(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    name = models.model("flux").name
    plan = graph.add("FQAdvisor", model=name, goal="memory", text_encoder="auto")
    model = graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    quantized = graph.add("FQQuantizeModel", model=model, scheme="auto", plan=plan)
    manager = graph.add("FQVRAMManager", model=quantized, mode="auto", plan=plan)
    shown = graph.add("PreviewAny", source=manager.out(1))
    result = server.run(graph)
    assert result.done, (result.refused, result.node_errors, result.failure)
    page = result.text(plan.id)
    assert page.startswith("CPU (cpu)") and "read" in page.splitlines()[0]
    scheme = next(line.split()[1].rstrip(",") for line in page.splitlines() if "  scheme" in line)
    assert f"x {scheme}" in result.text(quantized.id)
    assert result.text(shown.id)


def test_a_job_that_fits_in_no_way_says_what_would(server: ComfyServer) -> None:
    graph = Graph()
    graph.add("FQAdvisor", model="qwen-image-edit-2511", goal="speed", gpu="M1", vram_gb=16.0)
    result = server.run(graph)
    assert "does-not-fit" in str(result.failure)
    graph = Graph()
    graph.add("FQAdvisor", model="flux1-dev", goal="speed", gpu="RTX 9999")
    assert "RTX 9999" in str(server.run(graph).node_errors)
