"""Advice over all devices and many sizes of memory: what must always be true of it."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from fusequant.engine.advise.advisor import Advice, advise
from fusequant.engine.advise.find_card import GIB
from fusequant.engine.advise.job import GOALS, Wishes, job_of
from fusequant.engine.advise.machine import Machine, machine_of
from fusequant.engine.advise.predict import UNIFIED_SHARE
from fusequant.engine.advise.subject import public
from fusequant.engine.devices import CUDA, DEVICES, NATIVE, REFUSED, rule
from fusequant.engine.errors import Refused
from fusequant.engine.pipeline import Request, prepare
from fusequant.engine.scheme_names import schemes
from fusequant.engine.specs import spec

# one card of each class of devices, and those with other units in the same class
ONE_EACH = (
    "GTX 1080", "V100", "RTX 2080 Ti", "A100", "RTX 3080", "RTX 4070", "H100", "B200", "RTX 5080",
    "RX 6800", "RX 7800 XT", "RX 9070", "Arc A770", "M4 Max", "cpu",
)  # fmt: skip
MEMORIES = (6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 192)
MODELS = ("flux1-dev", "qwen-image-edit-2511", "wan2.2-i2v-14b", "wan2.2-ti2v-5b")


def ask(
    machine: Machine, model: str, goal: str = "speed", most: int | None = None, **wishes: object
) -> Advice:
    job = job_of([spec(model)], Wishes(goal=goal, **wishes))  # type: ignore[arg-type]
    return advise(machine, job, most=most)


@cache
def planned_bytes(model: str, scheme: str, keep: tuple[str, ...]) -> int:
    return prepare(spec(model), request=Request(scheme=scheme, keep=keep)).plan.bytes


def test_each_class_of_devices_is_asked_about() -> None:
    assert {machine_of(name).device for name in ONE_EACH} == set(DEVICES)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("gpu", ONE_EACH)
def test_what_is_advised_runs_there(gpu: str, goal: str) -> None:
    machine = machine_of(gpu, ram_gb=64)
    for model in ("flux1-dev", "wan2.2-i2v-14b"):
        try:
            found = ask(machine, model, goal)
        except Refused as refused:
            assert refused.kind == "does-not-fit" and machine.unified
            continue
        for option in found.options:
            setup = option.setup
            assert rule(setup.scheme, machine.device).support != REFUSED
            assert setup.needs.vram_bytes <= machine.vram_bytes
            assert setup.limit_bytes is None or setup.limit_bytes <= machine.vram_bytes
            assert setup.needs.file_bytes > 0 and setup.needs.ram_bytes > 0
            assert setup.text_scheme in schemes()
            assert rule(setup.text_scheme, machine.device).support != REFUSED
        impossible = {row.scheme for row in found.impossible}
        assert impossible | {option.setup.scheme for option in found.options} == set(schemes())


@pytest.mark.parametrize("model", ["flux1-dev", "wan2.2-ti2v-5b"])
@pytest.mark.parametrize("gpu", ["RTX 3060", "RTX 5090", "M3 Ultra", "cpu"])
def test_every_setup_is_one_that_a_plan_accepts(gpu: str, model: str) -> None:
    for option in ask(machine_of(gpu, ram_gb=96), model).options:
        setup = option.setup
        assert planned_bytes(model, setup.scheme, setup.keep) == setup.needs.file_bytes


@pytest.mark.parametrize("ram", [16, 48, None])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gpu", ["GTX 1080", "RTX 2060", "RTX 4090", "B200"])
def test_more_vram_never_gives_a_worse_plan_at_goal_quality(
    gpu: str, model: str, ram: int | None
) -> None:
    errors = []
    for vram in MEMORIES:
        try:
            option = ask(machine_of(gpu, vram, ram), model, "quality", 1).options[0]
        except Refused:
            assert errors == []  # what fits a smaller card fits a larger one
            continue
        errors.append((len(option.case.short) > 0, option.case.found.error))
    assert errors
    for (short, error), (shorter, next_error) in pairwise(errors):
        assert shorter <= short
        assert next_error <= error


@pytest.mark.parametrize("gpu", ["M4 Max"])
def test_more_memory_of_a_mac_never_gives_a_worse_plan(gpu: str) -> None:
    errors = []
    for memory in (16, 24, 32, 48, 64, 96, 128):
        try:
            found = ask(machine_of(gpu, memory), "flux1-dev", "quality")
        except Refused:
            assert not errors
            continue
        errors.append(found.options[0].case.found.error)
        assert found.best.needs.vram_bytes <= UNIFIED_SHARE * memory * GIB
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("gpu", ["RTX 3060", "RTX 4090"])
def test_more_vram_never_takes_more_time_or_more_ram(gpu: str, goal: str) -> None:
    """Of one scheme: the goal may choose another one."""
    by_scheme: dict[str, list[tuple[float, int]]] = {}
    for vram in MEMORIES:
        for option in ask(machine_of(gpu, vram, 128), "flux1-dev", goal).options:
            found = option.case.found
            row = (found.seconds.step, found.streamed_bytes)
            by_scheme.setdefault(found.scheme, []).append(row)
    for rows in by_scheme.values():
        assert all(b[0] <= a[0] and b[1] <= a[1] for a, b in pairwise(rows))


def test_goals_are_kept() -> None:
    machine = machine_of("RTX 3060", 12, 64)
    fast, small, exact = (ask(machine, "flux1-dev", goal) for goal in GOALS)
    assert small.best.needs.file_bytes == min(x.setup.needs.file_bytes for x in fast.options)
    assert exact.best.scheme == "none" and exact.options[0].case.found.streamed_bytes > 0
    quickest = min(option.case.found.seconds.step for option in fast.options)
    assert fast.options[0].case.found.seconds.step <= 1.05 * quickest
    assert small.best.mode == "limit" and small.best.limit_bytes == small.best.needs.vram_bytes


def test_the_original_stays_where_it_fits_unless_memory_is_the_goal() -> None:
    machine = machine_of("L40S", ram_gb=64)
    assert ask(machine, "flux1-dev", "speed").best.scheme == "none"
    assert ask(machine, "flux1-dev", "quality").best.scheme == "none"
    assert ask(machine, "flux1-dev", "memory").best.scheme != "none"


@pytest.mark.parametrize("device", [d for d in CUDA if rule("int8", d).support == NATIVE])
def test_tensor_cores_are_used_where_the_original_does_not_fit(device: str) -> None:
    cards = {machine_of(name).device: name for name in ONE_EACH}
    best = ask(machine_of(cards[device], 16, 64), "flux1-dev").best
    assert rule(best.scheme, device).support == NATIVE and best.scheme != "none"


def test_the_first_is_best_and_every_other_one_says_why_it_is_not() -> None:
    found = ask(machine_of("RTX 4090"), "qwen-image-edit-2511")
    first, *others = found.options
    assert first.why_not_first is None
    assert all(option.why_not_first for option in others)


def test_what_fits_in_no_way_is_refused_with_what_would_fit() -> None:
    machine = machine_of("RTX 2060")
    with pytest.raises(Refused) as refused:
        ask(machine, "wan2.1-t2v-14b", width=1280, height=720)
    frames = int(refused.value.fix.removeprefix("sample at most ").removesuffix(" frames"))
    assert 1 < frames < 81
    ask(machine, "wan2.1-t2v-14b", width=1280, height=720, frames=frames)
    with pytest.raises(Refused) as refused:
        ask(machine_of("M1"), "qwen-image-edit-2511")
    needed = int(refused.value.expected.split()[0])
    ask(machine_of("M1", needed + 1), "qwen-image-edit-2511")


def test_another_kind_of_model_is_refused() -> None:
    with pytest.raises(Refused, match="not-a-diffusion-model"):
        job_of([spec("t5-xxl")], Wishes())
    with pytest.raises(Refused, match="models-differ"):
        job_of([spec("flux1-dev"), spec("wan2.1-t2v-14b")], Wishes())


def test_a_batch_and_a_larger_picture_need_more() -> None:
    machine = machine_of("RTX 4090", ram_gb=64)
    one, batch = (ask(machine, "flux1-dev", batch=n).best for n in (1, 4))
    assert one.scheme == "none" and batch.scheme != "none"
    large = ask(machine, "flux1-dev", width=2048, height=2048).best
    assert large.scheme != "none"


def test_a_pair_needs_the_ram_of_two() -> None:
    machine = machine_of("A100", 40, 128)
    single, pair = ask(machine, "wan2.1-t2v-14b"), ask(machine, "wan2.2-t2v-14b")
    assert public("wan2.1-t2v-14b").stored_bytes == public("wan2.2-t2v-14b").stored_bytes
    assert (single.job.count, pair.job.count) == (1, 2)
    assert single.best.scheme == "none"  # 16 bits of one fit, of two they do not
    assert pair.best.scheme != "none" and pair.options[0].case.found.together
    by_scheme = {option.setup.scheme: option.setup.needs for option in pair.options}
    assert by_scheme["none"].ram_bytes > pair.best.needs.ram_bytes
    files = job_of([spec("wan2.1-t2v-14b"), spec("wan2.1-t2v-14b")], Wishes())
    assert advise(machine, files).best.scheme == pair.best.scheme
