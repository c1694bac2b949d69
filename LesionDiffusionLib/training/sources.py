"""Where batches come from: rendered cases held in memory, or prepared cases whose windows are cut when asked for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from LesionDiffusionLib.errors import DatasetError
from LesionDiffusionLib.geometry import Box, axes_to_size
from LesionDiffusionLib.linet import LatentCodec
from LesionDiffusionLib.lmnet import condition_maps
from LesionDiffusionLib.resampling import sample, sample_mask, window_grid
from LesionDiffusionLib.training.case_store import CaseStore
from LesionDiffusionLib.training.mirroring import LEFT_AXIS, can_mirror, mirrored_labels
from LesionDiffusionLib.training.prepared import PreparedCase, PreparedCases
from LesionDiffusionLib.training.rendered_case import lmnet_windows
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.windowing import WindowRule

REMEMBERED_LATENTS = 256  # a frozen autoencoder takes as long as LINet; 6 MB each at the released size


class MaskBatch(NamedTuple):
    """LMNet: condition maps (B, 3, D, H, W) and the lesion (B, 1, D, H, W), all float32."""

    maps: Tensor
    m_0: Tensor


class ImageBatch(NamedTuple):
    """LINet: known latents and those with the lesion (B, C, d, h, w), and the lesion (B, 1, D, H, W); float32."""

    known: Tensor
    z_0: Tensor
    mask: Tensor


class Source(Protocol):
    """Training examples by number; ``shape`` (C, ...) is that of the tensor that is diffused."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def strings(self, n: int) -> list[str]:
        """What the network hears of an example."""
        ...

    def can_mirror(self, n: int) -> bool:
        """Whether it may be mirrored left to right."""
        ...

    def __call__(self, picks: Sequence[int], mirrored: Sequence[bool]) -> tuple[Tensor, ...]:
        """A MaskBatch or an ImageBatch."""
        ...


class RenderedMasks:
    """LMNet's examples among rendered cases."""

    def __init__(self, store: CaseStore) -> None:
        names = ("labels", "organ", "box", "mask")
        self._labels, self._organ, self._box, self._mask = (store.array(f"lmnet_{name}") for name in names)
        self._strings = store.strings("mask")
        self.shape = (1, *self._mask.shape[1:])

    def __len__(self) -> int:
        return len(self._strings)

    def strings(self, n: int) -> list[str]:
        return self._strings[n]

    def can_mirror(self, n: int) -> bool:
        return can_mirror(self._labels[n])

    def __call__(self, picks: Sequence[int], mirrored: Sequence[bool]) -> MaskBatch:
        arrays = (
            _mask_arrays((self._labels[n], self._organ[n], self._box[n], self._mask[n]), flip)
            for n, flip in zip(picks, mirrored, strict=True)
        )
        return _mask_batch(arrays)


class PreparedMasks:
    """LMNet's examples among prepared cases."""

    def __init__(self, cases: PreparedCases, window: WindowRule, spelling: str) -> None:
        self._cases, self._window, self._spelling = cases, window, spelling
        self._mirrorable = _mirrorable(cases, window)
        self.shape = (1, *window.shape)

    def __len__(self) -> int:
        return len(self._cases)

    def strings(self, n: int) -> list[str]:
        return self._cases.strings(n)[self._spelling]["mask"]

    def can_mirror(self, n: int) -> bool:
        return self._mirrorable(n)

    def __call__(self, picks: Sequence[int], mirrored: Sequence[bool]) -> MaskBatch:
        return _mask_batch(_mask_arrays(self.windows(n), flip) for n, flip in zip(picks, mirrored, strict=True))

    def windows(self, n: int) -> tuple[np.ndarray, ...]:
        """Organ labels, target organ, box and lesion (D, H, W), as `lmnet_windows` gives them."""
        case = self._cases[n]
        lesion = Volume(case.lesion, case.geometry)
        return lmnet_windows(case.labels, case.organ, lesion, window_of(case, self._window))


class RenderedImages:
    """LINet's examples among rendered cases, whose latents were computed beforehand.

    The known surroundings are those of the healthy window, as at inference; with the lesion image's own latents
    (paper equation 4) the network could read the lesion's density off its blurred rim and ignore the text.
    """

    def __init__(self, store: CaseStore, healthy: np.ndarray, lesion: np.ndarray) -> None:
        self._healthy, self._lesion, self._mask = healthy, lesion, store.array("mask")
        self._strings = store.strings("image")
        self.shape = tuple(lesion.shape[1:])

    def __len__(self) -> int:
        return len(self._strings)

    def strings(self, n: int) -> list[str]:
        return self._strings[n]

    def can_mirror(self, n: int) -> bool:
        return False  # latents were encoded once, and the mirror image has others

    def __call__(self, picks: Sequence[int], mirrored: Sequence[bool]) -> ImageBatch:
        picks = list(picks)
        known, z_0, mask = (
            torch.from_numpy(a[picks].astype(np.float32)) for a in (self._healthy, self._lesion, self._mask)
        )
        return ImageBatch(known, z_0, mask[:, None])


class PreparedImages:
    """LINet's examples among prepared cases: windows are encoded when asked for, and known are the lesion image's own
    surroundings (paper equation 4), because nobody has the patient without the lesion."""

    def __init__(self, cases: PreparedCases, window: WindowRule, spelling: str, codec: LatentCodec) -> None:
        self._cases, self._window, self._spelling, self._codec = cases, window, spelling, codec
        self._remembered = functools.lru_cache(REMEMBERED_LATENTS)(self._encoded)
        self._mirrorable = _mirrorable(cases, window)
        self._encoding = threading.Lock()  # windows are cut by several threads; a GPU has memory for one more network
        config = codec.autoencoder.config
        self.shape = (config.z_channels, *(n // config.downsampling for n in window.shape))

    def __len__(self) -> int:
        return len(self._cases)

    def strings(self, n: int) -> list[str]:
        return self._cases.strings(n)[self._spelling]["image"]

    def can_mirror(self, n: int) -> bool:
        return self._mirrorable(n)

    def __call__(self, picks: Sequence[int], mirrored: Sequence[bool]) -> ImageBatch:
        examples = [self._remembered(n, flip) for n, flip in zip(picks, mirrored, strict=True)]
        z_0, mask = (torch.stack(parts).float() for parts in zip(*examples, strict=True))
        return ImageBatch(z_0, z_0, mask)

    def _encoded(self, n: int, flip: bool) -> tuple[Tensor, Tensor]:
        """Latents (C, d, h, w) and lesion (1, D, H, W) of an example, in main memory."""
        windows = image_window(self._cases[n], self._window)
        ct_hu, mask = (np.flip(a, LEFT_AXIS).copy() if flip else a for a in windows)
        device = next(self._codec.autoencoder.parameters()).device
        with self._encoding:
            z_0 = self._codec.encode(ct_hu, device)
        return z_0[0].cpu(), torch.from_numpy(mask)[None]


class PreparedWindows:
    """CT windows around the lesions of prepared cases, for the autoencoder: like an int16 array (N, D, H, W)."""

    def __init__(self, cases: PreparedCases, window: WindowRule) -> None:
        self._cases, self._window = cases, window
        self.shape = (len(cases), *window.shape)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, n: int) -> np.ndarray:
        return np.round(image_window(self._cases[n], self._window)[0]).astype(np.int16)


def window_of(case: PreparedCase, rule: WindowRule):
    """The grid of a model's window around a case's lesion."""
    box = Box.bounding(case.lesion)
    size_mm = axes_to_size(case.geometry, box.size_mm(case.geometry))
    return window_grid(case.geometry, box.center_vox, rule.spacing_for(size_mm), rule.shape)


def image_window(case: PreparedCase, rule: WindowRule) -> tuple[np.ndarray, np.ndarray]:
    """HU and lesion (D, H, W) on the window around a case's lesion. Raises DatasetError for a case without CT."""
    if case.ct is None:
        raise DatasetError("a prepared case has no CT, only masks: good for LMNet; prepare a dataset with images")
    grid = window_of(case, rule)
    return sample(case.ct, grid), sample_mask(case.lesion, case.geometry, grid)


def _mirrorable(cases: PreparedCases, rule: WindowRule) -> Callable[[int], bool]:
    """Whether a case may be mirrored, judged by the organs in its window; its arrays are read for it once."""
    return functools.cache(lambda n: can_mirror(sample(cases[n].labels, window_of(cases[n], rule), order=0)))


def _mask_arrays(arrays: tuple[np.ndarray, ...], flip: bool) -> tuple[np.ndarray, ...]:
    if not flip:
        return arrays
    labels, *others = arrays
    return mirrored_labels(labels), *(np.flip(a, LEFT_AXIS) for a in others)


def _mask_batch(examples) -> MaskBatch:
    maps, masks = [], []
    for labels, organ, box, mask in examples:
        maps.append(condition_maps(labels, organ, box))
        masks.append(torch.from_numpy(mask.astype(np.float32))[None, None])
    return MaskBatch(torch.cat(maps), torch.cat(masks))
