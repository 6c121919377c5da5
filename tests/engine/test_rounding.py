"""Rounding with less error: never worse by its own measure, better where inputs are uneven."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusequant.engine import stream
from fusequant.engine.files.open import open_source
from fusequant.engine.insight import LayerInsight
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.quality import output_error
from fusequant.engine.measure.references import make_inputs
from fusequant.engine.measure.synthetic import write_like
from fusequant.engine.pipeline import Request, convert, prepare
from fusequant.engine.rounding import Coupling, Moment, rounder
from fusequant.engine.rounding_names import LEARNED, NEAREST, SEARCH
from fusequant.engine.rows import all_schemes
from fusequant.engine.run import run_file
from fusequant.engine.scheme import Block, Scheme
from fusequant.kernels import ops, registry

SCHEMES = [scheme for scheme in all_schemes().values() if scheme.name != "none"]
N, K = 96, 512


def uneven(k: int = K) -> LayerInsight:
    """Inputs of which a few stand out, and four directions that carry half of the rest."""
    source = torch.manual_seed(1)
    sizes = torch.ones(k)
    sizes[torch.randperm(k, generator=source)[: k // 128]] = 25.0
    directions = 0.5 * torch.randn(4, k, generator=source) * sizes / 2
    return LayerInsight(sizes.square() + directions.square().sum(0), directions=directions)


def tokens(insight: LayerInsight, count: int = 4096) -> torch.Tensor:
    """Inputs with exactly the second moment that an insight tells."""
    assert insight.inputs is not None
    assert insight.directions is not None
    source, u = torch.manual_seed(2), insight.directions
    own = (insight.inputs - u.square().sum(0)).clamp(min=0).sqrt()
    x = torch.randn(count, len(own), generator=source) * own
    return x + torch.randn(count, len(u), generator=source) @ u


def weight() -> torch.Tensor:
    source = torch.manual_seed(3)
    rows = torch.randn(N, 1, generator=source).mul(0.4).exp()
    return torch.randn(N, K, generator=source) * rows / K**0.5


def whole_of(scheme: Scheme, rows: torch.Tensor) -> torch.Tensor | None:
    """What the scheme has to know of a weight."""
    if scheme.survey is None:
        return None
    return scheme.survey.run(lambda start, stop: rows[start:stop], *rows.shape, [(0, len(rows))])


def stored(scheme: Scheme, rows: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
    """What quantizing makes of rows."""
    made = scheme.quantize(rows, whole, "BF16")
    return scheme.dequantize(made, {**scheme.config(*rows.shape), **scheme.settings})


def moved(scheme: Scheme, how: str) -> float:
    """Relative error of the output of a layer on its own inputs, activations left as they are."""
    w, insight = weight(), uneven()
    whole, better = whole_of(scheme, w), rounder(scheme, K, how, "BF16", insight)
    found = stored(scheme, better(w, whole) if better else w, whole)
    x = tokens(insight)
    return float((x @ (found - w).T).norm() / (x @ w.T).norm())


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_learned_rounding_lowers_the_output_error_of_every_scheme(scheme: Scheme) -> None:
    nearest, searched, learned = (moved(scheme, how) for how in (NEAREST, SEARCH, LEARNED))
    assert searched <= 1.02 * nearest
    assert learned < 0.97 * nearest
    assert learned <= 1.02 * searched
    if scheme.rotated(K):  # there inputs that stand out couple everything
        assert learned < 0.6 * nearest


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.bits < 8], ids=lambda s: s.name)
def test_four_bits_gain_from_a_finer_scale(scheme: Scheme) -> None:
    assert moved(scheme, SEARCH) < 0.95 * moved(scheme, NEAREST)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_no_row_gets_worse_by_the_measure_that_is_known(scheme: Scheme) -> None:
    w, insight = weight(), uneven()
    moment = Moment(insight, K, torch.device("cpu"))
    better = rounder(scheme, K, LEARNED, "BF16", insight)
    assert better is not None
    whole = whole_of(scheme, w)
    before = moment.of(stored(scheme, w, whole) - w)
    after = moment.of(stored(scheme, better(w, whole), whole) - w)
    if not isinstance(scheme.granularity, Block):  # rows of a tile go together
        assert bool((after <= before * 1.0001 + 1e-12).all())
    assert float(after.sum()) < float(before.sum())


def test_nearest_is_the_scheme_s_own_rounding_and_8_bits_are_not_searched() -> None:
    schemes = all_schemes()
    assert rounder(schemes["int8_convrot"], K, NEAREST, "BF16", uneven()) is None
    assert rounder(schemes["int8_convrot"], K, SEARCH, "BF16", uneven()) is None
    assert rounder(schemes["none"], K, LEARNED, "BF16", uneven()) is None
    assert rounder(schemes["int4_g128"], K, SEARCH, "BF16", None) is not None


def test_without_knowing_the_inputs_learned_is_the_search_alone() -> None:
    scheme, w = all_schemes()["int4_g128"], weight()
    found = [rounder(scheme, K, how, "BF16", None) for how in (SEARCH, LEARNED)]
    assert all(one is not None for one in found)
    assert torch.equal(*(one(w) for one in found if one is not None))


@pytest.mark.parametrize("rotation", [None, 256])
def test_free_numbers_take_up_errors_as_the_whole_matrix_says(rotation: int | None) -> None:
    moment = Moment(uneven(), K, torch.device("cpu"))
    coupling = Coupling(moment, rotation)
    turn = ops.rotate_groups(torch.eye(K), rotation).double() if rotation else torch.eye(K).double()
    whole = torch.diag(moment.d.double()) + moment.u.double().T @ moment.u.double()
    whole = turn @ whole @ turn
    for run in coupling.runs:
        inside = torch.arange(K) % coupling.size < run.done
        error = torch.randn(3, K, generator=torch.manual_seed(4)).double() * inside
        free = ~inside
        exact = torch.linalg.solve(whole[free][:, free], whole[free] @ error.T).T
        grouped = error.float().reshape(3, -1, coupling.size)[..., : run.done].transpose(0, 1)
        found = coupling.taken_up(run, grouped).transpose(0, 1).reshape(3, -1)
        torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=1e-4)


def test_zero_rows_stay_zero_and_damaged_rows_pass_through() -> None:
    scheme = all_schemes()["int8_convrot"]
    better = rounder(scheme, K, LEARNED, "BF16", uneven())
    assert better is not None
    rows = weight()
    rows[3] = 0
    assert float(stored(scheme, better(rows))[3].abs().max()) == 0
    rows[5, 7] = float("nan")
    assert torch.isnan(better(rows)[5, 7])


def test_the_scale_is_the_one_of_the_largest_number() -> None:
    scheme, w = all_schemes()["int8_convrot"], weight()
    better = rounder(scheme, K, LEARNED, "BF16", uneven())
    assert better is not None
    usual, found = (scheme.quantize(rows)["scale"] for rows in (w, better(w)))
    torch.testing.assert_close(found, usual, rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rounding") / "model.safetensors"
    write_like(path, FluxConfig(256, 1, 1), seed=8)
    return path


@pytest.mark.parametrize("scheme", ["int8_convrot", "int4_g128", "fp8"])
def test_a_converted_model_moves_its_output_less(scheme: str, model: Path, tmp_path: Path) -> None:
    inputs = make_inputs(FluxConfig(256, 1, 1), (10, 10), 24, seed=6)
    exact, found = run_file(model, inputs), {}
    for how in (NEAREST, LEARNED):
        request = Request(scheme=scheme, rounding=how)
        convert(prepare(open_source(model), [], request), tmp_path / how)
        with registry.use_backend("reference"):
            found[how] = output_error(exact, run_file(tmp_path / how, inputs)).relative_error
    assert found[LEARNED] < 0.95 * found[NEAREST]
    sizes = [(tmp_path / how).stat().st_size for how in (NEAREST, LEARNED)]
    assert 0 <= sizes[1] - sizes[0] < 100  # a longer recipe, nothing else


def test_chunks_do_not_change_what_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(scheme="int8_convrot", rounding=LEARNED)
    convert(prepare(open_source(model), [], request), tmp_path / "one")
    monkeypatch.setattr(stream, "CHUNK_ELEMENTS", 1 << 14)
    convert(prepare(open_source(model), [], request), tmp_path / "two")
    first, second = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    different = sum(a != b for a, b in zip(first, second, strict=True))
    assert different < 1e-3 * len(first)  # sums in another order: a few codes next to a tie


def test_progress_counts_the_looking_and_the_writing(model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    prepared = prepare(open_source(model), [], Request(scheme="int8", rounding=LEARNED))
    convert(prepared, tmp_path / "out", lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
