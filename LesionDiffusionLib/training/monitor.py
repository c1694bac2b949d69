"""What one sees of a running training: a bar with the time left, TensorBoard scalars, and preview pictures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from LesionDiffusionLib.errors import OutputError, SettingsError
from LesionDiffusionLib.training.loop import StepReport

PREVIEWS, EVENTS = "previews", "tensorboard"
GAP_PX, SCALE = 2, 3


class Monitor:
    """Receives step reports and preview pictures of one training.

    Args:
        folder: of the training; pictures go to ``previews/``, events to ``tensorboard/``.
        steps: of the whole training.
        first: steps done before; later events of a run that was killed are replaced.
        tensorboard: whether to write events.

    Raises:
        SettingsError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, steps: int, first: int = 0, tensorboard: bool = True) -> None:
        self._folder = folder
        self._events = _summary_writer(folder / EVENTS, first) if tensorboard else None
        self._bar = tqdm(initial=first, total=steps, file=sys.stderr, unit="step")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._events is not None:
            with contextlib.suppress(OSError):  # of a full disk, which must not hide why the training stopped
                self._events.close()

    def __call__(self, report: StepReport) -> None:
        """One step report. Raises OutputError when it cannot be written."""
        self._bar.update(report.done - self._bar.n)
        self._bar.set_postfix_str("  ".join(f"{name} {value:.4f}" for name, value in report.losses.items()))
        if self._events is None:
            return
        scalars = {f"loss/{name}": value for name, value in report.raw.items()}
        scalars |= {"learning_rate": report.learning_rate, "gradient_norm": report.gradient_norm}
        with self._writing("TensorBoard events"):
            for name, value in scalars.items():
                self._events.add_scalar(name, value, report.done)

    def picture(self, step: int, rows: list[list[np.ndarray]]) -> None:
        """A preview: rows of slices (H, W) with values in 0..1. Raises OutputError when it cannot be written."""
        from PIL import Image

        image = montage(rows)
        with self._writing("a preview"):
            (self._folder / PREVIEWS).mkdir(exist_ok=True)
            Image.fromarray(image).save(self._folder / PREVIEWS / f"step_{step:08d}.png")
            if self._events is not None:
                self._events.add_image("preview", image, step, dataformats="HW")

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"could not write {what} to {self._folder}: {error}; make room") from error


def montage(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Slices (H, W) in 0..1, row by row, as one enlarged uint8 picture; patient's anterior and head are up."""
    lines = [np.concatenate([_framed(tile) for tile in row], axis=1) for row in rows]
    return np.concatenate(lines, axis=0)


def _framed(tile: np.ndarray) -> np.ndarray:
    gray = (np.clip(np.nan_to_num(tile[::-1]), 0, 1) * 255).astype(np.uint8)
    return np.pad(gray.repeat(SCALE, axis=0).repeat(SCALE, axis=1), GAP_PX, constant_values=255)


def require_tensorboard() -> None:
    """SettingsError when TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"TensorBoard is not installed ({error}); pip install tensorboard, or give --no-tensorboard"
        ) from error


def _summary_writer(folder: Path, first: int):
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first + 1 if first else None)
