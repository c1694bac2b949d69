"""Bundles: whole or refused."""

from __future__ import annotations

import json

import pytest
import torch
from patients import tiny_bundle

from LesionDiffusionLib import bundle_folders, bundles
from LesionDiffusionLib.bundle_folders import MANIFEST, delete_bundle, installed_bundles
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.errors import BundleError, OutputError
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.report import LesionReport

CPU = torch.device("cpu")


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "tiny")


def edited(bundle, change):
    """The bundle after ``change`` of its parsed bundle.json."""
    path = bundle.folder / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return bundle.folder


def test_written_equals_opened(bundle):
    assert open_bundle(bundle.folder).manifest == bundle.manifest
    assert set(bundle.manifest.files) == {"lmnet.safetensors", "linet.safetensors", "vqgan.safetensors", "README.md"}


def test_models_have_the_bundles_weights(bundle):
    models = load_models(open_bundle(bundle.folder), CPU)
    stored = bundle.tensors("lmnet.safetensors")
    for name, value in models.lmnet.denoiser.backbone.state_dict().items():
        assert torch.equal(value, stored[f"unet.{name}"])
    assert torch.equal(models.lmnet.denoiser.schedule.alphas_cumprod, stored["alphas_cumprod"])
    context = models.mask_context(LesionReport(organ="liver", shape="irregular", size_mm=(10, 10, 10)))
    assert context.shape == (1, 3, 16)
    assert models.mask_context(LesionReport()).shape == (1, 1, 16), "no text is the empty text"


def test_a_changed_file_is_refused(bundle):
    path = bundle.folder / "linet.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"linet\.safetensors is damaged or was changed"):
        open_bundle(bundle.folder)


def _with_another_knee(manifest):
    linet = manifest["linet"]
    linet["unet"].update(in_channels=9, replaces_shown=True)
    linet.update(change={"unit": 0.1, "knee": 2.0})


def test_a_missing_file_is_named(bundle):
    (bundle.folder / "vqgan.safetensors").unlink()
    with pytest.raises(BundleError, match=r"lacks .*vqgan\.safetensors"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "expected bundle format 1"),
        (lambda d: d.pop("lmnet"), "missing entries .*lmnet"),
        (lambda d: d.update(surprise=1), "unknown or missing entries .*surprise"),
        (lambda d: d["linet"].update(prediction=3), "expected .* at .*prediction"),
        (lambda d: d["lmnet"]["sampling"].update(steps=0), "impossible values .*steps"),
        (lambda d: d["lmnet"]["sampling"].update(steps="many"), "expected .* at .*steps"),
        (lambda d: d["lmnet"].update(window=[1, 2]), "expected an object at .*window"),
        (lambda d: d["text"].update(encoder="oracle"), "impossible values .*encoder"),
        (lambda d: d["files"].update({"../../etc/passwd": "00"}), "files outside its folder"),
        (lambda d: d.update(files={}), "gives no hash for vqgan.safetensors"),
        (lambda d: d.update(files=5), "expected .* at .*files"),
        (lambda d: d["linet"].update(file="../tiny/linet.safetensors"), "gives no hash"),
        (lambda d: d["lmnet"].update(prediction="noise"), "prediction is one of epsilon, v, x0"),
        (lambda d: d["linet"]["window"].update(shape=[25, 24, 24]), "multiples of 4"),
        (lambda d: d["autoencoder"].update(latent_shift=[0.0]), "latent_shift needs 4 numbers"),
        (
            lambda d: d["autoencoder"].update(latent_scale=["a", "b", "c", "d"]),
            r"float at .*latent_scale\[0\], got 'a'",
        ),
        (lambda d: d["text"].update(phrases=[1, 2]), r"expected str at .* phrases\[0\], got 1"),
        (lambda d: d.update(files={"linet.safetensors": 5}), r"expected str at .*files: linet\.safetensors, got 5"),
        (lambda d: d["linet"]["latent_mask"].update(grow=-1), "grow must not be negative"),
        (lambda d: d["linet"].update(change={"unit": 0.0}), "unit must be positive"),
        (lambda d: d["linet"].update(change={"unit": 0.1}), "with change has 9 input channels, got 5"),
        (_with_another_knee, "expected the knee of change for change_knee, 2, got 1"),
        (lambda d: d["linet"].update(change=3), "expected an object at"),
        (
            lambda d: d["linet"]["sampling"].update(guidance_interval=[1]),
            "expected 2 values at .*guidance_interval",
        ),
    ],
)
def test_malformed_manifests(bundle, change, message):
    with pytest.raises(BundleError, match=message):
        open_bundle(edited(bundle, change))


def test_not_json(bundle):
    (bundle.folder / MANIFEST).write_text("{oops")
    with pytest.raises(BundleError, match=r"cannot read .*bundle\.json"):
        open_bundle(bundle.folder)
    (bundle.folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(BundleError, match=r"cannot read .*bundle\.json"):
        open_bundle(bundle.folder)


def test_weights_of_another_size_are_refused(bundle):
    folder = edited(bundle, lambda d: d["lmnet"]["unet"].update(model_channels=32))
    with pytest.raises(BundleError, match=r"weights .* do not fit"):
        load_models(open_bundle(folder), CPU)


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_folders, "user_bundles_dir", lambda: tmp_path)
    tiny_bundle(tmp_path / "mine")
    with pytest.raises(BundleError, match=r"mine.*got 'yours'"):
        open_bundle("yours")
    assert open_bundle("mine").folder == tmp_path / "mine"


def test_only_own_bundles_can_be_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_folders, "user_bundles_dir", lambda: tmp_path)
    tiny_bundle(tmp_path / "mine")
    for name in ("starter", "..", "mine/..", ""):
        with pytest.raises(BundleError, match="expected one of your own bundles"):
            delete_bundle(name)
    delete_bundle("mine")
    assert "mine" not in installed_bundles()


def test_an_existing_folder_is_not_overwritten(bundle):
    with pytest.raises(BundleError, match=r"exists; delete it"):
        tiny_bundle(bundle.folder)


def test_nothing_half_written_when_writing_fails(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(bundles, "sha256_of", fail)
    with pytest.raises(OutputError, match="disk full; nothing was kept"):
        tiny_bundle(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []
