"""Replacement: the same words make water of any organ, the scan's noise stays, and a fresh one can learn."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.latent_change import LatentChange, drawn_apart, drawn_together
from LesionDiffusionLib.networks.replacement import Replacement

CHANGE = LatentChange(1 / 16)
CORE = (slice(None), slice(None), *3 * (slice(1, -1),))  # where the filter sees no border


@pytest.fixture
def known():
    """A smooth patient (2, 3, 5, 6, 7): an organ of very different levels in the two samples, with a slope."""
    slope = torch.linspace(-0.4, 0.4, 7).expand(2, 3, 5, 6, 7)
    return slope + torch.tensor([-0.1, 12.0]).reshape(2, 1, 1, 1, 1)


def replaced(known: torch.Tensor, target: torch.Tensor, share: float) -> torch.Tensor:
    """``known`` after a change whose words are ``target`` (3) and ``share``, the same in every voxel."""
    comes = CHANGE.shown(target).reshape(1, 3, 1, 1, 1).expand(known.shape)
    said = torch.cat([comes, torch.full_like(known[:, :1], share)], dim=1)
    with torch.no_grad():
        return CHANGE.onto(known, Replacement(3)(said, CHANGE.shown(known)))


def test_the_same_words_reach_the_same_value_from_any_level(known):
    water = torch.tensor([-0.3, 0.0, 0.2])
    expected = water.reshape(1, 3, 1, 1, 1).expand(known.shape)
    torch.testing.assert_close(replaced(known, water, 1.0)[CORE], expected[CORE], rtol=0, atol=1e-4)


def test_a_share_of_half_meets_in_the_middle(known):
    expected = known / 2 + 0.5
    torch.testing.assert_close(replaced(known, torch.full((3,), 0.5), 0.5)[CORE], expected[CORE], rtol=0, atol=1e-4)


def test_without_a_share_what_comes_is_added_to_what_is_there(known):
    step = torch.tensor([0.5, -0.25, 0.0])
    torch.testing.assert_close(replaced(known, step, 0.0), known + step.reshape(1, 3, 1, 1, 1), rtol=0, atol=1e-4)


def test_the_finest_noise_of_the_scan_stays(known):
    board = (-1.0) ** sum(torch.meshgrid(*map(torch.arange, known.shape[2:]), indexing="ij"))
    filled = replaced(known + 0.1 * board, torch.zeros(3), 1.0)
    torch.testing.assert_close(filled[CORE], (0.1 * board).expand(known.shape)[CORE], rtol=0, atol=1e-4)


def test_where_nothing_is_said_nothing_changes_and_yet_it_can_learn(known):
    said = torch.zeros(2, 4, 5, 6, 7, requires_grad=True)
    change = Replacement(3)(said, CHANGE.shown(known))
    assert (change == 0).all()
    change.sum().backward()
    torch.testing.assert_close(said.grad[:, :3], torch.ones_like(known))
    torch.testing.assert_close(said.grad[:, 3][:, 1:-1, 1:-1, 1:-1], -(known / CHANGE.unit).sum(1)[:, 1:-1, 1:-1, 1:-1])


def test_drawing_apart_undoes_drawing_together_and_both_have_slope_one_at_zero():
    x = torch.tensor([-40.0, -4.0, -1e-6, 0.0, 1.5, 700.0], requires_grad=True)
    torch.testing.assert_close(drawn_apart(drawn_together(x)), x)
    for function in (drawn_together, drawn_apart):
        (slope,) = torch.autograd.grad(function(x)[3], x)
        assert slope[3] == 1
