"""The state of an unfinished training on disk: replaced in one step, so that no kill and no full disk destroys it."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from LesionDiffusionLib.errors import OutputError, TrainingError
from LesionDiffusionLib.whole_file import whole_file


@dataclass(frozen=True)
class Checkpoint:
    """
    Attributes:
        path: the file.
        settings: what decides the result; a training is only continued under equal settings.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``state``, whole or not at all: the file appears under its name only when it is safe on disk.

        Raises:
            OutputError: it cannot be written, for instance because the disk is full; the last checkpoint is kept.
        """
        try:
            with whole_file(self.path) as partial:
                torch.save({**state, "settings": dict(self.settings)}, partial)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"could not write the checkpoint of step {state['done']}: {_reason(error)}; "
                f"{self.last()}; make room and continue with --resume"
            ) from error

    def load(self) -> dict[str, Any] | None:
        """The state in main memory, or None when there is none yet.

        A GPU's optimizer would ask its counters of steps one by one, hundreds of times a step, if they lay there.

        Raises:
            TrainingError: the file cannot be read, or belongs to a training with other settings.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except (OSError, RuntimeError, EOFError, LookupError, TypeError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"cannot read the checkpoint {self.path}: {_reason(error)}; "
                "delete it to start again, or bring it back from a copy"
            ) from error
        if settings != dict(self.settings):
            raise TrainingError(
                f"the checkpoint {self.path} belongs to a training with other settings: "
                f"{_difference(settings, self.settings)}; continue with its own settings or choose another folder"
            )
        return state

    def last(self) -> str:
        """What to tell a user about the checkpoint on disk."""
        if not self.path.exists():
            return "no checkpoint had been written yet"
        with contextlib.suppress(TrainingError):
            return f"the last good checkpoint is {self.path} (step {self.load()['done']})"
        return f"the last checkpoint is {self.path}"


def _reason(error: Exception) -> str:
    """An error's first line; its kind where it says nothing, as of an empty file."""
    return f"{(str(error).splitlines() or [type(error).__name__])[0]:.200}"


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first setting that differs, by its dotted name."""
    for name in sorted({*theirs, *ours}):
        a, b = theirs.get(name), ours.get(name)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return f"{name}.{_difference(a, b)}"
        return f"{name} was {a!r}, is {b!r}"
    return "none"
