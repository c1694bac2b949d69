"""Noise schedules and sampling paths against the published numbers and against algebra."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from LesionDiffusionLib.diffusion.samplers import ddim_std
from LesionDiffusionLib.diffusion.schedule import (
    NoiseSchedule,
    clean_path,
    even_path,
    even_timesteps,
    log_snr_timesteps,
    path_through,
    released_path,
    released_timesteps,
)

RELEASED = NoiseSchedule.scaled_linear()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (RELEASED, {0: 0.9985, 1: 0.99699443, 6: 0.98938338, 250: 0.50842433, 500: 0.114922, 996: 1.5095127e-4}),
        (NoiseSchedule.cosine(), {0: 0.99995872, 1: 0.99991258, 500: 0.49228517, 996: 2.1858761e-5, 999: 2.4288e-9}),
    ],
)
def test_tables_have_the_published_values(schedule, expected):
    for t, value in expected.items():
        assert schedule.alphas_cumprod[t].item() == pytest.approx(value, rel=5e-5 if t == 999 else 1e-6)


def test_alpha_and_sigma_belong_together_for_every_kind_of_time():
    t = torch.tensor([[0, 5], [500, 999]])
    assert RELEASED.alpha(t).shape == t.shape
    torch.testing.assert_close(RELEASED.alpha(t) ** 2 + RELEASED.sigma(t) ** 2, torch.ones(2, 2, dtype=torch.float64))
    assert RELEASED.alpha(500) == RELEASED.alpha(t)[1, 0]


def test_a_table_from_elsewhere_is_taken_as_it_is_and_not_shared():
    table = RELEASED.alphas_cumprod.half()
    schedule = NoiseSchedule(table)
    assert torch.equal(schedule.alphas_cumprod, table.double())
    table[0] = 0.5
    assert schedule.alphas_cumprod[0] > 0.9


def test_noise_is_added_with_one_timestep_per_sample():
    x_0, noise = torch.randn(2, 1, 2, 2, 2), torch.randn(2, 1, 2, 2, 2)
    x_t = RELEASED.add_noise(x_0, noise, torch.tensor([0, 999]))
    for row, t in enumerate((0, 999)):
        assert torch.equal(x_t[row : row + 1], RELEASED.add_noise(x_0[row : row + 1], noise[row : row + 1], t))
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t[1], noise[1], atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.ones(2, 2), r"expects a table \(T,\) with T >= 2, got shape \(2, 2\)"),
        (torch.tensor([0.5]), "T >= 2"),
        (torch.tensor([0.5, 0.6]), "that fall within"),
        (torch.tensor([1.0, 0.6]), "that fall within"),
        (torch.tensor([0.5, 0.0]), "that fall within"),
        (torch.tensor([0.5, float("nan")]), "that fall within"),
    ],
)
def test_tables_that_are_no_schedule_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(table)


def test_released_timesteps():
    assert released_timesteps(200)[:2] == [996, 991]
    assert released_timesteps(200)[-2:] == [6, 1]
    assert released_timesteps(4) == [751, 501, 251, 1]
    assert len(released_timesteps(500)) == 500


@pytest.mark.parametrize("steps", [0, 150, 1000, 1001])
def test_released_timesteps_refuse_what_the_released_rule_gets_wrong(steps):
    with pytest.raises(ValueError, match=f"proper divisor of 1000, got {steps} steps"):
        released_timesteps(steps)


def test_even_timesteps_work_for_every_number_of_steps():
    assert even_timesteps(1) == [999]
    for steps in range(2, 1001):
        timesteps = even_timesteps(steps)
        spacings = [high - low for high, low in pairwise(timesteps)]
        assert len(timesteps) == steps
        assert (timesteps[0], timesteps[-1]) == (999, 0)
        assert min(spacings) >= 1
        assert max(spacings) - min(spacings) <= 1


@pytest.mark.parametrize(("steps", "last"), [(2, 300), (20, 300), (700, 300), (701, 299), (1000, 0)])
def test_even_timesteps_end_where_they_are_told_if_they_fit(steps, last):
    timesteps = even_timesteps(steps, lowest=300)
    assert len(set(timesteps)) == steps
    assert (timesteps[0], timesteps[-1]) == (999, last)


@pytest.mark.parametrize("schedule", [RELEASED, NoiseSchedule.cosine()])
def test_log_snr_timesteps_work_for_every_number_of_steps(schedule):
    assert log_snr_timesteps(1, schedule) == [999]
    for steps in [2, 3, 10, 37, 150, 500, 999, 1000]:
        timesteps = log_snr_timesteps(steps, schedule)
        assert len(timesteps) == steps
        assert (timesteps[0], timesteps[-1]) == (999, 0)
        assert all(high > low for high, low in pairwise(timesteps))


def test_log_snr_timesteps_are_even_in_log_snr():
    log_snr = torch.log(
        RELEASED.alpha(log_snr_timesteps(12, RELEASED)) / RELEASED.sigma(log_snr_timesteps(12, RELEASED))
    )
    steps = log_snr.diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=0.2, atol=0)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"expected 1 to 1000 sampling steps, got {steps}"):
        even_timesteps(steps)
    with pytest.raises(ValueError, match=f"expected 1 to 1000 sampling steps, got {steps}"):
        log_snr_timesteps(steps, RELEASED)


def test_released_path_has_the_published_standard_deviations():
    path = released_path(RELEASED)
    stds = [ddim_std(level, next_level, 1.0) for _, level, next_level in reversed(path)]
    assert path[-1].next_alpha_cumprod == RELEASED.alphas_cumprod[0]
    assert [*stds[:3], stds[199]] == pytest.approx([0.0274320, 0.0464885, 0.0672858, 0.3051537], abs=1e-6)
    half = released_path(NoiseSchedule(RELEASED.alphas_cumprod.half()))
    stds = [ddim_std(level, next_level, 1.0) for _, level, next_level in reversed(half)]
    # The release also does part of this arithmetic in half precision; we only take over the table.
    assert [*stds[:3], stds[199]] == pytest.approx([0.0270798, 0.0462200, 0.0676248, 0.3051356], abs=3e-5)


@pytest.mark.parametrize("make_path", [even_path, clean_path])
def test_own_paths_are_chains_that_end_without_noise(make_path):
    path = make_path(RELEASED, 7)
    assert [step.alpha_cumprod for step in path[1:]] == [step.next_alpha_cumprod for step in path[:-1]]
    assert path[-1].next_alpha_cumprod == 1
    assert len(path) == 7


@pytest.mark.parametrize(
    ("timesteps", "final", "message"),
    [
        ([], 1.0, "falling timesteps"),
        ([5, 5], 1.0, r"falling timesteps, got \[5, 5\]"),
        ([5, 9], 1.0, "falling timesteps"),
        ([1000, 5], 1.0, r"timesteps in 0..999, got \[1000, 5\]"),
        ([5, -1], 1.0, r"timesteps in 0..999"),
        ([500, 5], 0.5, r"final alpha-bar in 0.99\d*..1, got 0.5"),
    ],
)
def test_impossible_paths_are_refused(timesteps, final, message):
    with pytest.raises(ValueError, match=message):
        path_through(RELEASED, timesteps, final)
