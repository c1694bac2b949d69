"""LatentChange: linear for small changes, the square root for large ones, and exactly undone."""

from __future__ import annotations

import pytest
import torch

from LesionDiffusionLib.latent_change import LatentChange

CHANGE = LatentChange(0.0625, knee=2.0)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 3, 4, 5, 6, 7, generator=generator)


def test_a_change_laid_onto_what_was_known_gives_the_lesion_back(pair):
    known, z = pair
    torch.testing.assert_close(CHANGE.onto(known, CHANGE.between(known, z)), z, rtol=1e-5, atol=1e-5)


def test_no_change_keeps_every_bit(pair):
    known, _ = pair
    assert (CHANGE.between(known, known) == 0).all()
    assert torch.equal(CHANGE.onto(known, torch.zeros_like(known)), known)


@pytest.mark.parametrize(
    ("knee", "units", "expected"),
    [(1.0, 1e-4, 1e-4), (1.0, 1.5, 1.0), (1.0, -4.0, -2.0), (1.0, 40.0, 8.0), (4.0, 6.0, 4.0), (4.0, -16.0, -8.0)],
)
def test_closed_forms(knee, units, expected):
    change = LatentChange(CHANGE.unit, knee).between(torch.zeros(1), torch.tensor([units * CHANGE.unit]))
    torch.testing.assert_close(change, torch.tensor([expected]), rtol=2e-4, atol=0.0)


def test_the_network_sees_the_known_in_the_same_units(pair):
    known, _ = pair
    assert torch.equal(CHANGE.shown(known), CHANGE.between(torch.zeros_like(known), known))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["unit", "knee"])
def test_unit_and_knee_are_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        LatentChange(**{"unit": 0.0625, name: value})
