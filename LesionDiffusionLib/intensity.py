"""HU to the networks' range and back: one piecewise linear table, read in both directions (released-model 5.3)."""

from __future__ import annotations

import numpy as np

_HU = (-1000.0, -200.0, 200.0, 1000.0)
_NETWORK = (0.0, 0.2, 0.8, 1.0)  # soft tissue, -200 to 200 HU, takes three fifths of the range


def to_network(ct_hu: np.ndarray) -> np.ndarray:
    """HU of any shape to float32 in [0, 1]; saturates below -1000 and above 1000 HU."""
    return np.interp(ct_hu, _HU, _NETWORK).astype(np.float32)


def to_hu(network: np.ndarray) -> np.ndarray:
    """Network values of any shape to float32 HU in [-1000, 1000]; saturates outside [0, 1]."""
    return np.interp(network, _NETWORK, _HU).astype(np.float32)
