"""The report of a file: what it is, which nodes open it with the right numbers, what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.errors import Refused
from fusequant.engine.inspect import Report, inspect

Tensors = dict[str, torch.Tensor]
STOCK_DIT = "Load Diffusion Model (UNETLoader)"
OUR_DIT, OUR_TEXT = "FuseQuant: Load FP8 DiT", "FuseQuant: Quantized T5/CLIP Loader"
Q = "blocks.0.self_attn.q"
BF16 = torch.ones(192, 256, dtype=torch.bfloat16)
FP8, INT8 = BF16.to(torch.float8_e4m3fn), BF16.to(torch.int8)
TENSOR, ROWS = torch.tensor(0.5), torch.full((192, 1), 0.5)
WAN = {
    f"{Q}.weight": BF16,
    f"{Q}.bias": BF16[0, :192],
    "head.modulation": torch.ones(1, 2, 8),
}
FLUX_DIFFUSERS = {
    "x_embedder.weight": BF16,
    "context_embedder.weight": BF16,
    "norm_out.linear.weight": BF16,
    "transformer_blocks.0.norm1_context.linear.weight": BF16,
    "transformer_blocks.0.attn.to_q.weight": BF16,
    "transformer_blocks.0.attn.to_k.weight": BF16,
    "transformer_blocks.0.attn.to_v.weight": BF16,
}
WAN_T5 = {
    "token_embedding.weight": BF16,
    "blocks.0.attn.q.weight": INT8,
    "blocks.0.attn.q.weight_scale": ROWS,
    "blocks.0.ffn.gate.0.weight": BF16,
}
CLIP_VISION = {
    "vision_model.encoder.layers.0.self_attn.q_proj.weight": FP8,
    "vision_model.encoder.layers.0.self_attn.q_proj.scale_weight": TENSOR,
    "vision_model.post_layernorm.weight": BF16[0],
    "scaled_fp8": torch.zeros(0),
}
CLIP_BARE = {
    "text_model.embeddings.token_embedding.weight": BF16,
    "text_model.encoder.layers.0.self_attn.q_proj.weight": FP8,
}
CLIP = CLIP_BARE | {
    "text_model.encoder.layers.0.self_attn.q_proj.scale_weight": TENSOR,
    "scaled_fp8": torch.zeros(0),
}


def core(weight: torch.Tensor, scale: torch.Tensor, **config: object) -> Tensors:
    data = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    return WAN | {f"{Q}.weight": weight, f"{Q}.weight_scale": scale, f"{Q}.comfy_quant": data}


def save(path: Path, tensors: Tensors) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture
def look(tmp_path):
    """The report of a file with these tensors."""

    def at(tensors: Tensors) -> Report:
        return inspect(save(tmp_path / "model.safetensors", tensors))

    return at


def kinds(report: Report) -> set[str]:
    return {problem.kind for problem in report.problems}


SCALED = WAN | {f"{Q}.weight": FP8, f"{Q}.scale_weight": TENSOR, "scaled_fp8": torch.zeros(0)}
ROWWISE = core(FP8, ROWS.flatten(), format="float8_e4m3fn_rowwise")
INT4 = core(INT8[:, :128], torch.ones(2, 192).half(), format="awq_w4a16", group_size=128)

# id: (tensors, dialect, who opens it, problems)
CASES: dict[str, tuple[Tensors, str, tuple[str, ...], set[str]]] = {
    "bf16": (WAN, "plain", (STOCK_DIT,), set()),
    "bare fp8": (WAN | {f"{Q}.weight": FP8}, "plain_fp8", (STOCK_DIT,), set()),
    "core fp8": (core(FP8, TENSOR, format="float8_e4m3fn"), "core", (STOCK_DIT,), set()),
    "core int8": (core(INT8, ROWS, format="int8_tensorwise"), "core", (STOCK_DIT,), set()),
    "scaled_fp8": (SCALED, "scaled_fp8", (STOCK_DIT,), set()),
    "rowwise": (ROWWISE, "core", (OUR_DIT,), {"no-core-format"}),
    "int4": (INT4, "core", (OUR_DIT,), {"needs-newer-core"}),
    "lightx2v": (
        WAN | {f"{Q}.weight": INT8, f"{Q}.weight_scale": ROWS},
        "lightx2v",
        (OUR_DIT,),
        {"scale-without-marker"},
    ),
    "e5m2 scaled": (
        SCALED | {f"{Q}.weight": BF16.to(torch.float8_e5m2)},
        "scaled_fp8",
        (OUR_DIT,),
        {"e5m2-under-e4m3"},
    ),
    "wan t5": (
        WAN_T5,
        "lightx2v",
        (OUR_TEXT,),
        {"scale-without-marker", "names-not-core"},
    ),
    "clip vision": (
        CLIP_VISION,
        "scaled_fp8",
        ("FuseQuant: Quantized CLIP Vision Loader",),
        {"vision-quantized"},
    ),
    "clip vision bf16": (
        {"vision_model.encoder.layers.0.self_attn.q_proj.weight": BF16},
        "plain",
        ("Load CLIP Vision (CLIPVisionLoader)",),
        set(),
    ),
    "clip": (CLIP, "scaled_fp8", (OUR_TEXT,), {"clip-quantized"}),
    "clip bare": (
        CLIP_BARE,
        "plain_fp8",
        ("Load CLIP (CLIPLoader)",),
        set(),
    ),
    "flux diffusers": (FLUX_DIFFUSERS, "plain", (STOCK_DIT,), set()),
    "flux diffusers fp8": (
        FLUX_DIFFUSERS | {"transformer_blocks.0.attn.to_q.weight": FP8},
        "plain_fp8",
        (OUR_DIT,),
        {"names-not-core"},
    ),
    "checkpoint": (
        {f"model.diffusion_model.{name}": x for name, x in WAN.items()}
        | {"vae.conv.bias": BF16[0]},
        "plain",
        ("Load Checkpoint (CheckpointLoaderSimple)", STOCK_DIT),
        set(),
    ),
    "unknown": ({"some.weight": BF16}, "plain", (), {"family-unknown"}),
    "NaN scale": (
        core(INT8, ROWS * math.nan, format="int8_tensorwise"),
        "core",
        (),
        {"scale-not-finite"},
    ),
    "NaN bias": (WAN | {f"{Q}.bias": -BF16[0] * math.inf}, "plain", (STOCK_DIT,), {"not-finite"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_who_opens_a_file(name, look):
    tensors, dialect, nodes, problems = CASES[name]
    report = look(tensors)
    assert (report.dialect, report.loads_in, kinds(report)) == (dialect, nodes, problems)


def test_the_json_of_a_report(look, tmp_path):
    found = look({f"model.diffusion_model.{name}": x for name, x in SCALED.items()}).to_json()
    path = tmp_path / "model.safetensors"
    assert found == {
        "file": str(path),
        "family": "wan",
        "dialect": "scaled_fp8",
        "layers": {"none": 2, "fp8": 1},
        "bytes": path.stat().st_size,
        "loads_in": [STOCK_DIT],
        "problems": [],
        "prefix": "model.diffusion_model.",
        "dtype": "BF16",
        "parameters": 192 * 256 + 192 + 16,
    }
    assert json.loads(json.dumps(found)) == found


def test_a_problem_says_what_to_do(look):
    problem = look(CASES["lightx2v"][0]).to_json()["problems"][0]
    assert set(problem) == {"kind", "layer", "found", "expected", "fix"}
    assert problem["layer"] == Q and "fusequant repair" in problem["fix"]


def test_a_torch_file(tmp_path):
    path = tmp_path / "models_t5_umt5-xxl-enc-int8.pth"
    torch.save(WAN_T5, path)
    report = inspect(path)
    assert (report.family, report.dialect, report.loads_in) == ("t5", "lightx2v", (OUR_TEXT,))


def test_a_checkpoint_in_several_files(tmp_path):
    for at, name in enumerate(WAN):
        save(tmp_path / f"model_part{at}.safetensors", {name: WAN[name]})
    report = inspect(tmp_path)
    assert report.loads_in == (OUR_DIT,)
    assert kinds(report) == {"several-files"}


def test_a_dialect_that_is_not_read_is_refused(tmp_path):
    path = save(tmp_path / "m.safetensors", {"a.qweight": INT8, "a.wscales": ROWS})
    with pytest.raises(Refused, match="Nunchaku"):
        inspect(path)


def test_the_file_is_let_go(look, tmp_path):
    look(WAN)
    save(tmp_path / "model.safetensors", SCALED)
    assert inspect(tmp_path / "model.safetensors").dialect == "scaled_fp8"
