"""The whole story on a small FLUX-shaped model: what is written, kept and left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusequant.engine.compare import compare
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.fuse.lora import open_lora
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import make_lora, write_lora
from fusequant.engine.measure.synthetic import make_weights, write_flux_like
from fusequant.engine.measure.timing import PrivatePeak
from fusequant.engine.pipeline import Request, Written, convert, prepare
from fusequant.engine.rewrite import prepare_dequant, prepare_repair
from fusequant.engine.rows import all_schemes
from fusequant.engine.workers import Cancelled

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
QUANTIZED = [name for name in all_schemes() if name != "none"]
QKV = "double_blocks.0.img_attn.qkv"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "flux.safetensors"
    write_flux_like(path, CONFIG, seed=1)
    return path


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    write_lora(path, CONFIG, "peft", 8, seed=2)
    return path


def run(source: Path, out: Path, *loras: tuple[Path, float], **asked: object) -> Written:
    opened = [open_lora(path, strength) for path, strength in loras]
    prepared = prepare(open_source(source), opened, Request(**asked))  # type: ignore[arg-type]
    return convert(prepared, out)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("scheme", [*QUANTIZED, "none"])
def test_the_file_has_the_planned_size_and_the_scheme_its_error(
    scheme: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    written = run(source, out, scheme=scheme)
    assert out.stat().st_size == written.bytes == written.prepared.plan.bytes
    first, second = open_source(source), open_source(out)
    found = compare(first, second)
    assert not found.only_first
    bound = 1.5 * all_schemes()[scheme].worst_error  # outlier channels are harder than N(0, 1)
    typical = sorted(x.relative_error for x in found.layers if x.relative_error)
    if scheme == "none":
        assert not typical
    else:
        assert len(typical) == written.layers[scheme]
        assert typical[len(typical) // 2] <= max(bound, 0.03)
    first.close()
    second.close()


def test_stock_safetensors_opens_the_file(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    run(source, out, scheme="int8")
    tensors = load_file(out)
    assert tensors[f"{QKV}.weight"].dtype == torch.int8
    assert tensors[f"{QKV}.weight_scale"].shape == (768, 1)
    assert tensors[f"{QKV}.weight_scale"].dtype == torch.float32
    marker = json.loads(tensors[f"{QKV}.comfy_quant"].numpy().tobytes())
    assert marker["format"] == "int8_tensorwise"
    assert tensors["img_in.weight"].dtype == torch.bfloat16


def test_same_input_same_bytes(source: Path, lora: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for out in outs:
        run(source, out, (lora, 0.7), scheme="int8_convrot")
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_the_recipe_is_in_the_header_without_paths_or_dates(
    source: Path, lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    run(source, out, (lora, -0.5), scheme="fp8", keep=("*txt_attn*",))
    with safe_open(out, "pt") as file:
        recipe = json.loads(file.metadata()["fusequant"])
    assert recipe["scheme"] == "fp8"
    assert recipe["loras"][0]["strength"] == -0.5
    assert recipe["keep"] == ["*txt_attn*"]
    assert str(source.parent) not in json.dumps(recipe)


def test_fused_before_rounding_once(source: Path, lora: Path, tmp_path: Path) -> None:
    """W = float32(w) + s * up @ down, rows of q, k and v placed in the fused weight."""
    out = tmp_path / "out.safetensors"
    run(source, out, (lora, 0.7), scheme="none", dtype="F32")
    weights, adapters = load_file(source), make_lora(CONFIG, "peft", 8, seed=2)
    expected = weights[f"{QKV}.weight"].double()
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        module = next(k for k in adapters if f".0.attn.{name}." in k and "lora_A" in k)
        down, up = adapters[module], adapters[module.replace("lora_A", "lora_B")]
        expected[256 * i : 256 * (i + 1)] += 0.7 * (up.double() @ down.double())
    fused = load_file(out)[f"{QKV}.weight"].double()
    assert float((fused - expected).norm() / expected.norm()) < 1e-7


def test_strength_zero_changes_nothing(source: Path, lora: Path, tmp_path: Path) -> None:
    plain, zero = tmp_path / "plain.safetensors", tmp_path / "zero.safetensors"
    run(source, plain, scheme="none")
    run(source, zero, (lora, 0.0), scheme="none")
    first, second = load_file(plain), load_file(zero)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_quantizing_again_keeps_the_codes(source: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    run(source, once, scheme="int8")
    written = run(once, twice, scheme="int8")
    assert not written.prepared.plan.warnings
    assert torch.equal(load_file(once)[f"{QKV}.weight"], load_file(twice)[f"{QKV}.weight"])


def test_a_quantized_source_is_named_as_rounded_twice(
    source: Path, lora: Path, tmp_path: Path
) -> None:
    once, out = tmp_path / "once.safetensors", tmp_path / "out.safetensors"
    run(source, once, scheme="fp8")
    written = run(once, out, (lora, 1.0), scheme="int8")
    assert any("twice" in warning for warning in written.prepared.plan.warnings)


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_dequant_gives_the_numbers_back_under_the_same_names(
    scheme: str, source: Path, tmp_path: Path
) -> None:
    quantized, plain = tmp_path / "q.safetensors", tmp_path / "plain.safetensors"
    run(source, quantized, scheme=scheme)
    convert(prepare_dequant(open_source(quantized)), plain)
    values = load_file(plain)
    assert set(values) == set(load_file(source))
    assert all(value.dtype == torch.float32 for value in values.values())
    first, second = open_source(quantized), open_source(plain)
    assert compare(first, second, matrices_only=False).worst == 0.0


def test_repair_writes_core_native_from_lightx2v_rows(source: Path, tmp_path: Path) -> None:
    native, mended = tmp_path / "native.safetensors", tmp_path / "mended.safetensors"
    run(source, native, scheme="int8")
    tensors = {k: v for k, v in load_file(native).items() if not k.endswith("comfy_quant")}
    for key in [k for k in tensors if k.endswith("weight_scale")]:
        tensors[key] = tensors[key].bfloat16()
    save_file(tensors, native)
    convert(prepare_repair(open_source(native)), mended)
    found = load_file(mended)
    assert torch.equal(found[f"{QKV}.weight"], tensors[f"{QKV}.weight"])
    assert found[f"{QKV}.weight_scale"].dtype == torch.float32
    assert torch.equal(
        found[f"{QKV}.weight_scale"].bfloat16(), tensors[f"{QKV}.weight_scale"].reshape(-1, 1)
    )
    assert f"{QKV}.comfy_quant" in found


def test_kept_layers_stay_bit_for_bit(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    run(source, out, scheme="fp8", keep=("*.img_attn.qkv",))
    assert torch.equal(load_file(out)[f"{QKV}.weight"], load_file(source)[f"{QKV}.weight"])


def test_a_full_checkpoint_keeps_its_names_and_its_vae(source: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    tensors = {f"model.diffusion_model.{k}": v for k, v in load_file(source).items()}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.randn(8, 4, 3, 3)
    save_file(tensors, whole)
    run(whole, out, scheme="int8")
    found = load_file(out)
    assert found[f"model.diffusion_model.{QKV}.weight"].dtype == torch.int8
    vae = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(found[vae], tensors[vae])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_weight_is_refused_and_leaves_nothing(value: float, tmp_path: Path) -> None:
    weights = make_weights(CONFIG, seed=1)
    weights[f"{QKV}.weight"][700, 3] = value
    path = tmp_path / "bad.safetensors"
    save_file(weights, path)
    for scheme in QUANTIZED:
        with pytest.raises(Refused) as refusal:
            run(path, tmp_path / "out.safetensors", scheme=scheme)
        assert refusal.value.kind == "non-finite-weights"
        assert refusal.value.layer == QKV
    assert leftovers(tmp_path) == ["bad.safetensors"]


def test_cancelling_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        convert(prepare(open_source(source), (), Request(scheme="fp8")), tmp_path / "o.st", stop)
    assert leftovers(tmp_path) == []


def test_a_file_can_be_replaced_by_its_own_conversion(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(source.read_bytes())
    run(path, path, scheme="int8")
    assert load_file(path)[f"{QKV}.weight"].dtype == torch.int8
    assert leftovers(tmp_path) == ["model.safetensors"]


def test_progress_ends_at_the_whole(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepared = prepare(open_source(source), (), Request(scheme="int8"))
    convert(prepared, tmp_path / "o.safetensors", lambda done, total: seen.append((done, total)))
    done, total = seen[-1]
    assert 0.98 * total <= done <= total


def test_float16_overflow_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    weights = make_weights(CONFIG, seed=1)
    weights["img_in.weight"][0, 0] = 1e6
    path = tmp_path / "big.safetensors"
    save_file(weights, path)
    with pytest.raises(Refused, match="float16"):
        run(path, tmp_path / "out.safetensors", scheme="none", dtype="F16")


def test_torch_threads_are_given_back(source: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run(source, tmp_path / "out.safetensors", scheme="fp8")
    assert torch.get_num_threads() == before


def test_private_memory_stays_under_the_plan_whatever_the_tensor(tmp_path: Path) -> None:
    """One matrix of 400 MB in float32 is worked on in rows."""
    path = tmp_path / "one.safetensors"
    save_file({"blocks.0.ffn.weight": torch.ones(25600, 4096, dtype=torch.bfloat16)}, path)
    run(path, tmp_path / "warm.safetensors", scheme="int8")
    prepared = prepare(open_source(path), (), Request(scheme="int8"))
    with PrivatePeak() as peak:
        convert(prepared, tmp_path / "out.safetensors")
    if peak.over_baseline_bytes is None:
        pytest.skip("this system does not tell private memory")
    assert peak.over_baseline_bytes <= prepared.plan.peak_private_bytes
