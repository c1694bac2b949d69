"""The published checkpoints become a bundle that works, by call and by command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from released_checkpoints import (
    TINY,
    import_tiny,
    part,
    require_equal,
    save_biomedclip,
    save_checkpoint,
    save_vocabulary,
    tiny_states,
    without,
)
from safetensors import SafetensorError

from LesionDiffusionLib.bundles import open_bundle, sha256_of
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.errors import BundleError, OutputError
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.released.importer import ImportOptions, Sources, import_released
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.scripts.cli import main


def test_the_manifest_says_how_the_released_networks_are_used(tmp_path):
    import_tiny(tmp_path)
    manifest = open_bundle(tmp_path / "made").manifest
    assert (manifest.name, manifest.text.encoder, manifest.text.spelling) == ("made", "biomedclip", "released")
    assert manifest.text.file is manifest.text.vocabulary_file is None
    assert manifest.lmnet.sampling == manifest.linet.sampling == SamplingOptions("released", 200, 1.0)
    assert manifest.lmnet.prediction == manifest.linet.prediction == "epsilon"
    assert manifest.lmnet.guidable is manifest.linet.guidable is False
    assert manifest.lmnet.threshold is None
    assert manifest.linet.latent_mask == LatentMask("nearest", 0)
    assert (manifest.autoencoder.latent_shift, manifest.autoencoder.latent_scale) == ((0.0,) * 4, (1.0,) * 4)
    assert (manifest.lmnet.unet, manifest.autoencoder.config) == (TINY.lmnet, TINY.autoencoder)
    assert {spec.window.spacing_for((1, 1, 1)) for spec in (manifest.lmnet, manifest.linet)} == {1.0}
    assert manifest.made_by["sources"] == {
        "LMNet.ckpt": sha256_of(tmp_path / "lmnet.ckpt"),
        "LINet.ckpt": sha256_of(tmp_path / "linet.ckpt"),
    }


def test_default_windows_are_the_released_ones(tmp_path):
    manifest = import_tiny(tmp_path, ImportOptions()).bundle.manifest
    assert (manifest.lmnet.window.shape, manifest.linet.window.shape) == ((64, 152, 152), (128, 128, 128))


def test_the_imported_networks_sample(tmp_path):
    models = load_models(
        import_tiny(tmp_path).bundle, torch.device("cpu"), str(save_biomedclip(tmp_path / "biomedclip"))
    )
    report = LesionReport(organ="liver", lesion_location="inside organ", shape="round-like")
    noise = SampleNoise.from_seeds([1])
    options = SamplingOptions("released", 2)
    context = models.mask_context(report)
    assert context.shape[::2] == (1, 32)
    *_, last = models.lmnet.sample(torch.zeros(1, 3, 16, 16, 16), context, options, noise)
    assert last.x.shape == (1, 1, 16, 16, 16)
    known, mask = models.linet.codec.encode(np.zeros((16, 16, 16), np.float32)), torch.zeros(1, 1, 16, 16, 16)
    mask[..., 4:10, 4:10, 4:10] = 1
    *_, last = models.linet.sample(known, mask, models.image_context(report), options, noise)
    assert torch.equal(last.x[..., 0], known[..., 0])
    assert last.x.isfinite().all()
    assert (last.x != known).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImportOptions(lmnet_window=(16, 30, 32)), r"D,H,W of three multiples of 4 for LMNet, got 16,30,32; round"),
        (ImportOptions(linet_window=(16, 16, 12)), r"D,H,W of three multiples of 8 for LINet, got 16,16,12; round"),
        (ImportOptions(lmnet_window=(0, 16, 16)), r"three multiples of 4 for LMNet, got 0,16,16"),
        (ImportOptions(lmnet_window=(16, 16)), r"three multiples of 4 for LMNet, got 16,16;"),
    ],
)
def test_windows_must_suit_the_networks(tmp_path, options, message):
    with pytest.raises(BundleError, match=message):
        import_tiny(tmp_path, options)


def test_text_modes_have_names():
    with pytest.raises(ValueError, match="linet_text must be one of auto, use, skip, got 'maybe'"):
        ImportOptions(linet_text="maybe")


def test_an_existing_folder_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(BundleError, match=r"expected a new bundle folder, but .*made exists; delete it or choose"):
        import_released(Sources(tmp_path / "absent", tmp_path / "absent"), tmp_path / "made")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def save_file(_, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    with pytest.raises(OutputError, match=r"could not write .*made: .*No space left on device; nothing was kept"):
        import_tiny(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lmnet.ckpt", "linet.ckpt"}


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    lmnet, linet = (save_checkpoint(tmp_path / f"{name}.ckpt", tiny_states()[name]) for name in ("lmnet", "linet"))
    with pytest.raises(OutputError, match=r"could not write .*made: .*; nothing was kept"):
        import_released(Sources(lmnet, linet), lmnet / "made", sizes=TINY)


# ---------------------------------------------------------------- text encoder and card


def test_with_a_vocabulary_the_bundle_holds_the_text_encoder(tmp_path):
    vocabulary = save_vocabulary(tmp_path / "vocab.txt")
    imported = import_tiny(tmp_path, vocabulary=vocabulary)
    text = imported.bundle.manifest.text
    assert (text.file, text.vocabulary_file) == ("text.safetensors", "vocab.txt")
    assert (imported.bundle.folder / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    tower = part(tiny_states()["lmnet"], "cond_stage_model.model.")
    require_equal(imported.bundle.tensors(text.file), without(tower, "transformer.embeddings.position_ids"))
    assert imported.evidence[-2:] == ("text encoder: from LMNet.ckpt", "text encoder: LINet.ckpt holds the same")
    assert imported.warnings == ("the vocabulary vocab.txt is not BiomedCLIP's own, by its hash: text may be misread",)


def test_biomedclips_own_vocabulary_is_recognized(tmp_path, monkeypatch):
    vocabulary = save_vocabulary(tmp_path / "vocab.txt")
    monkeypatch.setattr("LesionDiffusionLib.released.importer.BIOMEDCLIP_VOCABULARY_SHA256", sha256_of(vocabulary))
    imported = import_tiny(tmp_path, vocabulary=vocabulary)
    assert imported.evidence[-1] == "vocabulary: BiomedCLIP's own, by its hash"
    assert imported.warnings == ()


def test_the_text_encoder_may_come_from_either_file(tmp_path):
    vocabulary, prefix = save_vocabulary(tmp_path / "vocab.txt"), "cond_stage_model.model."
    neither = {name: without(tiny_states()[name], prefix) for name in ("lmnet", "linet")}
    with pytest.raises(BundleError, match=r"neither LMNet.ckpt nor LINet.ckpt holds the text encoder"):
        import_tiny(tmp_path, vocabulary=vocabulary, **neither)
    imported = import_tiny(tmp_path, vocabulary=vocabulary, lmnet=neither["lmnet"])
    assert imported.evidence[-1] == "text encoder: from LINet.ckpt"


def test_different_text_encoders_are_noted(tmp_path):
    other = tiny_states()["linet"] | {"cond_stage_model.model.proj.2.weight": torch.zeros(32, 24)}
    assert (
        other["cond_stage_model.model.proj.2.weight"].shape
        == tiny_states()["linet"]["cond_stage_model.model.proj.2.weight"].shape
    )
    imported = import_tiny(tmp_path, vocabulary=save_vocabulary(tmp_path / "vocab.txt"), linet=other)
    message = "the text encoder in LINet.ckpt differs from that in LMNet.ckpt; that of LMNet.ckpt is used"
    assert message in imported.warnings


def test_a_broken_text_encoder_is_refused(tmp_path):
    broken = without(tiny_states()["lmnet"], "cond_stage_model.model.proj.2.")
    with pytest.raises(BundleError, match=r"the text tower of LMNet.ckpt: proj.2.weight \(32, \d+\) missing"):
        import_tiny(tmp_path, vocabulary=save_vocabulary(tmp_path / "vocab.txt"), lmnet=broken)


def test_a_vocabulary_must_belong_to_the_encoder(tmp_path):
    with pytest.raises(BundleError, match=r"expected the 10 lines of .*vocabulary in .*vocab.txt, got 11; take Biomed"):
        import_tiny(tmp_path, vocabulary=save_vocabulary(tmp_path / "vocab.txt", size=11))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[unused]\n")
    with pytest.raises(BundleError, match="is not BiomedCLIP's vocabulary"):
        import_tiny(tmp_path, vocabulary=tmp_path / "vocab.txt")


def test_the_card_says_what_the_import_found(tmp_path):
    imported = import_tiny(tmp_path, lmnet=without(tiny_states()["lmnet"], "model_ema."))
    card = (imported.bundle.folder / "README.md").read_text()
    made_by = json.loads((imported.bundle.folder / "bundle.json").read_text())["made_by"]
    assert tuple(made_by["evidence"]) == imported.evidence
    assert tuple(made_by["warnings"]) == imported.warnings
    assert all(line in card for line in (*imported.evidence, *imported.warnings, *made_by["sources"].values()))
    assert "LMNet: lesions up to 15 x 15 x 15 mm" in card
    assert "LINet uses the report's text" in card
    assert "not for diagnosis" in card


# ---------------------------------------------------------------- command line


def command(tmp_path, *more):
    files = [f"--{name}={tmp_path / f'{name}.ckpt'}" for name in ("lmnet", "linet")]
    return main(["bundles", "import-released", *files, f"--folder={tmp_path}", "--name=made", *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "does not hold the U-Net of LMNet.ckpt: time_embed.0.weight expected (64, 16), found (32, 8)"),
        (("--lmnet-window", "16,16"), "expected a window as D,H,W in voxels, such as 64,152,152, got '16,16'"),
        (("--linet-window", "a,b,c"), "expected a window as D,H,W in voxels, such as 64,152,152, got 'a,b,c'"),
        (("--linet-window", "16,16,20"), "expected a window D,H,W of three multiples of 8 for LINet, got 16,16,20"),
        (("--name", "a/b"), "expected a plain name for the bundle, got 'a/b'; give the place as --folder"),
        (("--vq", "absent.ckpt"), "cannot read the checkpoint absent.ckpt: No such file or directory"),
    ],
)
def test_the_command_answers_mistakes_in_one_line(tmp_path, capsys, more, message):
    """The command knows the released sizes only, so that the tiny networks here are a wrong architecture."""
    for name in ("lmnet", "linet"):
        save_checkpoint(tmp_path / f"{name}.ckpt", tiny_states()[name])
    before = sorted(tmp_path.iterdir())
    assert command(tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_bundle_needs_a_name(tmp_path, capsys, name):
    assert main(["bundles", "import-released", "--lmnet=x", "--linet=y", f"--name={name}"]) == 2
    assert f"expected a plain name for the bundle, got {name!r}" in capsys.readouterr().err


def test_the_command_prints_the_evidence(tmp_path, capsys, monkeypatch):
    from LesionDiffusionLib.released import importer

    def import_tiny(sources, folder, options):
        return import_released(sources, folder, options, TINY)

    monkeypatch.setattr(importer, "import_released", import_tiny)
    save_checkpoint(tmp_path / "lmnet.ckpt", without(tiny_states()["lmnet"], "model_ema."))
    save_checkpoint(tmp_path / "linet.ckpt", tiny_states()["linet"])
    assert command(tmp_path, "--linet-window=16,24,32", "--linet-text=skip") == 0
    captured = capsys.readouterr()
    assert open_bundle(tmp_path / "made").manifest.linet.window.shape == (16, 24, 32)
    assert "LINet.ckpt: report text skipped, as the user chose (trained: " in captured.out
    assert captured.out.splitlines()[-1] == f"made the bundle made in {tmp_path / 'made'}"
    assert captured.err.startswith("warning: LMNet.ckpt holds no moving average (EMA)")


def test_a_bundle_without_its_text_encoder_can_be_checked(tmp_path, capsys):
    folder = str(import_tiny(tmp_path).bundle.folder)
    assert main(["bundles", "check", folder]) == 2
    assert "text encoder" in capsys.readouterr().err
    assert main(["bundles", "check", folder, "--text-encoder", str(save_biomedclip(tmp_path / "biomedclip"))]) == 0
    assert "the networks load" in capsys.readouterr().out
