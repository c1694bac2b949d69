"""The intensity table of released-model 5.3, both directions."""

from __future__ import annotations

import numpy as np
import pytest

from LesionDiffusionLib.intensity import to_hu, to_network


@pytest.mark.parametrize(
    ("hu", "network"),
    [(-1000, 0), (-600, 0.1), (-200, 0.2), (0, 0.5), (100, 0.65), (200, 0.8), (600, 0.9), (1000, 1)],
)
def test_the_table_is_read_in_both_directions(hu, network):
    assert to_network(np.array([hu])) == pytest.approx([network], abs=1e-6)
    assert to_hu(np.array([network])) == pytest.approx([hu], abs=1e-3)


def test_values_outside_saturate():
    assert to_network(np.array([-3024, 3071])).tolist() == [0, 1]
    assert to_hu(np.array([-0.3, 1.7])).tolist() == [-1000, 1000]


def test_there_and_back_is_the_identity_within_the_range(generator):
    ct_hu = generator.uniform(-1000, 1000, (3, 5, 7)).astype(np.float32)
    assert to_hu(to_network(ct_hu)) == pytest.approx(ct_hu, abs=1e-3)


@pytest.mark.parametrize("convert", [to_network, to_hu])
def test_shape_is_kept_and_the_result_is_float32(convert):
    for dtype in (np.int16, np.float16, np.float64):
        result = convert(np.zeros((2, 3, 4), dtype))
        assert result.shape == (2, 3, 4)
        assert result.dtype == np.float32
