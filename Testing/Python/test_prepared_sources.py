"""Training examples of prepared cases: what is read, and how often."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import make_geometry
from training_cases import prepared_dataset, tiny_training

from LesionDiffusionLib.errors import DatasetError
from LesionDiffusionLib.linet import LatentCodec
from LesionDiffusionLib.report import LesionReport, image_strings, mask_strings
from LesionDiffusionLib.training.ahead import drawn_ahead
from LesionDiffusionLib.training.build import make_vqgan, plain_codec
from LesionDiffusionLib.training.mirroring import LEFT_AXIS
from LesionDiffusionLib.training.prepared import FORMAT, MANIFEST, PreparedCase, PreparedCases
from LesionDiffusionLib.training.sources import PreparedImages, PreparedMasks, image_window
from LesionDiffusionLib.training.train_denoisers import draw
from LesionDiffusionLib.volume import Volume


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return PreparedCases(prepared_dataset(tmp_path_factory.mktemp("dataset"), 3, train_all=True))


@dataclasses.dataclass(frozen=True, eq=False)
class CountingCodec(LatentCodec):
    """Remembers what it encoded."""

    encoded: list = dataclasses.field(default_factory=list)

    def encode(self, ct_hu, device="cpu"):
        self.encoded.append(ct_hu)
        return super().encode(ct_hu, device)


def images(cases):
    plain = plain_codec(make_vqgan(tiny_training("vqgan")))
    codec = CountingCodec(plain.autoencoder, plain.shift, plain.scale)
    return PreparedImages(cases, tiny_training("linet").window, "report", codec), codec


def test_the_texts_of_all_processes_are_read_without_their_arrays(cases, monkeypatch):
    expected = cases[1].strings["report"]
    monkeypatch.setattr(PreparedCase, "load", None)
    fresh = PreparedCases(cases.folder)
    assert PreparedMasks(fresh, tiny_training("lmnet").window, "report").strings(1) == expected["mask"]
    assert images(fresh)[0].strings(1) == expected["image"]


def test_a_damaged_case_is_told_when_its_texts_are_read(cases, tmp_path):
    path = tmp_path / "case.npz"
    path.write_bytes(b"PK")
    fresh = PreparedCases(cases.folder)
    fresh.entries[0] = fresh.entries[0] | {"file": str(path)}
    with pytest.raises(DatasetError, match="cannot read the prepared case"):
        fresh.strings(0)


def test_a_window_is_encoded_once_and_the_mirror_image_for_itself(cases):
    source, codec = images(cases)
    first, second = source([0, 1], [False, True]), source([1, 0], [True, False])
    assert len(codec.encoded) == 2
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other.flip(0))
    ct_hu, mask = image_window(cases[1], tiny_training("linet").window)
    assert torch.equal(torch.from_numpy(codec.encoded[1]), torch.from_numpy(ct_hu).flip(LEFT_AXIS))
    assert torch.equal(first.mask[1, 0], torch.from_numpy(mask).flip(LEFT_AXIS).float())


def kidney_masks(folder, lobe_from_vox, training):
    """LMNet's only example: a lesion in the right kidney (2), in a window of 16 of the 40 voxels; from a voxel on, the
    right middle lung lobe (16)."""
    labels, lesion = np.zeros((40, 40, 40), np.uint8), np.zeros((40, 40, 40), bool)
    labels[12:28, 12:28, 12:28], labels[:, :, lobe_from_vox:] = 2, 16
    lesion[16:24, 16:24, 16:24] = True
    lesion[16:18, 16:20] = False  # right and left differ
    report = LesionReport(organ="right kidney", shape="round-like")
    texts = {"report": {"mask": mask_strings(report), "image": image_strings(report)}}
    volume = Volume(labels, make_geometry(labels.shape, (2.0, 2.0, 2.0)))
    PreparedCase(None, volume, labels == 2, lesion, report, texts).save(folder / "case.npz")
    entry = {"file": "case.npz", "split": "train", "has_ct": False, "size_mm": [16.0] * 3}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "cases": [entry]}))
    return PreparedMasks(PreparedCases(folder, window=training.window), training.window, "report")


def test_a_draw_mirrors_the_words_together_with_the_arrays(tmp_path):
    told = ("text.drop_all=0", "text.drop_each=0", "sampling.guidance=1")
    training = tiny_training("lmnet", "flip=true", "loop.batch=8", *told)
    source = kidney_masks(tmp_path, 30, training)
    labels, _, _, lesion = map(torch.from_numpy, source.windows(0))
    assert not torch.equal(lesion, lesion.flip(LEFT_AXIS))
    drawn, sides = draw(source, training, 1000, torch.Generator().manual_seed(0)), []
    for words, maps, m_0 in zip(drawn.strings, *drawn.batch, strict=True):
        sides.append(next(side for side in ("right", "left") if f"{side} kidney" in words))
        number, expected = (2, lesion) if sides[-1] == "right" else (3, lesion.flip(LEFT_AXIS))
        assert set((maps[0] * 104).round().int().unique().tolist()) == {0, number}
        assert torch.equal(m_0[0], expected.float())
    assert set(sides) == {"right", "left"}
    assert set(labels.unique().tolist()) == {0, 2}


@pytest.mark.parametrize(("lobe_from_vox", "allowed"), [(30, True), (26, False)])
def test_only_organs_in_the_window_keep_a_case_from_being_mirrored(tmp_path, lobe_from_vox, allowed):
    assert kidney_masks(tmp_path, lobe_from_vox, tiny_training("lmnet", "flip=true")).can_mirror(0) == allowed


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_threads_draw_the_same_bits(cases, kind):
    """Also where several ask for the same case at once, and where a network encodes what was cut."""
    training = tiny_training("linet" if kind == "images" else "lmnet")
    torch.manual_seed(0)
    autoencoder = make_vqgan(tiny_training("vqgan"))

    def drawing():  # each remembers its own latents
        codec = (plain_codec(autoencoder),) if kind == "images" else ()
        source = (PreparedImages if kind == "images" else PreparedMasks)(cases, training.window, "report", *codec)
        return lambda step: draw(source, training, 1000, torch.Generator().manual_seed(step))

    with drawn_ahead(drawing(), range(12), 4) as ahead:
        found = list(ahead)
    for mine, other in zip(found, map(drawing(), range(12)), strict=True):
        assert mine.strings == other.strings
        assert all(torch.equal(a, b) for a, b in zip(mine.batch, other.batch, strict=True))
        assert torch.equal(mine.t, other.t)
        assert torch.equal(mine.noise, other.noise)
