"""Every adapter kind against its formula in float64, in chunks of 1, 7 and all rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.family import Family
from fusequant.engine.fuse.lora import match, open_lora
from fusequant.engine.layer import Layer

Tensors = dict[str, torch.Tensor]
Formula = Callable[[torch.Tensor, Tensors, float], torch.Tensor]

N, K, R = 48, 64, 4
MATRIX, CONV2, CONV3, VECTOR = (N, K), (N, 16, 3, 3), (N, 4, 1, 2, 2), (N,)
EPS32 = float(torch.finfo(torch.float32).eps)


def rand(*shape: int, size: float = 0.3) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR) * size


GENERATOR = torch.Generator().manual_seed(7)


def kron(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.kron(a.reshape(*a.shape, *[1] * (b.dim() - 2)), b.contiguous())


def scale_of(t: Tensors, rank: int) -> float:
    return float(t["alpha"]) / rank if "alpha" in t else 1.0


def low_rank(t: Tensors, shape: torch.Size) -> torch.Tensor:
    down = t["lora_down.weight"]
    if "lora_mid.weight" in t:
        down = torch.einsum("mrhw,rc->mchw", t["lora_mid.weight"], down.flatten(1))
    return (t["lora_up.weight"].flatten(1) @ down.flatten(1)).reshape(shape)


def lora(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    return w + s * scale_of(t, t["lora_down.weight"].shape[0]) * low_rank(t, w.shape)


def dora(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    whole = lora(w, t, 1.0)
    vector = t["dora_scale"].reshape(-1)
    if vector.numel() == w.shape[0]:
        norm = w.flatten(1).norm(dim=1)
        shape = (-1, *[1] * (w.dim() - 1))
    else:
        norm = whole.transpose(0, 1).flatten(1).norm(dim=1)
        shape = (1, -1, *[1] * (w.dim() - 2))
    turned = whole * (vector / (norm + EPS32)).reshape(shape)
    return w + s * (turned - w)


def peft_dora(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    whole = lora(w, t, 1.0)
    norm = whole.flatten(1).norm(dim=1) + EPS32
    turned = whole * (t["lora_magnitude_vector"] / norm).reshape(-1, *[1] * (w.dim() - 1))
    return w + s * (turned - w)


def loha(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    def product(n: str) -> torch.Tensor:
        a, b = t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]
        if f"hada_t{n}" in t:
            return torch.einsum("ijkl,jr,ip->prkl", t[f"hada_t{n}"], b, a)
        return a @ b

    delta = (product("1") * product("2")).reshape(w.shape)
    return w + s * scale_of(t, t["hada_w1_b"].shape[0]) * delta


def lokr(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    rank = None
    if "lokr_w1" in t:
        first = t["lokr_w1"]
    else:
        first, rank = t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w1_b"].shape[0]
    if "lokr_w2" in t:
        second = t["lokr_w2"]
    else:
        rank = t["lokr_w2_b"].shape[0]
        second = (
            torch.einsum("ijkl,jr,ip->prkl", t["lokr_t2"], t["lokr_w2_b"], t["lokr_w2_a"])
            if "lokr_t2" in t
            else t["lokr_w2_a"] @ t["lokr_w2_b"]
        )
    return w + s * (scale_of(t, rank) if rank else 1.0) * kron(first, second).reshape(w.shape)


def rotations(t: Tensors) -> torch.Tensor:
    q = t["oft_blocks"] - t["oft_blocks"].transpose(-1, -2)
    alpha, norm = float(t.get("alpha", 0.0)), float(q.norm()) + 1e-8
    if 0 < alpha < norm:
        q = q * alpha / norm
    eye = torch.eye(q.shape[-1], dtype=q.dtype)
    return (eye + q) @ (eye - q).inverse()


def oft(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    turn = torch.block_diag(*[r.T for r in rotations(t)])
    return w + s * s * ((turn @ w.flatten(1)) - w.flatten(1)).reshape(w.shape)


def boft(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    blocks = rotations(t)
    x, size = w.flatten(1), blocks.shape[-1]
    for stage, turn in enumerate(blocks):
        half = 2**stage * size // 2
        turn = s * turn + (1 - s) * torch.eye(size, dtype=w.dtype)
        order = torch.arange(w.shape[0]).reshape(-1, 2, half).transpose(1, 2).reshape(-1)
        x = x[order]
        x = torch.block_diag(*turn) @ x
        back = torch.empty_like(x)
        back[order] = x
        x = back
    x = x * t["rescale"].reshape(-1, 1) if "rescale" in t else x
    return w + s * (x.reshape(w.shape) - w)


def glora(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    a1, a2, b1, b2 = (t[f"{n}.weight"].flatten(1) for n in ("a1", "a2", "b1", "b2"))
    if a1.shape[0] == R:  # the older form
        delta = b2 @ b1 + w.flatten(1) @ a2 @ a1
    else:
        delta = b1 @ b2 + torch.einsum("oi...,ij->oj...", w, a1 @ a2).flatten(1)
    return w + s * scale_of(t, R) * delta.reshape(w.shape)


def diff(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    return w + s * t["diff"].reshape(w.shape)


def norm_diff(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    return w + s * t["w_norm"]


def replaced(w: torch.Tensor, t: Tensors, s: float) -> torch.Tensor:
    return t["set_weight"]


def updown(alpha: float | None = 2.0, n: int = N, k: int = K) -> Tensors:
    found = {"lora_up.weight": rand(n, R), "lora_down.weight": rand(R, k)}
    return found | ({} if alpha is None else {"alpha": torch.tensor(alpha)})


def hada(n: int = N, k: int = K) -> Tensors:
    return {
        "hada_w1_a": rand(n, R), "hada_w1_b": rand(R, k), "alpha": torch.tensor(3.0),
        "hada_w2_a": rand(n, R), "hada_w2_b": rand(R, k),
    }  # fmt: skip


ALPHA = {"alpha": torch.tensor(2.0)}
TUCKER = {"hada_t1": rand(R, R, 3, 3), "hada_t2": rand(R, R, 3, 3)}
TUCKER |= {f"hada_w{n}_a": rand(R, N) for n in "12"} | {f"hada_w{n}_b": rand(R, 16) for n in "12"}

# name: (layer shape, tensors, formula)
CASES: dict[str, tuple[tuple[int, ...], Tensors, Formula]] = {
    "lora": (MATRIX, updown(), lora),
    "lora without alpha": (MATRIX, updown(None), lora),
    "lora with alpha 0": (MATRIX, updown(0.0), lora),
    "lora on a vector": (VECTOR, updown(k=1), lora),
    "locon": (
        CONV2,
        {"lora_up.weight": rand(N, R, 1, 1), "lora_down.weight": rand(R, 16, 3, 3)} | ALPHA,
        lora,
    ),
    "locon with a core tensor": (
        CONV2,
        {
            "lora_up.weight": rand(N, R, 1, 1),
            "lora_mid.weight": rand(R, R, 3, 3),
            "lora_down.weight": rand(R, 16, 1, 1),
        }
        | ALPHA,
        lora,
    ),
    "locon on five dimensions": (CONV3, updown(k=16), lora),
    "dora by row": (MATRIX, updown() | {"dora_scale": rand(N, 1).abs()}, dora),
    "dora by column": (MATRIX, updown() | {"dora_scale": rand(1, K).abs()}, dora),
    "dora by channel": (CONV2, updown(k=144) | {"dora_scale": rand(1, 16, 1, 1).abs()}, dora),
    "dora of peft": (MATRIX, updown() | {"lora_magnitude_vector": rand(N).abs()}, peft_dora),
    "loha": (MATRIX, hada(), loha),
    "loha on a convolution": (CONV2, hada(k=144), loha),
    "loha with core tensors": (CONV2, TUCKER | ALPHA, loha),
    "lokr, both whole": (MATRIX, {"lokr_w1": rand(6, 8), "lokr_w2": rand(8, 8)} | ALPHA, lokr),
    "lokr, second in two": (
        MATRIX,
        {"lokr_w1": rand(6, 8), "lokr_w2_a": rand(8, R), "lokr_w2_b": rand(R, 8)} | ALPHA,
        lokr,
    ),
    "lokr, first in two": (
        MATRIX,
        {"lokr_w1_a": rand(6, R), "lokr_w1_b": rand(R, 8), "lokr_w2": rand(8, 8)} | ALPHA,
        lokr,
    ),
    "lokr, both in two": (
        MATRIX,
        {
            "lokr_w1_a": rand(6, 2), "lokr_w1_b": rand(2, 8),
            "lokr_w2_a": rand(8, R), "lokr_w2_b": rand(R, 8),
        } | ALPHA,
        lokr,
    ),
    "lokr on a convolution": (CONV2, {"lokr_w1": rand(6, 4), "lokr_w2": rand(8, 4, 3, 3)}, lokr),
    "lokr with a core tensor": (
        CONV2,
        {
            "lokr_w1": rand(6, 4), "lokr_t2": rand(R, R, 3, 3),
            "lokr_w2_a": rand(R, 8), "lokr_w2_b": rand(R, 4),
        } | ALPHA,
        lokr,
    ),
    "oft": (MATRIX, {"oft_blocks": rand(6, 8, 8)}, oft),
    "oft with a limit": (MATRIX, {"oft_blocks": rand(6, 8, 8), "alpha": torch.tensor(0.5)}, oft),
    "oft on a convolution": (CONV2, {"oft_blocks": rand(12, 4, 4)}, oft),
    "boft": (MATRIX, {"oft_blocks": rand(3, 12, 4, 4), "alpha": torch.tensor(0.7)}, boft),
    "boft with rescale": (
        MATRIX,
        {"oft_blocks": rand(2, 6, 8, 8), "rescale": 1 + rand(N, 1), "alpha": torch.tensor(0.0)},
        boft,
    ),
    "boft on a convolution": (CONV2, {"oft_blocks": rand(4, 24, 2, 2)}, boft),
    "glora": (
        MATRIX,
        {
            "a1.weight": rand(K, R), "a2.weight": rand(R, K),
            "b1.weight": rand(N, R), "b2.weight": rand(R, K),
        } | ALPHA,
        glora,
    ),
    "glora, older form": (
        MATRIX,
        {
            "a1.weight": rand(R, K), "a2.weight": rand(K, R),
            "b1.weight": rand(R, K), "b2.weight": rand(N, R),
        } | ALPHA,
        glora,
    ),
    "glora on a convolution": (
        CONV2,
        {
            "a1.weight": rand(16, R, 1, 1), "a2.weight": rand(R, 16, 1, 1),
            "b1.weight": rand(N, R, 1, 1), "b2.weight": rand(R, 16, 3, 3),
        } | ALPHA,
        glora,
    ),
    "full difference": (MATRIX, {"diff": rand(N, K)}, diff),
    "full difference of a vector": (VECTOR, {"diff": rand(N)}, diff),
    "norm": (VECTOR, {"w_norm": rand(N)}, norm_diff),
    "replaced weight": (MATRIX, {"set_weight": rand(N, K)}, replaced),
}  # fmt: skip


def fused(path: Path, shape: tuple[int, ...], tensors: Tensors, strength: float, chunk: int):
    """(the layer's weight before, and after in chunks of so many rows)."""
    save_file({f"block.{role}": t.contiguous() for role, t in tensors.items()}, path)
    layer = Layer("block.weight", shape, "BF16", ())
    family = Family("tiny", "Tiny", "diffusion", "", lambda shapes: "core")
    file = open_lora(path, strength)
    found = match([file], SimpleNamespace(family=family, layers=(layer,)))
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    flat = weight.reshape(shape[0], -1)
    read = found.reader(layer, lambda a, b: flat[a:b].clone())
    rows = [read(a, min(a + chunk, shape[0])) for a in range(0, shape[0], chunk)]
    return weight, torch.cat(rows).reshape(shape)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strength", [1.0, -0.75])
def test_an_adapter_is_its_formula_in_any_chunks(
    tmp_path: Path, name: str, strength: float
) -> None:
    shape, tensors, formula = CASES[name]
    results = [
        fused(tmp_path / f"{chunk}.safetensors", shape, tensors, strength, chunk)
        for chunk in (1, 7, shape[0])
    ]
    weight = results[0][0].double()
    wanted = formula(weight, {role: t.double() for role, t in tensors.items()}, strength)
    for _, found in results:
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < 1e-6
        assert torch.allclose(found, results[-1][1], rtol=1e-5, atol=1e-5)
    if name != "lora with alpha 0":
        assert not torch.equal(results[0][1], results[0][0])


@pytest.mark.parametrize(("alpha", "scale"), [(8.0, 8.0 / 2.0), (None, 2.0)])
def test_rslora_divides_by_the_root_of_the_rank(
    tmp_path: Path, alpha: float | None, scale: float
) -> None:
    tensors = updown(alpha)
    path = tmp_path / "a.safetensors"
    save_file({f"block.{role}": t for role, t in tensors.items()}, path)
    layer = Layer("block.weight", MATRIX, "BF16", ())
    family = Family("tiny", "Tiny", "diffusion", "", lambda shapes: "core")
    model = SimpleNamespace(family=family, layers=(layer,))
    read = match([open_lora(path, 1.0, rslora=True)], model).reader(
        layer, lambda a, b: torch.zeros(b - a, K)
    )
    assert torch.allclose(read(0, N), scale * low_rank(tensors, torch.Size(MATRIX)), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_adapters_in_smaller_dtypes_are_read_with_their_scales(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {role: t.to(dtype) for role, t in updown(None).items()}
    wanted = {role: t.float() for role, t in tensors.items()}
    if dtype == torch.float8_e4m3fn:
        tensors["lora_up.weight_scale"] = torch.tensor(0.5)
        tensors["lora_down.scale_weight"] = torch.tensor([3.0])
        wanted = {"lora_up.weight": wanted["lora_up.weight"] * 0.5,
                  "lora_down.weight": wanted["lora_down.weight"] * 3.0}  # fmt: skip
    weight, found = fused(tmp_path / "a.safetensors", MATRIX, tensors, 1.0, 7)
    assert torch.allclose(found, lora(weight, wanted, 1.0), atol=1e-5)
