"""A recorded result and how it is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class ParityError(Exception):
    """A fixture lacks something that must be compared, or holds something unexpected."""


@dataclass(frozen=True)
class Check:
    """One compared result."""

    what: str
    error: float
    exact: bool = False

    def passes(self, tolerance: float) -> bool:
        return self.error <= (0 if self.exact else tolerance)


class Tensors:
    """The tensors of a fixture by key; remembers which were used."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise ParityError(f"the tensor {key} is missing")
        self._used.add(key)
        return self._tensors[key]

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._tensors if key.startswith(prefix))

    def unused_results(self) -> list[str]:
        """Recorded results that no check has looked at."""
        return [key for key in self.keys() if key not in self._used and not key.startswith(("in/", "sd/"))]

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Weights whose name begins with ``prefix``, without it, in float32 (stored in half or float8, exactly)."""
        start = f"sd/{prefix}"
        return {key.removeprefix(start): self[key].float() for key in self.keys(start)}


def compare(what: str, actual: Tensor | Sequence[float], expected: Tensor, *, exact: bool = False) -> Check:
    """Largest absolute difference; infinite where shapes differ or something is not a number."""
    actual = torch.as_tensor(actual)
    if actual.shape != expected.shape or actual.numel() == 0:
        return Check(f"{what} (shape {tuple(actual.shape)}, recorded {tuple(expected.shape)})", math.inf, exact)
    error = (actual.double() - expected.double()).abs().max().item()
    return Check(what, error if math.isfinite(error) else math.inf, exact)


def compare_scaled(what: str, actual: Tensor, expected: Tensor) -> Check:
    """Error over the largest recorded magnitude, where that is above 1.

    For what may be large, so that float32 itself errs more: inner activations, and a loss weighted by 1000.
    """
    check = compare(what, actual, expected)
    return Check(check.what, check.error / max(1.0, expected.abs().max().item()))


def compare_scalar(what: str, actual: Tensor, expected: Tensor) -> Check:
    """A single number, recorded as a tensor of one element."""
    return compare_scaled(what, actual.reshape(-1), expected.reshape(-1))


def closest(what: str, candidates: Sequence[Tensor], expected: Tensor) -> Check:
    """For a record that may have been taken at either of several equivalent moments."""
    return min((compare(what, candidate, expected) for candidate in candidates), key=lambda check: check.error)
