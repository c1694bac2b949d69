"""Errors that a user can cause and repair.

Every message says what was expected, what came, and what to do. The command line prints them as one
``error: ...`` line and exits with code 2; anything else that reaches the user as a traceback is a bug.
"""

from __future__ import annotations

import traceback


class LesionDiffusionError(Exception):
    """Base of all errors that a user's input can cause."""


class GeometryError(LesionDiffusionError):
    """A grid is unusable (sheared, singular), or two grids that must agree do not."""


class VolumeError(LesionDiffusionError):
    """A file or an array is not a usable CT, organ map or mask."""


class LabelError(LesionDiffusionError):
    """An organ numbering or an organ name is unknown, or the organ is absent from the map."""


class ReportError(LesionDiffusionError):
    """A lesion report has an unknown attribute or value, or a report file is malformed."""


class PlacementError(LesionDiffusionError):
    """No lesion box satisfies the region rule, or a given box is unusable."""


class BundleError(LesionDiffusionError):
    """A model bundle or a checkpoint is missing, damaged, unsafe or of another architecture."""


class DeviceError(LesionDiffusionError):
    """The requested device does not exist or has too little memory."""


class SettingsError(LesionDiffusionError, ValueError):
    """A setting is impossible, or the model does not support it."""


class TrainingError(LesionDiffusionError):
    """A training cannot start, be continued, or go on (for instance because its loss is no longer a number)."""


class DatasetError(LesionDiffusionError):
    """A dataset folder, a list or a prepared training set is not in the expected form."""


class WorklistError(LesionDiffusionError):
    """A worklist cannot be read, or a line of it asks for something impossible."""


class OutputError(LesionDiffusionError):
    """The output folder exists already or cannot be written."""


class WorkerError(LesionDiffusionError):
    """The worker process could not do a job; the message is its own."""


class Cancelled(Exception):  # noqa: N818 - it is no error
    """The caller asked to stop. Not an error: nothing was written."""


def release_frames(error: BaseException) -> None:
    """Empty the finished frames of an error that is kept: they would hold a network's activations as long as it.

    Its traceback can still be told.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def reason_of(error: Exception) -> str:
    """One line that says what went wrong; a bug is called unexpected."""
    known = isinstance(error, LesionDiffusionError)
    return " ".join((str(error) if known else f"unexpected {type(error).__name__}: {error}").split())
