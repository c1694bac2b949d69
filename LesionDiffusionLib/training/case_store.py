"""Rendered cases on disk: shards of stacked arrays with their texts, readable one array at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from LesionDiffusionLib.training.rendered_case import RenderedCase

FOR_LINET = ("healthy_hu", "lesion_hu", "mask")
ARRAYS = (*FOR_LINET, "lmnet_labels", "lmnet_organ", "lmnet_box", "lmnet_mask")


def save_shard(path: Path, cases: list[RenderedCase], names: tuple[str, ...] = ARRAYS) -> None:
    """Write ``cases`` to one uncompressed .npz, or those arrays of them that one network needs."""
    texts = [
        {"mask": case.mask_strings, "image": case.image_strings, "report": case.report.to_json()} for case in cases
    ]
    arrays = {name: np.stack([getattr(case, name) for case in cases]) for name in names}
    np.savez(path, texts=np.array(json.dumps(texts)), **arrays)


class CaseStore:
    """All shards of one or more folders, in the order of their names."""

    def __init__(self, *folders: Path) -> None:
        self._shards = [np.load(path, allow_pickle=False) for folder in folders for path in _shards_in(folder)]
        self.texts = [text for shard in self._shards for text in json.loads(str(shard["texts"]))]

    def array(self, name: str) -> np.ndarray:
        """One of ARRAYS for all cases, stacked (N, D, H, W)."""
        return np.concatenate([shard[name] for shard in self._shards])

    def strings(self, network: str) -> list[list[str]]:
        """The strings of every case for "mask" (LMNet) or "image" (LINet)."""
        return [text[network] for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)


def _shards_in(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("shard_*.npz"))
    if not shards:
        raise FileNotFoundError(
            f"expected rendered cases (shard_*.npz) in {folder}, found none; run the steps 'cases' and 'words' first"
        )
    return shards
