"""Settings of a training: presets, files, single settings; and the judges they name."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file

from LesionDiffusionLib.errors import BundleError, SettingsError
from LesionDiffusionLib.networks.discriminator import PatchDiscriminator
from LesionDiffusionLib.networks.lpips import LPIPS, PREFIX, load_lpips
from LesionDiffusionLib.training.config import KINDS, config_from_json
from LesionDiffusionLib.training.presets import PRESETS, load_config


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("network", KINDS)
def test_presets_survive_json(preset, network):
    training = PRESETS[preset][network]
    data = json.loads(json.dumps(dataclasses.asdict(training)))
    assert config_from_json(network, data, "here") == training


def test_the_presets_are_those_of_paper_and_released_code():
    paper, released = PRESETS["paper"], PRESETS["released"]
    assert [t.loop.learning_rate for t in paper.values()] == [1e-4] * 3
    assert [t.loop.batch for t in paper.values()] == [1] * 3
    assert {t.window.shape for t in paper.values()} == {(128, 128, 128)}
    assert paper["lmnet"].gamma == 0.001
    assert (paper["lmnet"].schedule, released["lmnet"].schedule) == ("cosine", "scaled_linear")
    assert (paper["vqgan"].network.codebook_size, paper["vqgan"].network.downsampling) == (2048, 2)
    assert paper["lmnet"].sampling.guidance == 2.5
    assert paper["lmnet"].text.guidable
    assert not released["lmnet"].text.guidable, "the released networks were trained without an empty text"
    assert released["lmnet"].window.shape == (64, 152, 152)
    assert released["linet"].network.out_channels == 5
    assert (released["vqgan"].losses.adversarial, released["vqgan"].losses.adversarial_from) == ("hinge", 25_000)


def test_a_file_changes_the_preset_and_single_settings_win(tmp_path):
    as_json = tmp_path / "t.json"
    as_json.write_text(json.dumps({"loop": {"steps": 7, "seed": 3}, "text": {"encoder": "vocabulary"}}))
    training = load_config("lmnet", "paper", as_json, ["loop.seed=5", "threshold=null", "loop.betas=[0.8,0.9]"])
    assert (training.loop.steps, training.loop.seed, training.text.encoder) == (7, 5, "vocabulary")
    assert (training.threshold, training.loop.betas) == (None, (0.8, 0.9))
    assert training.window == PRESETS["paper"]["lmnet"].window


@pytest.mark.skipif(sys.version_info < (3, 11), reason="SKIPPED, not passed: Python reads TOML from 3.11 on")
def test_toml_is_read(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text("gamma = 0.01\n[loop]\nsteps = 9\nlearning_rate = 2e-4\n")
    training = load_config("lmnet", "paper", file)
    assert (training.gamma, training.loop.steps, training.loop.learning_rate) == (0.01, 9, 2e-4)


def test_files_that_cannot_be_used_are_explained(tmp_path, monkeypatch):
    cases = {"a.json": ("[1]", "expected names and values, got list"), "b.json": ("{", "cannot read the configuration")}
    cases["c.json"] = ('{"loop": {"speed": 1}}', 'c.json: no setting is called "loop.speed"; there are: steps, batch')
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(SettingsError, match=re.escape(message)):
            load_config("lmnet", "paper", tmp_path / name)
    monkeypatch.setitem(sys.modules, "tomllib", None)
    (tmp_path / "d.toml").write_text("gamma = 1\n")
    with pytest.raises(SettingsError, match=r"reads no TOML; write the settings as \.json"):
        load_config("lmnet", "paper", tmp_path / "d.toml")


@pytest.mark.parametrize(
    ("network", "setting", "message"),
    [
        ("lmnet", "schedule=linear", "schedule is one of cosine, scaled_linear"),
        ("lmnet", "prediction=noise", "prediction is one of epsilon, v, x0"),
        ("lmnet", "noise_bias=0.5", "noise_bias must be at least 1"),
        ("linet", "text.drop_all=0", "needs an empty text that was learned, got 2.5 with text.drop_all=0"),
        ("lmnet", "text.encoder=bert", "text.encoder is one of biomedclip, vocabulary"),
        ("lmnet", "text.spelling=mine", "text.spelling is one of report, released"),
        ("linet", "loss=released", "needs (5, 5) input and output channels, got (5, 4)"),
        ("vqgan", "losses.adversarial=gan", "losses.adversarial is one of none, log, hinge"),
        ("vqgan", "losses.discriminator_norm=none", "losses.discriminator_norm is one of batch, group"),
        ("vqgan", "codebook_start=zero", "codebook_start is one of uniform, kmeans"),
        ("vqgan", "loop.steps=25000", "losses.adversarial=log would never act: it begins at step losses.adv"),
        ("lmnet", "loop.seed=20261130123456", "the seed lies in 0..1099511627775, got 20261130123456"),
        ("lmnet", "loop.seed=-1", "the seed lies in 0..1099511627775, got -1"),
    ],
)
def test_values_nobody_knows_are_refused(network, setting, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_config(network, "paper", None, [setting])


def test_a_network_that_says_changes_predicts_them():
    settings = ["network.in_channels=9", "network.replaces_shown=true", 'change={"unit": 0.0625}']
    assert load_config("linet", "paper", None, [*settings, "prediction=x0"]).network.replaces_shown
    with pytest.raises(SettingsError, match='needs prediction=x0, got "epsilon"'):
        load_config("linet", "paper", None, settings)


def test_a_network_that_says_changes_draws_them_together_as_they_are_diffused():
    settings = ["network.in_channels=9", "network.replaces_shown=true", "prediction=x0", "network.change_knee=4"]
    assert load_config("linet", "paper", None, [*settings, 'change={"unit": 0.1, "knee": 4}']).change.knee == 4
    with pytest.raises(SettingsError, match="expected the knee of change for change_knee, 1, got 4"):
        load_config("linet", "paper", None, [*settings, 'change={"unit": 0.1}'])


def test_a_whole_number_may_be_written_with_an_exponent():
    steps = load_config("lmnet", "paper", None, ["loop.steps=1e3"]).loop.steps
    assert (steps, type(steps)) == (1000, int)
    with pytest.raises(SettingsError, match=r"steps, got 1500\.5"):
        load_config("lmnet", "paper", None, ["loop.steps=1500.5"])


@pytest.mark.parametrize(("dims", "parameters"), [(2, 2_764_481), (3, 11_049_665)])
def test_judges_have_the_released_size(dims, parameters):
    """Source: released-model 1.6."""
    judge = PatchDiscriminator(dims)
    assert sum(p.numel() for p in judge.parameters()) == parameters
    assert judge(torch.zeros(2, 1, *(16,) * dims)).shape[:2] == (2, 1)
    alone, together = torch.rand(1, 1, *(16,) * dims), torch.rand(1, 1, *(16,) * dims)
    grouped = PatchDiscriminator(dims, "group").eval()
    assert torch.allclose(grouped(torch.cat([alone, together]))[:1], grouped(alone), atol=1e-5)


def test_lpips_is_a_distance_and_needs_its_weights(tmp_path):
    torch.manual_seed(0)
    metric = LPIPS()
    for n in range(5):
        getattr(metric, f"lin{n}").model["1"].weight.data.abs_()  # as trained ones are
    a, b = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    assert torch.all(metric(a, a) == 0)
    assert torch.all(metric(a, b) > 0)
    assert torch.allclose(metric(a, b), metric(b, a))
    state = {PREFIX + name: value for name, value in metric.state_dict().items()}
    torch.save({"state_dict": {**state, PREFIX + "scaling_layer.shift_p": torch.zeros(1)}}, tmp_path / "VQ.ckpt")
    save_file(metric.state_dict(), tmp_path / "lpips.safetensors")
    for name in ("VQ.ckpt", "lpips.safetensors"):
        loaded = load_lpips(tmp_path / name)
        assert torch.equal(loaded(a, b), metric(a, b))
        assert not any(p.requires_grad for p in loaded.parameters())
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="holds no weights of the LPIPS metric"):
        load_lpips(tmp_path / "other.safetensors")


@pytest.mark.shared
def test_judges_and_metric_have_the_released_names(shared):
    layout = json.loads((shared / "reference" / "released-state-dict.json").read_text())["models"]["VQ"]["tensors"]
    for prefix, module in (
        ("loss.frame_discriminator.", PatchDiscriminator(2)),
        ("loss.ct_discriminator.", PatchDiscriminator(3)),
        (PREFIX, LPIPS()),
    ):
        released = {name.removeprefix(prefix): tuple(e[0]) for name, e in layout.items() if name.startswith(prefix)}
        own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        assert own.items() <= released.items()
        assert set(released) - set(own) <= {"scaling_layer.shift_p", "scaling_layer.scale_p"}
