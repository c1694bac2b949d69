"""What the published files say about how they were trained, and what follows from it."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from released_checkpoints import SMALL, TINY, import_tiny, save_biomedclip, tiny_states, without

from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.released.evidence import (
    PROJECTION,
    Findings,
    linet_hears_text,
    projection_evidence,
    schedule_name,
)
from LesionDiffusionLib.released.layout import UNetWeights


def test_the_schedule_in_the_file_wins_and_is_named(tmp_path):
    cosine = tiny_states()["linet"] | {"alphas_cumprod": NoiseSchedule.cosine().alphas_cumprod.float()}
    own = tiny_states()["lmnet"] | {"alphas_cumprod": torch.linspace(0.99, 0.01, 1000)}
    imported = import_tiny(tmp_path, lmnet=own, linet=cosine)
    assert torch.equal(imported.bundle.tensors("lmnet.safetensors")["alphas_cumprod"], own["alphas_cumprod"])
    assert "LMNet.ckpt: noise schedule unknown (alpha-bar 0.990000 to 1.000e-02)" in imported.evidence
    assert any("LINet.ckpt: noise schedule cosine, as in the paper" in line for line in imported.evidence)
    expected = (
        "the noise schedule of LMNet.ckpt (alpha-bar 0.990000 to 1.000e-02) is not a known one; it is used as it is"
    )
    assert imported.warnings == (expected,)


def test_without_a_schedule_the_released_one_is_taken(tmp_path):
    imported = import_tiny(tmp_path, lmnet=without(tiny_states()["lmnet"], "alphas_cumprod"))
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


def initial(width):
    """Weights that fill the range from which a linear layer of this width is drawn."""
    return torch.linspace(-(width**-0.5), width**-0.5, width * width).reshape(width, width)


INITIAL = initial(200)  # in half precision its largest number is rounded beyond the range
BEYOND = INITIAL * 1.01


@pytest.mark.parametrize(
    ("raw", "averaged", "trained", "reason"),
    [
        (
            INITIAL,
            INITIAL,
            False,
            r"never trained: .* equals its average, its largest weight 0.0707 is within the init",
        ),
        (
            BEYOND,
            INITIAL,
            True,
            r"^trained: .* lies up to 7.\de-04 from its average, .*0.0714 is beyond the initial 0.0707",
        ),
        (BEYOND, BEYOND, None, r"undecided: .* equals its average, .* beyond"),
        (INITIAL * 0.99, INITIAL, None, r"undecided: .* lies up to 7.\de-04 from its average, .* within"),
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
def test_the_text_mode_acts_on_the_network(tmp_path, choice, skips):
    """An untrained projection: LINet ignores the report unless the user wants otherwise."""
    projection = initial(32)
    untrained = {f"model.{PROJECTION}": projection, f"model_ema.{PROJECTION.replace('.', '')}": projection}
    options = dataclasses.replace(SMALL, linet_text=choice)
    bundle = import_tiny(tmp_path, options, linet=tiny_states()["linet"] | untrained).bundle
    assert bundle.manifest.linet.unet == dataclasses.replace(TINY.linet, skip_context=skips)
    linet = load_models(bundle, torch.device("cpu"), str(save_biomedclip(tmp_path / "biomedclip"))).linet
    x, t = torch.randn(1, 5, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    answers = [linet.denoiser.backbone(x, t, context) for context in (torch.zeros(1, 2, 32), torch.ones(1, 2, 32))]
    assert torch.equal(*answers) is skips
