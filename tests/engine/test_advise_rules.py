"""Every rule by itself: each row of the decisions, and each small function, with a case of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fusequant.engine import devices
from fusequant.engine.advise import claims, rank, rules
from fusequant.engine.advise.advisor import Advice, Option, advise
from fusequant.engine.advise.claims import CLAIMS, CORE, PREDICTED
from fusequant.engine.advise.decisions import DECISIONS, Decision
from fusequant.engine.advise.find_card import GIB
from fusequant.engine.advise.job import FIXED, Lora, Wishes, job_of
from fusequant.engine.advise.machine import Machine, Software, machine_of
from fusequant.engine.advise.measured import Measured, Pick
from fusequant.engine.advise.modes import title_of
from fusequant.engine.advise.predict import PRODUCTS, gain_of
from fusequant.engine.devices import NATIVE, rule
from fusequant.engine.files.open import open_source
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import write_flux_like
from fusequant.engine.pipeline import Request, convert, prepare
from fusequant.engine.setup import AUTO, BOTH, FUSE, KEEP, LIMIT, LIVE, LOW
from fusequant.engine.specs import spec

ROOT = Path(__file__).resolve().parents[2]
DISTILL, STYLE = Lora("Lightning", fixed=True), Lora("style", fixed=False)


def ask(machine: Machine, model: str = "flux1-dev", **wishes: object) -> Advice:
    return advise(machine, job_of([spec(model)], Wishes(**wishes)))  # type: ignore[arg-type]


def of(scheme: str, advice: Advice) -> Option:
    return next(option for option in advice.options if option.setup.scheme == scheme)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    write_flux_like(folder / "m.safetensors", FluxConfig(256, 1, 1), seed=1)
    source = open_source(folder / "m.safetensors")
    convert(prepare(source, request=Request(scheme="int8")), folder / "q.safetensors")
    return folder / "q.safetensors"


def small_disk(machine: Machine, gib: int = 30) -> Machine:
    return replace(machine, disk_bytes=gib * GIB)


# question: a machine and a job whose first answer gives the reason
HOLDS = {
    "Does the 16-bit model fit?": lambda: ask(machine_of("RTX 5090")),
    "Does it fit by a hair?": lambda: ask(machine_of("RTX 4090")),
    "Does the card multiply 8 bits itself (int8 from sm_75, FP8 from sm_89)?": lambda: ask(
        machine_of("RTX 3070")
    ),
    "No such units, or weights that are stored alone?": lambda: ask(machine_of("GTX 1080")),
    "Out of memory?": lambda: ask(machine_of("RTX 3070")),
    "Under 12 GB?": lambda: ask(machine_of("RTX 3080")),
    "6 GB?": lambda: ask(machine_of("RTX 2060")),
    "Several models that take turns (Wan 2.2 high and low noise)?": lambda: ask(
        machine_of("RTX 3090"), "wan2.2-i2v-14b"
    ),
    "Several models, and a card for all of them?": lambda: ask(
        machine_of("A100", 80), "wan2.2-i2v-14b"
    ),
    "Larger batch, more pixels or more frames?": lambda: ask(machine_of("RTX 3090"), batch=4),
    "A LoRA that never changes (Lightning, distill)?": lambda: ask(
        machine_of("RTX 3080"), loras=(DISTILL,)
    ),
    "A LoRA whose strength changes (style)?": lambda: ask(machine_of("RTX 3080"), loras=(STYLE,)),
    "Too little RAM or disk to fuse?": lambda: ask(
        small_disk(machine_of("RTX 3080")), "qwen-image-edit-2511", loras=(DISTILL,)
    ),
    "One memory for everything (Apple)?": lambda: ask(machine_of("M4 Max", 64)),
    "A card without bf16 (RTX 20, GTX) and Qwen-Image?": lambda: ask(
        machine_of("RTX 2080 Ti"), "qwen-image-edit-2511"
    ),
    "No GPU?": lambda: ask(machine_of("cpu", ram_gb=64)),
}
ELSEWHERE = ask(machine_of("RTX 5090"))  # nothing of all that, but the first


@pytest.mark.parametrize("row", DECISIONS, ids=lambda row: row.question)
def test_each_decision_is_a_reason_where_it_holds_and_a_line_of_the_tree(
    row: Decision, quantized: Path
) -> None:
    if row.question in HOLDS:
        found = HOLDS[row.question]()
    else:
        assert row.question == "Is the file quantized already?"
        found = advise(machine_of("RTX 3080"), job_of([open_source(quantized)], Wishes()))
    assert row.answer in found.best.reasons
    if row is not DECISIONS[0]:
        assert row.answer not in ELSEWHERE.best.reasons
    page = (ROOT / "docs" / "advice.md").read_text(encoding="utf-8")
    assert f"{row.question}\n    -> {row.answer}" in page


def test_no_case_is_left_over() -> None:
    assert {*HOLDS, "Is the file quantized already?"} == {row.question for row in DECISIONS}


@pytest.mark.parametrize("question", HOLDS)
def test_reasons_are_single_sentences(question: str) -> None:
    for option in HOLDS[question]().options:
        for said in (*option.setup.reasons, option.why_not_first or "Nothing."):
            assert said.endswith(".") and ". " not in said and "\n" not in said, said


def test_what_is_in_the_way_is_said_first() -> None:
    kitchen = {"cuda": "switched off", "triton": None}
    software = Software(cuda=(12, 8), triton=True, kitchen=kitchen, os="Windows")
    machine = replace(machine_of("RTX 3080"), software=software, named=False)
    reasons = ask(machine).best.reasons
    assert reasons[0] == (
        "torch is built for CUDA 12.8: comfy-kitchen's CUDA kernels are off, and int8 is "
        "multiplied by Triton kernels."
    )
    assert any("bitsandbytes is never needed" in said for said in reasons)


def test_a_lora_that_never_changes_is_fused_and_takes_the_guidance_away() -> None:
    fused = ask(machine_of("RTX 3080"), "qwen-image-edit-2511", loras=(DISTILL,))
    assert fused.best.loras == FUSE and fused.job.passes == 1
    live = ask(machine_of("RTX 3080"), "qwen-image-edit-2511", loras=(STYLE,))
    assert live.best.loras == LIVE and live.job.passes == 2
    both = ask(machine_of("RTX 3080"), "qwen-image-edit-2511", loras=(DISTILL, STYLE))
    assert both.best.loras == BOTH


def test_live_loras_need_memory_and_time() -> None:
    plain, live = (ask(machine_of("RTX 5090"), loras=x) for x in ((), (STYLE,)))
    before, after = of("int8_convrot", plain), of("int8_convrot", live)
    assert after.setup.needs.vram_bytes > before.setup.needs.vram_bytes
    assert after.case.found.seconds.step > before.case.found.seconds.step


def test_without_disk_a_published_file_and_live_lora_are_advised() -> None:
    machine = small_disk(machine_of("RTX 3080"))
    best = ask(machine, "qwen-image-edit-2511", loras=(DISTILL,)).best
    assert best.files == ("qwen_image_edit_2511_int8_convrot.safetensors",)
    assert best.loras == LIVE and best.scheme == "int8_convrot"
    assert "Too little free disk" in best.reasons[0]
    # nobody publishes this one: it can be made nowhere here, and comes last
    option = of("int4_g128", ask(machine, "qwen-image-edit-2511"))
    assert option.case.short and "Too little free disk" in str(option.why_not_first)
    # nor is there room for a download
    option = of("int8_convrot", ask(small_disk(machine, 10), "qwen-image-edit-2511"))
    assert option.case.short and option.setup.files == ()


def test_with_too_little_ram_nothing_is_converted() -> None:
    machine = machine_of("RTX 3080", ram_gb=3)
    assert "Converting needs" in str(ask(machine, "flux1-dev").options[0].case.blocked)


def test_ram_that_is_short_comes_last() -> None:
    found = ask(machine_of("RTX 3080", ram_gb=16), goal="quality")
    assert not found.options[0].case.short
    original = of("none", found)
    assert "RAM is short" in str(original.why_not_first)
    assert ask(machine_of("RTX 3080", ram_gb=64), goal="quality").best.scheme == "none"


def test_a_pair_with_a_published_file_names_both() -> None:
    found = of("fp8", ask(machine_of("RTX 4090"), "wan2.2-i2v-14b"))
    assert len(found.setup.files) == 2
    assert found.setup.needs.disk_bytes == 2 * found.setup.needs.file_bytes


@pytest.mark.parametrize(
    ("gpu", "goal", "mode"),
    [
        ("RTX 5090", "speed", AUTO), ("RTX A6000", "speed", KEEP), ("RTX 3080", "speed", AUTO),
        ("RTX 5090", "memory", LIMIT), ("M4 Max", "memory", AUTO), ("cpu", "speed", AUTO),
    ],
)  # fmt: skip
def test_modes_of_the_vram_manager(gpu: str, goal: str, mode: str) -> None:
    best = ask(machine_of(gpu, ram_gb=64), goal=goal).best
    assert best.mode == mode
    assert (best.limit_bytes is not None) == (mode == LIMIT)


def test_next_to_nothing_on_the_card_is_low_vram() -> None:
    best = ask(machine_of("RTX 2060"), "wan2.2-i2v-14b").best
    assert best.mode == LOW and best.buffer_bytes == rules.DESKTOP_BYTES


@pytest.mark.parametrize(
    ("gpu", "model", "scheme", "device"),
    [
        ("RTX 4090", "flux1-dev", "none", "default"),
        ("RTX 3080", "flux1-dev", "int8_weight_only", "default"),
        ("RTX 2060", "qwen-image-edit-2511", "int8_weight_only", "cpu"),
        ("RTX 3070", "qwen-image-edit-2511", "int8_weight_only", "default"),
        ("M4 Max", "flux1-dev", "int8_weight_only", "default"),
        ("cpu", "flux1-dev", "none", "default"),
    ],
)
def test_text_encoders(gpu: str, model: str, scheme: str, device: str) -> None:
    best = ask(machine_of(gpu, ram_gb=64), model).best
    assert (best.text_scheme, best.text_device) == (scheme, device)


def test_the_vae_is_bf16_where_the_device_has_it() -> None:
    told = {gpu: ask(machine_of(gpu, 64)).best.vae_dtype for gpu in ("RTX 3090", "T4", "M4 Max")}
    assert told == {"RTX 3090": "bf16", "T4": "fp32", "M4 Max": "bf16"}


def test_compile_needs_triton_speed_and_a_model_that_stays() -> None:
    with_triton = replace(machine_of("RTX 5090"), software=Software(triton=True))
    assert ask(with_triton).best.compile
    assert not ask(with_triton, goal="memory").best.compile
    assert not ask(machine_of("RTX 5090")).best.compile
    assert not ask(replace(with_triton, vram_bytes=8 * GIB)).best.compile


def test_sage_attention_is_for_video_where_it_is_installed() -> None:
    here = replace(machine_of("RTX 4090"), software=Software(packages=("sageattention",)))
    assert ask(here, "wan2.2-i2v-14b").best.attention == "sage"
    assert ask(here, "flux1-dev").best.attention is None
    assert ask(machine_of("RTX 4090"), "wan2.2-i2v-14b").best.attention is None


def test_a_quantized_file_is_used_as_it_is(quantized: Path) -> None:
    job = job_of([open_source(quantized)], Wishes(loras=(DISTILL,)))
    found = advise(machine_of("RTX 3080"), job)
    assert found.best.scheme == "int8" and found.best.loras == LIVE
    assert found.best.needs.disk_bytes == 0
    again = of("fp8", found).case.found.error
    assert again > of("fp8", ask(machine_of("RTX 3080"))).case.found.error


def test_a_coarse_scheme_must_be_worth_it() -> None:
    """Four bits that save a little streaming are not first at goal speed."""
    found = ask(machine_of("Arc B580"), "flux1-dev")
    assert of("int4_g128", found).case.found.error > rank.COARSE
    assert found.best.scheme == "int8_weight_only"


def test_only_what_a_device_multiplies_gains_time() -> None:
    for gpu in ("GTX 1080", "RTX 3080", "RTX 4090", "RX 6800", "RX 7900 XTX", "Arc A770", "M4"):
        machine = machine_of(gpu)
        for scheme in PRODUCTS:
            if scheme in ("nvfp4", "mxfp8", "w4a8", "w4a4_convrot"):
                continue  # a scheme that may not be there
            native = rule(scheme, machine.device).support == NATIVE
            assert gain_of(scheme, machine) == 1 or native
    assert gain_of("int8", machine_of("RX 6800")) == 1  # no matrix units in that class
    assert gain_of("int8", machine_of("RTX 3080")) > 1
    assert gain_of("fp8", machine_of("RTX 3080")) == 1 < gain_of("fp8", machine_of("RTX 4090"))


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """native(scheme, device): as if the device multiplied the codes of that scheme."""

    def make(scheme: str, device: str) -> None:
        told = devices.DeviceRule(scheme, device, NATIVE, "tensor cores of a test")
        monkeypatch.setattr(devices, "rules", lambda: {**known, (scheme, device): told})

    known = dict(devices.rules())
    yield make


def test_block_fp8_is_preferred_on_hopper_alone() -> None:
    best = ask(machine_of("H100", 24, 64), "qwen-image-edit-2511").best
    assert best.scheme == "fp8_block128"
    assert any(x.startswith("fp8_block128 on H100: fp8 tensor cores") for x in best.reasons)
    assert ask(machine_of("RTX 4090", 24), "qwen-image-edit-2511").best.scheme == "int8_convrot"


def test_a_scheme_of_four_bits_is_faster_once_the_device_multiplies_it(
    native: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """int4_g128 stands for nvfp4 here. To be first it must be worth its error, or be measured."""
    monkeypatch.setitem(PRODUCTS, "int4_g128", "fp4")
    native("int4_g128", "sm_120")
    for gpu, faster in (("RTX 5090", True), ("RTX 4090", False)):
        found = ask(machine_of(gpu, 32), "qwen-image-edit-2511")
        four, eight = (of(x, found).case.found.seconds.step for x in ("int4_g128", "int8_convrot"))
        assert (four < eight) == faster
        assert found.best.scheme == "int8_convrot"
    job = job_of([spec("qwen-image-edit-2511")], Wishes())
    picks = {"none": Pick(1.0, None), "int4_g128": Pick(0.3, None), "int8_convrot": Pick(0.7, None)}
    best = advise(machine_of("RTX 5090"), job, Measured("a.json", "sm_120", picks)).best
    assert best.scheme == "int4_g128"


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16", True),
        ("lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16", True),
        ("Wan21_CausVid_14B_T2V_lora_rank32", True),
        ("Wuli-Qwen-Image-2512-Turbo-LoRA-2steps-V1.0-bf16", True),
        ("wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise", True),
        ("gummycandy_qwen", False),
        ("illustration-1.0-qwen-image", False),
        ("Qwen-Image-Edit-2509-Relight", False),
        ("footsteps_style", False),
    ],
)
def test_names_tell_what_is_fixed(name: str, fixed: bool) -> None:
    assert bool(FIXED.search(name)) == fixed


@pytest.mark.parametrize(
    ("scheme", "loras", "streamed", "title"),
    [
        ("none", FUSE, False, "Original BF16"),
        ("none", FUSE, True, "Original BF16, low VRAM"),
        ("fp8", LIVE, False, "FP8 standard"),
        ("fp8_row", FUSE, False, "FP8 optimized"),
        ("fp8", LIVE, True, "Low VRAM"),
        ("fp8", BOTH, True, "Low VRAM optimized"),
        ("int8_convrot", FUSE, False, "INT8 optimized"),
        ("int4_g128", FUSE, False, "INT4 optimized"),
    ],
)
def test_modes_have_the_names_that_people_know(
    scheme: str, loras: str, streamed: bool, title: str
) -> None:
    setup = replace(ELSEWHERE.best, scheme=scheme, loras=loras)
    assert title_of(setup, streamed) == title


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.topic)
def test_a_claim_rests_on_a_result_file_or_says_what_it_is(claim: claims.Claim) -> None:
    assert claim.says.endswith(".") and ". " not in claim.says
    path = ROOT / "benchmarks" / "results" / claim.basis
    assert claim.basis in (PREDICTED, CORE) or path.is_file()


def test_the_measured_claim_says_what_its_file_says() -> None:
    claim = CLAIMS["Live LoRA"]
    path = ROOT / "benchmarks" / "results" / claim.basis
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    seconds = {(row["job"], row["scheme"]): row["change_s"] for row in rows if "change_s" in row}
    assert f"takes {seconds['live_lora', 'int8']:.2f} s (int8)" in claim.says
    assert f"or {seconds['live_lora', 'fp8']:.2f} s (fp8) with Live LoRA" in claim.says
    assert f"{seconds['stock_lora', 'int8']:.0f} s (int8)" in claim.says
    assert f"{seconds['stock_lora', 'fp8']:.0f} s (fp8)" in claim.says


def test_the_claim_about_cpus_is_what_its_file_says() -> None:
    claim = CLAIMS["8 bits on a CPU"]
    path = ROOT / "benchmarks" / "results" / claim.basis
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    over = {row["contender"]: row["over_fp32"] for row in rows if row["what"] == "step"}
    for name in ("int8", "int8, SDPA"):
        assert 0.55 < over[name] < 0.78 and "in int8 takes about two thirds" in claim.says
    assert 0.85 < over["fp8, SDPA"] < 1.15 and "in fp8 about as long as in fp32" in claim.says
    assert over["core int8"] > 8 and "takes over 8 times as long" in claim.says


@pytest.mark.parametrize(
    ("wishes", "model", "topic"),
    [
        ({"loras": (STYLE,)}, "flux1-dev", "Live LoRA"),
        ({}, "flux1-dev", "non-blocking copies"),
        ({"width": 256, "height": 256}, "flux1-dev", "int8 with few tokens"),
    ],
)
def test_claims_are_said_where_they_matter(
    wishes: dict[str, object], model: str, topic: str
) -> None:
    claim = CLAIMS[topic]
    expected = f"{claim.says[:-1]} ({claim.basis})."
    assert expected in ask(machine_of("RTX 3070"), model, **wishes).best.reasons
