"""The judge of the text's effect can say yes and no."""

from __future__ import annotations

import measure_text as script
import numpy as np


def test_an_effect_is_seen_and_lost_under_shuffling(generator):
    density_hu = np.array([60.0, 100.0, 140.0]) + generator.normal(0, 8, (20, 3))
    sphericity = np.array([0.9, 0.7]) + generator.normal(0, 0.05, (20, 2))
    figures = script.judge(density_hu, sphericity, np.random.default_rng(0))
    assert figures["text acts"]
    assert figures["shuffled text loses the effect"]


def test_no_effect_is_not_called_one(generator):
    figures = script.judge(generator.normal(80, 20, (20, 3)), generator.normal(0.8, 0.1, (20, 2)), generator)
    assert not figures["text acts"]
    only_density = np.array([60.0, 100.0, 140.0]) + generator.normal(0, 8, (20, 3))
    assert not script.judge(only_density, generator.normal(0.8, 0.1, (20, 2)), generator)["text acts"]
