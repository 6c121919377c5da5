"""Tokens, activations and products of a pass, against formulas worked out by hand."""

from __future__ import annotations

import pytest

from fusequant.engine.advise.job import Wishes, diffusion_specs, job_of
from fusequant.engine.advise.latents import Picture, latent_of, most_frames, work_of
from fusequant.engine.advise.subject import public

MIB = 2**20


def test_flux_at_one_megapixel() -> None:
    model = public("flux1-dev").model
    work = work_of(model, Picture(1024, 1024, 1), 1)
    tokens = (1024 // 16) ** 2 + 512
    assert (work.tokens, work.width) == (tokens, 3072)
    # a single block at its MLP: five tokens' worth of hidden sizes and the MLP's four twice, the
    # image once more, and a rotation of 128 pairs a token
    fullest = tokens * 3072 * (5 + 2 * 4) + 4096 * 3072 + tokens * 2 * 128
    assert work.activation_bytes == 2 * fullest
    h = 3072
    double = 19 * 12 * h * h  # of one side: qkv 3, proj 1, mlp 4 + 4
    single = 38 * 12 * h * h  # linear1 7, linear2 5
    expected = 2.0 * (double * (4096 + 512 + 512) + single * tokens)
    assert work.products == pytest.approx(expected, rel=0.01)
    assert work.attention == 4.0 * tokens**2 * h * (19 + 38)


def test_wan_counts_frames_in_fours() -> None:
    model = public("wan2.2-i2v-14b").model
    work = work_of(model, Picture(832, 480, 81), 2)
    tokens = (832 // 16) * (480 // 16) * 21 + 512
    assert work.tokens == tokens
    video, text, h = tokens - 512, 512, 5120
    fullest = video * (3 * h + 2 * 13824 + h) + text * h + video * 2 * 128
    assert work.activation_bytes == 2 * fullest
    assert work.attention == 4.0 * tokens**2 * 5120 * 40


def test_wan_5b_has_a_smaller_latent() -> None:
    latent = latent_of(public("wan2.2-ti2v-5b").model)
    assert (latent.pixels, latent.width, latent.height, latent.frames) == (32, 1280, 704, 121)


def test_the_picture_to_edit_goes_in_too() -> None:
    model = public("qwen-image-edit-2511").model
    assert work_of(model, Picture(1024, 1024, 1), 2).tokens == 2 * 4096 + 512


def test_everything_grows_with_the_batch() -> None:
    model = public("flux1-dev").model
    one, four = (work_of(model, Picture(1024, 1024, 1, n), 1) for n in (1, 4))
    # only the table of rotations is there once
    assert four.activation_bytes == pytest.approx(4 * one.activation_bytes, rel=0.02)
    assert four.products == 4 * one.products and four.attention == 4 * one.attention


# ComfyUI's estimate: latent area x bytes x 0.01 x the model's factor, in MiB
CORE = {
    "flux1-dev": (128 * 128, 3.1),
    "qwen-image-edit-2511": (2 * 128 * 128, 1.8),
    "wan2.2-i2v-14b": (21 * 60 * 104, 5120 / 2222),
}


@pytest.mark.parametrize("name", CORE)
def test_the_estimate_is_below_the_hosts_by_what_is_said(name: str) -> None:
    area, factor = CORE[name]
    job = job_of([public(name).source], Wishes())
    ratio = area * 2 * 0.01 * factor * MIB / job.work.activation_bytes
    assert 1.9 <= ratio <= 2.7


def test_odd_sizes_are_rounded_up() -> None:
    model = public("flux1-dev").model
    assert work_of(model, Picture(1000, 1000, 1), 1).tokens == 63 * 63 + 512


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (80, 21), (81, 21), (82, 22)])
def test_frames_of_a_video(frames: int, latents: int) -> None:
    model = public("wan2.1-t2v-14b").model
    area = (832 // 16) * (480 // 16)
    assert work_of(model, Picture(832, 480, frames), 2).tokens == area * latents + 512
    most = most_frames(latent_of(model), Picture(832, 480, frames), area * latents)
    assert most >= frames - 4 and (most - 1) // 4 + 1 == latents


def test_steps_call_the_model_twice_unless_guidance_is_off() -> None:
    source = public("wan2.2-i2v-14b").source
    assert job_of([source], Wishes()).passes == 2
    assert job_of([public("flux1-dev").source], Wishes()).passes == 1


def test_each_family_is_cut_and_read_as_its_users_do() -> None:
    told = {
        name: (latent_of(public(name).model), [x.source.path.stem for x in job.text])
        for name in diffusion_specs()
        for job in [job_of([public(name).source], Wishes())]
    }
    assert all(text for _, text in told.values())
    assert told["flux2-dev"][1] == ["mistral-small-flux2"]
    assert told["flux2-klein-9b"][1] == ["qwen3-8b"]
    assert told["hunyuan-video"][1] == ["llama-3.1-8b", "clip-l"]
    assert told["hunyuan-video-1.5"][1] == ["qwen2.5-vl-7b"]
    assert (told["hunyuan-video"][0].passes, told["hunyuan-video-1.5"][0].passes) == (1, 2)
    ltx = told["ltx-video-0.9-13b"][0]
    assert (ltx.pixels, ltx.frame_stride) == (32, 8)


def test_ltx_reads_text_only_where_it_attends_to_it() -> None:
    model = public("ltx-video-0.9-2b").model
    work = work_of(model, Picture(768, 512, 97), 2)
    video, h = (768 // 32) * (512 // 32) * 13, 2048
    assert work.tokens == video + 128
    block = (4 + 2 + 8) * h * h * work.tokens + 2 * h * h * 128  # self, q and out, MLP; k and v
    assert work.products == pytest.approx(2.0 * 28 * block, rel=0.02)
    assert work.attention == 4.0 * work.tokens**2 * h * 28


def test_a_token_of_hidream_passes_half_of_the_experts() -> None:
    model = public("hidream-i1").model
    work = work_of(model, Picture(1024, 1024, 1), 1)
    h, expert, text = 2560, 3 * 2560 * 6912, 384
    image = 4 * h * h + 3 * h * 3584 + 2 * expert  # of four experts two, and the shared one
    side = 4 * h * h + expert
    expected = 2.0 * (48 * image * work.tokens + 16 * side * text)
    assert work.products == pytest.approx(expected, rel=0.02)
    assert work.attention == 4.0 * work.tokens**2 * h * 48


def test_the_sound_of_ltx_2_is_not_counted_as_pictures() -> None:
    work = work_of(public("ltx-2").model, Picture(1280, 704, 121), 1)
    assert work.width == 4096
    assert work.tokens == 40 * 22 * 16 + 1024
