"""Prepared training cases on disk: the surroundings of one lesion each, with its report; and the list of them all.

A case keeps the patient's own grid. Windows are cut when a network is trained, exactly as at synthesis, so one prepared
set serves every window and voxel size.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from LesionDiffusionLib.errors import DatasetError
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.windowing import WindowRule

MANIFEST, CASES, FORMAT = "manifest.json", "cases", 1
SPLITS = ("train", "test")
REMEMBERED = 16  # cases kept in memory, 60 MB each where there is a CT of 0.8 mm
_ROUNDING_MM = 1e-3  # of the sizes in a manifest


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One lesion. All arrays are (I, J, K) on one grid of the patient's.

    Attributes:
        ct: int16 HU, or None where a dataset has masks only (good for LMNet).
        labels: uint8 organ map in TotalSegmentator v1 numbers.
        organ: bool, the target organ with its lesion.
        lesion: bool, one component.
        report: of this lesion.
        strings: spelling ("report", "released") -> network ("mask", "image") -> what it hears.
    """

    ct: Volume | None
    labels: Volume
    organ: np.ndarray
    lesion: np.ndarray
    report: LesionReport
    strings: dict[str, dict[str, list[str]]]

    @property
    def geometry(self) -> Geometry:
        return self.labels.geometry

    def save(self, path: Path) -> None:
        """Write the case to one .npz."""
        texts = {"report": json.loads(self.report.to_json()), "strings": self.strings}
        np.savez_compressed(
            path,
            ct_hu=np.zeros((0,) * 3, np.int16) if self.ct is None else self.ct.array,
            labels=self.labels.array,
            organ=self.organ,
            lesion=self.lesion,
            affine_ras=self.geometry.affine_ras,
            texts=np.array(json.dumps(texts)),
        )

    @classmethod
    def load(cls, path: Path) -> PreparedCase:
        """Read a case. Raises DatasetError when it cannot be read."""
        with _opened(path) as data:
            arrays = {name: data[name] for name in ("ct_hu", "labels", "organ", "lesion", "affine_ras")}
            texts = _texts(data)
        geometry = Geometry(arrays["labels"].shape, arrays["affine_ras"])
        ct = Volume(arrays["ct_hu"], geometry) if arrays["ct_hu"].size else None
        report = LesionReport.from_json(json.dumps(texts["report"]))
        labels = Volume(arrays["labels"], geometry)
        return cls(ct, labels, arrays["organ"], arrays["lesion"], report, texts["strings"])


def load_texts(path: Path) -> dict[str, Any]:
    """A case's "report" and "strings", without its arrays. Raises DatasetError when it cannot be read."""
    with _opened(path) as data:
        return _texts(data)


def _texts(data: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(str(data["texts"]))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A case's file, whose arrays are read when asked for; what goes wrong with it is a DatasetError."""
    try:
        with np.load(path, allow_pickle=False) as data:
            yield data
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"cannot read the prepared case {path}: {error}; prepare the dataset again") from error


class PreparedCases:
    """The cases of one split of a prepared dataset, in the order of its manifest.

    Args:
        folder: of the prepared dataset.
        split: "train" or "test".
        window: of a network; lesions that are too large for it are left out, and so are those of which too little of
            the surroundings was kept, where it would see smeared edges.
        need_ct: leave out cases of masks only.

    Attributes:
        entries: of the manifest.
        left_out: how many were, by reason.

    Raises:
        DatasetError: no case is left.
    """

    def __init__(
        self, folder: Path, split: str = "train", window: WindowRule | None = None, need_ct: bool = False
    ) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        everything, kept_mm = manifest["cases"], manifest.get("margin_mm", math.inf)  # earlier editions do not tell
        self.splits = {entry["split"] for entry in everything}
        wanted = [entry for entry in everything if entry["split"] == split]
        reasons = [_unfit(entry, kept_mm, window, need_ct) for entry in wanted]
        self.entries = [entry for entry, reason in zip(wanted, reasons, strict=True) if reason is None]
        self.left_out = Counter(reason for reason in reasons if reason is not None)
        if not self.entries:
            why = "".join(f"; {count} left out: {reason}" for reason, count in self.left_out.items())
            raise DatasetError(
                f"{folder} has no usable case of the split {split!r} among {len(everything)}{why}; prepare other scans"
            )
        self._load = functools.lru_cache(REMEMBERED)(lambda n: PreparedCase.load(folder / self.entries[n]["file"]))
        self._load_strings = functools.cache(lambda n: load_texts(folder / self.entries[n]["file"])["strings"])

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, n: int) -> PreparedCase:
        return self._load(n)

    def strings(self, n: int) -> dict[str, dict[str, list[str]]]:
        """What a case's networks hear, without reading its arrays: every process asks for the texts of all."""
        return self._load_strings(n)


def _unfit(entry: dict[str, Any], kept_mm: float, window: WindowRule | None, need_ct: bool) -> str | None:
    """Why a case cannot be used, or None; ``kept_mm`` of its surroundings were kept."""
    if need_ct and not entry["has_ct"]:
        return "no CT, only masks (good for LMNet)"
    if window is None:
        return None
    largest_mm, size_mm = window.largest_lesion_mm, tuple(entry["size_mm"])
    if any(s > limit - _ROUNDING_MM for s, limit in zip(size_mm, largest_mm, strict=True)):
        return f"larger than the window takes ({'x'.join(f'{v:.0f}' for v in largest_mm)} mm)"
    if window.reach_mm(size_mm) > kept_mm + _ROUNDING_MM:
        return f"only {kept_mm:g} mm round the lesion were kept, and the window reaches further (prepare --margin-mm)"
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared dataset. Raises DatasetError when there is none."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot read {path}: {error}; give a folder that 'lesiondiffusion prepare' has made"
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("cases"), list):
        raise DatasetError(f"{path} is no manifest of prepared cases (format {FORMAT}); prepare the dataset again")
    return data
