"""Stacked LoRAs, rows of fused layers, and every bad LoRA refused by its name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.errors import Refused
from fusequant.engine.family import Family, Target
from fusequant.engine.fuse.lora import match, open_lora
from fusequant.engine.layer import Layer

N, K, R = 48, 64, 4
ALIASES = {
    "to_q": Target("qkv.weight", (0, 16)),
    "to_k": Target("qkv.weight", (16, 32)),
    "to_v": Target("qkv.weight", (32, 48)),
    "norm_out": Target("last.weight", halves_swapped=True),
}
LAYERS = {"qkv.weight": (N, K), "qkv.bias": (N,), "last.weight": (N, K), "proj.weight": (N, K)}


def model(shapes: dict[str, tuple[int, ...]] = LAYERS) -> SimpleNamespace:
    family = Family("f", "Tiny", "diffusion", "", lambda s: "core", aliases=lambda s: ALIASES)
    layers = tuple(Layer(key, shape, "BF16", ()) for key, shape in shapes.items())
    return SimpleNamespace(family=family, layers=layers)


def factors(module: str, rows: int = N, columns: int = K, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": torch.randn(R, columns, generator=generator) * 0.3,
        f"{module}.lora_B.weight": torch.randn(rows, R, generator=generator) * 0.3,
    }


def delta(tensors: dict[str, torch.Tensor], module: str) -> torch.Tensor:
    up, down = tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]
    return up.double() @ down.double()


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path)
    return path


def weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(key))).reshape(
        shape[0], -1
    )


def fuse(found, key: str, chunk: int) -> torch.Tensor:
    layer = next(x for x in model().layers if x.key == key)
    base = weight(key, layer.shape)
    read = found.reader(layer, lambda a, b: base[a:b].clone())
    return torch.cat([read(a, min(a + chunk, N)) for a in range(0, N, chunk)])


@pytest.mark.parametrize("chunk", [1, 7, 20, N])
def test_rows_of_a_fused_layer_get_their_own_deltas(tmp_path: Path, chunk: int) -> None:
    tensors = factors("to_q", 16, seed=1) | factors("to_v", 16, seed=2)
    found = match([open_lora(saved(tmp_path / "a.safetensors", tensors), 0.5)], model())
    wanted = weight("qkv.weight", (N, K)).double()
    wanted[:16] += 0.5 * delta(tensors, "to_q")
    wanted[32:] += 0.5 * delta(tensors, "to_v")
    result = fuse(found, "qkv.weight", chunk)
    assert torch.allclose(result.double(), wanted, atol=1e-6)
    assert torch.equal(result[16:32], weight("qkv.weight", (N, K))[16:32])


@pytest.mark.parametrize("chunk", [1, 7, N])
def test_swapped_halves_are_swapped_back(tmp_path: Path, chunk: int) -> None:
    tensors = factors("norm_out")
    found = match([open_lora(saved(tmp_path / "a.safetensors", tensors))], model())
    wanted = weight("last.weight", (N, K)).double() + delta(tensors, "norm_out").roll(N // 2, 0)
    assert torch.allclose(fuse(found, "last.weight", chunk).double(), wanted, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, N])
def test_stacked_files_are_applied_in_order(tmp_path: Path, chunk: int) -> None:
    first, second = factors("proj", seed=1), factors("proj", seed=2)
    second["proj.dora_scale"] = torch.rand(1, K)
    paths = [
        saved(tmp_path / f"{n}.safetensors", tensors)
        for n, tensors in enumerate((first, second, {"proj.diff": torch.ones(N, K)}))
    ]
    strengths = (0.7, -0.4, 2.0)
    files = [open_lora(path, s) for path, s in zip(paths, strengths, strict=True)]
    found = match(files, model())
    assert [change.kind for change in found.changes["proj.weight"]] == ["lora", "lora", "diff"]
    assert [report.strength for report in found.report] == list(strengths)
    after_first = weight("proj.weight", (N, K)).double() + 0.7 * delta(first, "proj")
    whole = after_first + delta(second, "proj")
    turned = whole * second["proj.dora_scale"].double() / whole.norm(dim=0, keepdim=True)
    wanted = after_first - 0.4 * (turned - after_first) + 2.0
    assert torch.allclose(fuse(found, "proj.weight", chunk).double(), wanted, atol=1e-5)


def test_strength_0_changes_nothing_and_is_still_reported(tmp_path: Path) -> None:
    tensors = factors("proj") | {"last.set_weight": torch.ones(N, K)}
    found = match([open_lora(saved(tmp_path / "a.safetensors", tensors), 0.0)], model())
    assert not found.changes
    assert found.report[0].matched == 2


def test_a_layer_without_adapters_keeps_its_own_reader(tmp_path: Path) -> None:
    found = match([open_lora(saved(tmp_path / "a.safetensors", factors("proj")))], model())
    layer = next(x for x in model().layers if x.key == "qkv.bias")

    def base(start: int, stop: int) -> torch.Tensor:
        return torch.zeros(stop - start, 1)

    assert found.reader(layer, base) is base


def test_the_file_is_not_written_to(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", factors("proj") | {"proj.alpha": torch.tensor(2.0)})
    before = path.read_bytes()
    file = open_lora(path, -2.0)
    fuse(match([file], model()), "proj.weight", 7)
    again = fuse(match([file], model()), "proj.weight", N)
    assert torch.equal(again, fuse(match([open_lora(path, -2.0)], model()), "proj.weight", N))
    assert path.read_bytes() == before


Make = Callable[[], dict[str, torch.Tensor]]
NAN = torch.full((N, R), float("nan"))

# kind: (tensors, what the message must name)
REFUSED: dict[str, tuple[Make, str]] = {
    "not-a-lora": (lambda: {"proj.weight": torch.ones(N, K)}, "proj.weight"),
    "lora-matches-nothing": (lambda: factors("double_blocks.0.img_attn.qkv"), "Tiny"),
    "lora-shape-mismatch": (lambda: factors("proj", N + 1), "proj.weight"),
    "lora-rank-mismatch": (
        lambda: factors("proj") | {"proj.lora_B.weight": torch.ones(N, R + 1)},
        "proj.weight",
    ),
    "lora-partner-missing": (lambda: {"proj.lora_up.weight": torch.ones(N, R)}, "down"),
    "lora-not-finite": (lambda: factors("proj") | {"proj.lora_B.weight": NAN}, "proj.lora_B"),
    "lora-dtype": (
        lambda: factors("proj") | {"proj.lora_B.weight": torch.ones(N, R, dtype=torch.int8)},
        "I8",
    ),
    "lora-role-twice": (
        lambda: {
            f"proj.lora_{x}.{name}.weight": torch.ones(*shape)
            for x, shape in (("A", (R, K)), ("B", (N, R)))
            for name in ("one", "two")
        },
        "proj.lora_A.two.weight",
    ),
    "lora-module-twice": (
        lambda: factors("proj") | factors("transformer.proj"),
        "transformer.proj",
    ),
    "lora-reshapes-layer": (
        lambda: factors("proj", N, 2 * K) | {"proj.reshape_weight": torch.tensor([N, 2 * K])},
        "enlarges",
    ),
}
MISSHAPEN: dict[str, Make] = {
    "diff": lambda: {"proj.diff": torch.ones(N, K + 1)},
    "diff_b": lambda: {"qkv.diff_b": torch.ones(N + 1)},
    "set": lambda: {"proj.set_weight": torch.ones(K, N)},
    "dora": lambda: factors("proj") | {"proj.dora_scale": torch.ones(N + 1, 1)},
    "loha": lambda: {
        f"proj.hada_w{n}_{x}": torch.ones(*shape)
        for n in "12"
        for x, shape in (("a", (N, R)), ("b", (R, K + 1)))
    },
    "lokr": lambda: {"proj.lokr_w1": torch.ones(4, 4), "proj.lokr_w2": torch.ones(12, 15)},
    "oft": lambda: {"proj.oft_blocks": torch.ones(5, 8, 8)},
    "boft": lambda: {"proj.oft_blocks": torch.ones(9, 6, 8, 8)},
    "glora": lambda: {
        f"proj.{role}.weight": torch.ones(*shape)
        for role, shape in {"a1": (9, R), "a2": (R, K), "b1": (N, R), "b2": (R, K)}.items()
    },
}  # fmt: skip


def run(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    found = match([open_lora(saved(tmp_path / "a.safetensors", tensors))], model())
    fuse(found, "proj.weight", 7)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_lora_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, named = REFUSED[kind]
    with pytest.raises(Refused) as refused:
        run(tmp_path, make())
    assert refused.value.kind == kind
    assert named in str(refused.value)


@pytest.mark.parametrize("adapter", MISSHAPEN)
def test_a_wrong_shape_is_refused_before_a_number_is_read(tmp_path: Path, adapter: str) -> None:
    file = open_lora(saved(tmp_path / "a.safetensors", MISSHAPEN[adapter]()))
    with pytest.raises(Refused) as refused:
        match([file], model())
    assert refused.value.kind == "lora-shape-mismatch"
    assert refused.value.layer in ("proj.weight", "qkv.bias")


@pytest.mark.parametrize("half", ["hada_w1_a", "lokr_w1", "lokr_w2_a", "a1.weight"])
def test_half_an_adapter_is_refused(tmp_path: Path, half: str) -> None:
    file = open_lora(saved(tmp_path / "a.safetensors", {f"proj.{half}": torch.ones(4, 4)}))
    with pytest.raises(Refused) as refused:
        match([file], model())
    assert refused.value.kind == "lora-partner-missing"


@pytest.mark.parametrize("role", ["alpha", "dora_scale", "lora_A.weight"])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, role: str) -> None:
    tensors = factors("proj") | {"proj.alpha": torch.tensor(1.0), "proj.dora_scale": torch.ones(K)}
    tensors[f"proj.{role}"] = tensors[f"proj.{role}"] / 0.0
    with pytest.raises(Refused) as refused:
        run(tmp_path, tensors)
    assert refused.value.kind == "lora-not-finite"
    assert f"proj.{role}" in refused.value.found


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_is_a_finite_number(tmp_path: Path, strength: float) -> None:
    path = saved(tmp_path / "a.safetensors", factors("proj"))
    with pytest.raises(Refused, match="lora-strength"):
        open_lora(path, strength)


def test_a_text_encoder_lora_says_where_it_belongs(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.safetensors", factors("lora_te1_text_model_encoder_layers_0_mlp_fc1")
    )
    with pytest.raises(Refused, match="text encoder") as refused:
        match([open_lora(path)], model())
    assert refused.value.kind == "lora-matches-nothing"


def test_opening_and_matching_know_no_torch(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", factors("proj") | {"qkv.diff": torch.ones(N, K)})
    code = f"""
import sys
from types import SimpleNamespace
from fusequant.engine.family import Family
from fusequant.engine.fuse.lora import match, open_lora
from fusequant.engine.layer import Layer
family = Family("f", "F", "diffusion", "", lambda s: "core")
layers = tuple(Layer(key, {(N, K)}, "BF16", ()) for key in ("proj.weight", "qkv.weight"))
found = match([open_lora({str(path)!r})], SimpleNamespace(family=family, layers=layers))
assert found.report[0].matched == 2
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
