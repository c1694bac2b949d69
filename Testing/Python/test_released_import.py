"""The published checkpoints become a bundle: their layout, what they say about themselves, and the bundle at work."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_geometry
from released_checkpoints import (
    TINY,
    full_size_state,
    linet_state,
    lmnet_state,
    save_biomedclip,
    save_checkpoint,
    save_vocabulary,
    vq_state,
)
from safetensors import SafetensorError

from LesionDiffusionLib.bundles import open_bundle, sha256_of
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.errors import BundleError, OutputError
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.planning import Wish
from LesionDiffusionLib.released.evidence import Findings, linet_hears_text, projection_evidence, schedule_name
from LesionDiffusionLib.released.importer import ImportOptions, Sources, import_released
from LesionDiffusionLib.released.layout import UNetWeights
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.volume import Volume

PROJECTION = "context_linear_projection.weight"
SMALL = ImportOptions(lmnet_window=(16, 16, 16), linet_window=(16, 16, 16))


@pytest.fixture(scope="module")
def states():
    """The tiny checkpoints' tensors; copy a dictionary before changing it."""
    return {"lmnet": lmnet_state(), "linet": linet_state(), "vq": vq_state()}


@pytest.fixture
def run_import(tmp_path, states):
    """Save (changed) states and import them."""

    def run(options=SMALL, names=("lmnet", "linet"), vocabulary=None, **changed):
        given = states | changed
        paths = {name: save_checkpoint(tmp_path / f"{name}.ckpt", given[name]) for name in names}
        return import_released(Sources(**paths, vocabulary=vocabulary), tmp_path / "made", options, TINY)

    return run


def part(state, prefix):
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def without(state, prefix):
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


def renamed(state, old, new):
    return {new + name[len(old) :] if name.startswith(old) else name: tensor for name, tensor in state.items()}


def squeezed(state):
    """A state dict's names without their dots."""
    return {name.replace(".", ""): tensor for name, tensor in state.items()}


def require_equal(tensors, expected):
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


# ---------------------------------------------------------------- layout


def test_the_bundle_holds_the_averaged_weights_the_schedule_and_the_autoencoder(run_import, states):
    bundle = run_import(names=("lmnet", "linet", "vq")).bundle
    for network in ("lmnet", "linet"):
        tensors = bundle.tensors(f"{network}.safetensors")
        require_equal(squeezed(part(tensors, "unet.")), {
            name: tensor
            for name, tensor in part(states[network], "model_ema.").items()
            if name not in ("decay", "num_updates")
        })  # fmt: skip
        assert torch.equal(tensors["alphas_cumprod"], states[network]["alphas_cumprod"])
    require_equal(bundle.tensors("vqgan.safetensors"), without(states["vq"], "loss."))
    assert {path.name for path in bundle.folder.iterdir()} == {*bundle.manifest.files, "bundle.json"}


def test_the_manifest_says_how_the_released_networks_are_used(run_import, tmp_path):
    run_import()
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


def test_default_windows_are_the_released_ones(run_import):
    manifest = run_import(ImportOptions()).bundle.manifest
    assert (manifest.lmnet.window.shape, manifest.linet.window.shape) == ((64, 152, 152), (128, 128, 128))


def test_the_imported_networks_sample(run_import, tmp_path):
    models = load_models(run_import().bundle, torch.device("cpu"), str(save_biomedclip(tmp_path / "biomedclip")))
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
    ("raw", "averaged"),
    [
        ("model.diffusion_model.", "model_ema.diffusion_model"),
        ("model.diffusion_model.", "model_ema."),
        ("model.", "model_ema.diffusion_model"),
    ],
)
def test_both_spellings_of_the_prefixes_give_the_same_bundle(run_import, states, tmp_path, raw, averaged):
    expected = run_import().bundle
    expected.folder.rename(tmp_path / "expected")
    changed = {}
    for network in ("lmnet", "linet"):
        state = renamed(states[network], "model.", raw)
        keep = {name: state.pop(name) for name in ("model_ema.decay", "model_ema.num_updates")}
        changed[network] = renamed(state, "model_ema.", averaged) | keep
    found = run_import(**changed).bundle
    for file in ("lmnet.safetensors", "linet.safetensors", "vqgan.safetensors"):
        assert sha256_of(tmp_path / "expected" / file) == sha256_of(found.folder / file)


def test_without_an_average_the_raw_weights_are_used_and_said_so(run_import, states):
    imported = run_import(lmnet=without(states["lmnet"], "model_ema."))
    unet = part(imported.bundle.tensors("lmnet.safetensors"), "unet.")
    require_equal(unet, part(states["lmnet"], "model."))
    assert "LMNet.ckpt: raw weights; saved at epoch 7, step 1234" in imported.evidence
    assert imported.warnings == (
        "LMNet.ckpt holds no moving average (EMA) of its weights; the raw ones are used in its place",
    )


def test_without_raw_weights_the_average_is_enough(run_import, states):
    imported = run_import(lmnet=without(states["lmnet"], "model."), linet=without(states["linet"], "model."))
    assert "LMNet.ckpt: moving average (EMA) of 5000 updates; saved at epoch 7, step 1234" in imported.evidence
    assert any("the context projection has no average" in line for line in imported.evidence)


def test_an_average_that_was_never_updated_is_warned_about(run_import, states):
    imported = run_import(lmnet=states["lmnet"] | {"model_ema.num_updates": torch.tensor(0)})
    assert "the moving average (EMA) in LMNet.ckpt was never updated: it may be untrained" in imported.warnings


def test_half_precision_is_kept(run_import, states):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in states["lmnet"].items()}
    imported = run_import(lmnet=halves)
    assert {t.dtype for t in imported.bundle.tensors("lmnet.safetensors").values()} == {torch.float16}
    assert "LMNet.ckpt: noise schedule scaled linear, as in the released code" in imported.evidence[1]


def test_the_autoencoder_inside_linet_wins(run_import, states):
    imported = run_import(names=("lmnet", "linet", "vq"))
    assert "autoencoder: VQ.ckpt holds the same" in imported.evidence


def test_another_autoencoder_in_vq_is_noted(run_import, states):
    other = states["vq"] | {"quantize.embedding.weight": torch.ones(8, 4)}
    imported = run_import(names=("lmnet", "linet", "vq"), vq=other)
    message = "the autoencoder in VQ.ckpt differs from that in LINet.ckpt; that of LINet.ckpt is used"
    assert imported.warnings == (message,)
    require_equal(imported.bundle.tensors("vqgan.safetensors"), without(states["vq"], "loss."))


def test_vq_serves_where_linet_has_no_autoencoder(run_import, states):
    bare = without(states["linet"], "first_stage_model.")
    with pytest.raises(BundleError, match=r"holds no autoencoder \(no .*first_stage_model\.\); give the published VQ"):
        run_import(linet=bare)
    imported = run_import(names=("lmnet", "linet", "vq"), linet=bare)
    assert "autoencoder: from VQ.ckpt" in imported.evidence
    require_equal(imported.bundle.tensors("vqgan.safetensors"), without(states["vq"], "loss."))


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (
            {"lmnet": "linet", "linet": "lmnet"},
            r"lmnet.ckpt does not hold the U-Net of LMNet.ckpt: input_blocks.0.0.weight expected \(8, 4, 3, 3, 3\), "
            r"found \(8, 5, 3, 3, 3\); .* and \d+ more; this looks like LINet.ckpt",
        ),
        (
            {"linet": "lmnet"},
            r"linet.ckpt does not hold the U-Net of LINet.ckpt: .*expected \(8, 5, 3, 3, 3\), "
            r"found \(8, 4, 3, 3, 3\); .*; this looks like LMNet.ckpt",
        ),
        (
            {"lmnet": "vq"},
            r"U-Net of LMNet.ckpt: time_embed.0.weight \(32, 8\) missing; .*; this looks like VQ.ckpt",
        ),
        (
            {"vq": "linet"},
            r"vq.ckpt does not hold the autoencoder of VQ.ckpt: encoder.conv_in.weight \(16, 1, 3, 3, 3\) missing; "
            r".*; this looks like LINet.ckpt",
        ),
    ],
)
def test_swapped_files_are_recognized(run_import, states, tmp_path, swap, message):
    with pytest.raises(BundleError, match=message) as caught:
        run_import(names=("lmnet", "linet", "vq"), **{name: states[other] for name, other in swap.items()})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


BLOCK = "model_ema.middle_block0in_layers2weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {BLOCK: None},
            r"middle_block.0.in_layers.2.weight \(32, 32, 3, 3, 3\) missing; give the published LMNet.ckpt",
        ),
        (
            {BLOCK: torch.zeros(32, 32, 3, 3)},
            r"middle_block.0.in_layers.2.weight expected \(32, 32, 3, 3, 3\), found \(32, 32, 3, 3\); give",
        ),
        (
            {BLOCK: torch.zeros(32, 32, 3, 3, 3, dtype=torch.int8)},
            r"in_layers.2.weight expected floating point, found torch.int8",
        ),
        ({BLOCK: torch.full((32, 32, 3, 3, 3), torch.nan)}, r"in_layers.2.weight holds NaN or infinity"),
        ({"model_ema.out9weight": torch.zeros(1)}, r"LMNet.ckpt: 'out9weight' unexpected; give"),
        ({"alphas_cumprod": torch.linspace(0.9, 0.1, 500)}, r"a noise schedule of 1000 steps in .*of shape \(500,\)"),
        ({"alphas_cumprod": torch.linspace(0.1, 0.9, 1000)}, r"lmnet.ckpt is no usable LMNet.ckpt: NoiseSchedule exp"),
    ],
)
def test_files_that_do_not_fit_are_refused(run_import, states, tmp_path, change, message):
    changed = {name: tensor for name, tensor in (states["lmnet"] | change).items() if tensor is not None}
    with pytest.raises(BundleError, match=message):
        run_import(lmnet=changed)
    assert not (tmp_path / "made").exists()


def test_larger_networks_than_the_known_ones_are_refused(run_import, states):
    deeper = {**states["lmnet"], "model.input_blocks.6.0.op.weight": torch.zeros(1)}
    with pytest.raises(BundleError, match=r"LMNet.ckpt: 'input_blocks\.6\.0\.op\.weight' unexpected"):
        run_import(lmnet=without(deeper, "model_ema."))


def test_what_inference_does_not_need_may_be_missing_or_strange(run_import, states):
    linet = {name: tensor for name, tensor in states["linet"].items() if name != "betas"}
    more = {
        "first_stage_model.loss.x": torch.zeros(1),
        "logvar": torch.zeros(3),
        "model_ema.num_updates": torch.full((2,), torch.nan),
    }
    assert run_import(linet=linet | more).warnings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImportOptions(lmnet_window=(16, 30, 32)), r"D,H,W of three multiples of 4 for LMNet, got 16,30,32; round"),
        (ImportOptions(linet_window=(16, 16, 12)), r"D,H,W of three multiples of 8 for LINet, got 16,16,12; round"),
        (ImportOptions(lmnet_window=(0, 16, 16)), r"three multiples of 4 for LMNet, got 0,16,16"),
        (ImportOptions(lmnet_window=(16, 16)), r"three multiples of 4 for LMNet, got 16,16;"),
    ],
)
def test_windows_must_suit_the_networks(run_import, options, message):
    with pytest.raises(BundleError, match=message):
        run_import(options)


def test_text_modes_have_names():
    with pytest.raises(ValueError, match="linet_text must be one of auto, use, skip, got 'maybe'"):
        ImportOptions(linet_text="maybe")


def test_an_existing_folder_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(BundleError, match=r"expected a new bundle folder, but .*made exists; delete it or choose"):
        import_released(Sources(tmp_path / "absent", tmp_path / "absent"), tmp_path / "made")


def test_a_full_disk_leaves_nothing_behind(run_import, tmp_path, monkeypatch):
    def save_file(_, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    with pytest.raises(OutputError, match=r"could not write .*made: .*No space left on device; nothing was kept"):
        run_import()
    assert {path.name for path in tmp_path.iterdir()} == {"lmnet.ckpt", "linet.ckpt"}


def test_a_place_that_cannot_be_written_says_so(states, tmp_path):
    lmnet, linet = (save_checkpoint(tmp_path / f"{name}.ckpt", states[name]) for name in ("lmnet", "linet"))
    with pytest.raises(OutputError, match=r"could not write .*made: .*; nothing was kept"):
        import_released(Sources(lmnet, linet), lmnet / "made", sizes=TINY)


# ---------------------------------------------------------------- what the files say


def test_the_schedule_in_the_file_wins_and_is_named(run_import, states):
    cosine = states["linet"] | {"alphas_cumprod": NoiseSchedule.cosine().alphas_cumprod.float()}
    own = states["lmnet"] | {"alphas_cumprod": torch.linspace(0.99, 0.01, 1000)}
    imported = run_import(lmnet=own, linet=cosine)
    assert torch.equal(imported.bundle.tensors("lmnet.safetensors")["alphas_cumprod"], own["alphas_cumprod"])
    assert "LMNet.ckpt: noise schedule unknown (alpha-bar 0.990000 to 1.000e-02)" in imported.evidence
    assert any("LINet.ckpt: noise schedule cosine, as in the paper" in line for line in imported.evidence)
    expected = (
        "the noise schedule of LMNet.ckpt (alpha-bar 0.990000 to 1.000e-02) is not a known one; it is used as it is"
    )
    assert imported.warnings == (expected,)


def test_without_a_schedule_the_released_one_is_taken(run_import, states):
    imported = run_import(lmnet=without(states["lmnet"], "alphas_cumprod"))
    message = "LMNet.ckpt holds no noise schedule; the released code's (scaled linear) is used"
    assert imported.warnings == (message,)
    table = imported.bundle.tensors("lmnet.safetensors")["alphas_cumprod"]
    torch.testing.assert_close(table[[0, 6, 500, 999]], torch.tensor([0.9985, 0.98938338, 0.114922, 1.4230398e-4]))


@pytest.mark.parametrize("end", [0.0195, 0.0195 * 1.002, 0.02])
def test_a_schedule_is_named_only_when_it_is_the_same(end):
    name = schedule_name(NoiseSchedule.scaled_linear(beta_end=end))
    assert (name is None) == (end != 0.0195)


def weights_with(raw, averaged):
    return UNetWeights(*({} if tensor is None else {PROJECTION: tensor} for tensor in (raw, averaged)), updates=None)


INITIAL = torch.linspace(-(64**-0.5), 64**-0.5, 64 * 64).reshape(64, 64)  # the whole initial range
BEYOND = INITIAL * 1.01


@pytest.mark.parametrize(
    ("raw", "averaged", "trained", "reason"),
    [
        (
            INITIAL,
            INITIAL,
            False,
            r"never trained: .* equals its average, its largest weight 0.1250 is within the init",
        ),
        (
            BEYOND,
            INITIAL,
            True,
            r"^trained: .* lies up to 1.\de-03 from its average, .*0.1262 is beyond the initial 0.12",
        ),
        (BEYOND, BEYOND, None, r"undecided: .* equals its average, .* beyond"),
        (INITIAL * 0.99, INITIAL, None, r"undecided: .* lies up to 1.\de-03 from its average, .* within"),
        (BEYOND, None, True, r"^trained: the context projection has no average, .* beyond"),
        (None, BEYOND, True, r"^trained: the context projection has no average, .* beyond"),
        (INITIAL, None, None, r"undecided: the context projection has no average, .* within"),
        (INITIAL[:8], INITIAL, None, r"undecided: the context projection has no average, .* within"),
        (INITIAL.half(), INITIAL.half(), False, r"never trained"),
    ],
)
def test_the_context_projection_tells_whether_text_was_heard(raw, averaged, trained, reason):
    weights = weights_with(raw, averaged)
    assert projection_evidence(weights)[0] is trained
    findings = Findings()
    assert linet_hears_text(weights, "auto", findings) is (trained is not False)
    (line,) = findings.evidence
    assert line.startswith(f"LINet.ckpt: report text {'skipped' if trained is False else 'used'}, as ")
    assert ("training configuration" in line) is (trained is None)
    assert re.search(reason, projection_evidence(weights)[1])
    assert findings.warnings == []


def test_the_user_decides_against_the_evidence_and_is_warned():
    findings = Findings()
    assert linet_hears_text(weights_with(INITIAL, INITIAL), "use", findings)
    assert not linet_hears_text(weights_with(BEYOND, INITIAL), "skip", findings)
    assert not linet_hears_text(weights_with(INITIAL, None), "skip", findings)
    assert [line.split(" (")[0] for line in findings.evidence] == [
        "LINet.ckpt: report text used, as the user chose",
        "LINet.ckpt: report text skipped, as the user chose",
        "LINet.ckpt: report text skipped, as the user chose",
    ]
    assert [line.split(" (")[0] for line in findings.warnings] == [
        "LINet.ckpt: report text used against the evidence",
        "LINet.ckpt: report text skipped against the evidence",
    ]


@pytest.mark.parametrize(("choice", "skips"), [("auto", True), ("use", False), ("skip", True)])
def test_the_text_mode_acts_on_the_network(run_import, states, tmp_path, choice, skips):
    """An untrained projection: LINet ignores the report unless the user wants otherwise."""
    projection = (INITIAL * 64**0.5 / 32**0.5)[:32, :32].clone()
    untrained = {f"model.{PROJECTION}": projection, f"model_ema.{PROJECTION.replace('.', '')}": projection}
    options = dataclasses.replace(SMALL, linet_text=choice)
    bundle = run_import(options, linet=states["linet"] | untrained).bundle
    assert bundle.manifest.linet.unet == dataclasses.replace(TINY.linet, skip_context=skips)
    linet = load_models(bundle, torch.device("cpu"), str(save_biomedclip(tmp_path / "biomedclip"))).linet
    x, t = torch.randn(1, 5, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    answers = [linet.denoiser.backbone(x, t, context) for context in (torch.zeros(1, 2, 32), torch.ones(1, 2, 32))]
    assert torch.equal(*answers) is skips


# ---------------------------------------------------------------- text encoder and card


def test_with_a_vocabulary_the_bundle_holds_the_text_encoder(run_import, states, tmp_path):
    vocabulary = save_vocabulary(tmp_path / "vocab.txt")
    imported = run_import(vocabulary=vocabulary)
    text = imported.bundle.manifest.text
    assert (text.file, text.vocabulary_file) == ("text.safetensors", "vocab.txt")
    assert (imported.bundle.folder / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    tower = part(states["lmnet"], "cond_stage_model.model.")
    require_equal(imported.bundle.tensors(text.file), without(tower, "transformer.embeddings.position_ids"))
    assert imported.evidence[-2:] == ("text encoder: from LMNet.ckpt", "text encoder: LINet.ckpt holds the same")
    assert imported.warnings == ("the vocabulary vocab.txt is not BiomedCLIP's own, by its hash: text may be misread",)


def test_biomedclips_own_vocabulary_is_recognized(run_import, tmp_path, monkeypatch):
    vocabulary = save_vocabulary(tmp_path / "vocab.txt")
    monkeypatch.setattr("LesionDiffusionLib.released.importer.BIOMEDCLIP_VOCABULARY_SHA256", sha256_of(vocabulary))
    imported = run_import(vocabulary=vocabulary)
    assert imported.evidence[-1] == "vocabulary: BiomedCLIP's own, by its hash"
    assert imported.warnings == ()


def test_the_text_encoder_may_come_from_either_file(run_import, states, tmp_path):
    vocabulary, prefix = save_vocabulary(tmp_path / "vocab.txt"), "cond_stage_model.model."
    neither = {name: without(states[name], prefix) for name in ("lmnet", "linet")}
    with pytest.raises(BundleError, match=r"neither LMNet.ckpt nor LINet.ckpt holds the text encoder"):
        run_import(vocabulary=vocabulary, **neither)
    imported = run_import(vocabulary=vocabulary, lmnet=neither["lmnet"])
    assert imported.evidence[-1] == "text encoder: from LINet.ckpt"


def test_different_text_encoders_are_noted(run_import, states, tmp_path):
    other = states["linet"] | {"cond_stage_model.model.proj.2.weight": torch.zeros(32, 24)}
    assert (
        other["cond_stage_model.model.proj.2.weight"].shape
        == states["linet"]["cond_stage_model.model.proj.2.weight"].shape
    )
    imported = run_import(vocabulary=save_vocabulary(tmp_path / "vocab.txt"), linet=other)
    message = "the text encoder in LINet.ckpt differs from that in LMNet.ckpt; that of LMNet.ckpt is used"
    assert message in imported.warnings


def test_a_broken_text_encoder_is_refused(run_import, states, tmp_path):
    broken = without(states["lmnet"], "cond_stage_model.model.proj.2.")
    with pytest.raises(BundleError, match=r"the text tower of LMNet.ckpt: proj.2.weight \(32, \d+\) missing"):
        run_import(vocabulary=save_vocabulary(tmp_path / "vocab.txt"), lmnet=broken)


def test_a_vocabulary_must_belong_to_the_encoder(run_import, tmp_path):
    with pytest.raises(BundleError, match=r"expected the 10 lines of .*vocabulary in .*vocab.txt, got 11; take Biomed"):
        run_import(vocabulary=save_vocabulary(tmp_path / "vocab.txt", size=11))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[unused]\n")
    with pytest.raises(BundleError, match="is not BiomedCLIP's vocabulary"):
        run_import(vocabulary=tmp_path / "vocab.txt")


def test_the_card_says_what_the_import_found(run_import, states):
    imported = run_import(lmnet=without(states["lmnet"], "model_ema."))
    card = (imported.bundle.folder / "README.md").read_text()
    made_by = json.loads((imported.bundle.folder / "bundle.json").read_text())["made_by"]
    assert tuple(made_by["evidence"]) == imported.evidence
    assert tuple(made_by["warnings"]) == imported.warnings
    assert all(line in card for line in (*imported.evidence, *imported.warnings, *made_by["sources"].values()))
    assert "LMNet: lesions up to 16 x 16 x 16 mm" in card
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
def test_the_command_answers_mistakes_in_one_line(tmp_path, states, capsys, more, message):
    """The command knows the released sizes only, so that the tiny networks here are a wrong architecture."""
    for name in ("lmnet", "linet"):
        save_checkpoint(tmp_path / f"{name}.ckpt", states[name])
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


def test_the_command_prints_the_evidence(tmp_path, states, capsys, monkeypatch):
    from LesionDiffusionLib.released import importer

    def import_tiny(sources, folder, options):
        return import_released(sources, folder, options, TINY)

    monkeypatch.setattr(importer, "import_released", import_tiny)
    save_checkpoint(tmp_path / "lmnet.ckpt", without(states["lmnet"], "model_ema."))
    save_checkpoint(tmp_path / "linet.ckpt", states["linet"])
    assert command(tmp_path, "--linet-window=16,24,32", "--linet-text=skip") == 0
    captured = capsys.readouterr()
    assert open_bundle(tmp_path / "made").manifest.linet.window.shape == (16, 24, 32)
    assert "LINet.ckpt: report text skipped, as the user chose (trained: " in captured.out
    assert captured.out.splitlines()[-1] == f"made the bundle made in {tmp_path / 'made'}"
    assert captured.err.startswith("warning: LMNet.ckpt holds no moving average (EMA)")


# ---------------------------------------------------------------- full size


IMPORT = """
import sys
from LesionDiffusionLib.scripts.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print("peak MiB", next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.fixture
def full_size_bundle(shared, tmp_path):
    """The bundle of checkpoints with every recorded name and shape, made by the command; and what that printed."""
    record = shared / "reference/released-state-dict.json"
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:  # 4 GB: not left behind
        paths = {name: Path(folder, f"{name}.ckpt") for name in ("VQ", "LMNet", "LINet")}
        for seed, (model, path) in enumerate(paths.items()):
            save_checkpoint(path, full_size_state(record, model, seed))
        arguments = [f"--{name.lower()}={path}" for name, path in paths.items()]
        arguments += [f"--vocabulary={save_vocabulary(Path(folder, 'vocab.txt'), size=30522)}", f"--folder={folder}"]
        arguments += ["--name=full", "--lmnet-window=16,32,32", "--linet-window=32,32,32"]
        run = [sys.executable, "-c", IMPORT, "bundles", "import-released", *arguments]
        printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        yield open_bundle(Path(folder, "full")), printed


@pytest.mark.slow
@pytest.mark.shared
def test_full_size_checkpoints_become_a_bundle_that_synthesizes(full_size_bundle):
    bundle, printed = full_size_bundle
    print(printed)
    assert "LINet.ckpt: report text used, as the weights show (trained: " in printed
    assert "autoencoder: from LINet.ckpt" in printed
    assert int(printed.split()[-1]) < 3500  # MiB; the files hold 2600, the bundle 1200
    models = load_models(bundle, torch.device("cpu"))
    ct, organs, mask = liver_case()
    report = LesionReport(lesion_type="liver cyst", organ="liver")
    case = synthesize(ct, organs, Wish(report, mask=mask), bundle=models, settings=Settings(seed=1, steps=2))
    assert case.provenance["settings"]["image"]["sampler"] == "released"
    assert case.provenance["max_abs_change_outside_hu"] == 0
    assert (case.ct.array[mask] != ct.array[mask]).any()
    maps = torch.zeros(1, 3, *bundle.manifest.lmnet.window.shape)
    context = models.mask_context(case.report)
    assert context.shape[::2] == (1, 512)
    options = SamplingOptions("released", 2)
    *_, last = models.lmnet.sample(maps, context, options, SampleNoise.from_seeds([1]))
    assert last.x.shape == (1, 1, 16, 32, 32)
    assert last.x.isfinite().all()


def liver_case():
    """A box of liver in soft tissue, its organ map, and a lesion drawn by hand."""
    geometry = make_geometry((48, 48, 40))
    ct_hu = np.random.default_rng(0).normal(40, 10, geometry.shape).astype(np.float32)
    ct_hu[0] = -1000
    numbers = np.zeros(geometry.shape, np.int32)
    numbers[8:40, 8:40, 8:32] = 5
    mask = np.zeros(geometry.shape, bool)
    mask[18:30, 18:28, 15:25] = True
    return Volume(ct_hu, geometry), OrganMap(Volume(numbers, geometry), load_table("totalseg_v1")), mask
