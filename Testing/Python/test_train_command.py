"""`lesiondiffusion train`: every network a few steps, resumed, exported as a bundle that `synthesize` uses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from patients import make_patient, tiny_bundle
from released_checkpoints import TINY, save_biomedclip
from safetensors.torch import load_file, save_file
from training_cases import LOOP, SETTINGS, interrupted_after, prepared_dataset, tiny_training

from LesionDiffusionLib.bundle_folders import summarize
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.intensity import to_hu, to_network
from LesionDiffusionLib.io import write_labels
from LesionDiffusionLib.lmnet import LMNet
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.networks.lpips import LPIPS
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.training.build import make_denoiser
from LesionDiffusionLib.training.bundling import parts_of
from LesionDiffusionLib.training.prepared import PreparedCases
from LesionDiffusionLib.training.sources import PreparedMasks
from LesionDiffusionLib.training.train_denoisers import trainable


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared_dataset(tmp_path_factory.mktemp("dataset"), 6)


def command(network, data, out, *more, preset="starter"):
    """Arguments of a training that takes seconds."""
    settings = (*SETTINGS[network], *(f"loop.{text}" for text in LOOP))
    sets = [part for text in settings for part in ("--set", text)]
    where = ["--data", str(data), "--out", str(out), "--device", "cpu", "--preset", preset]
    return ["train", network, *where, *sets, *map(str, more)]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of two finished trainings."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(command("vqgan", data, folder / "vqgan")) == 0
    assert main(command("lmnet", data, folder / "lmnet")) == 0
    return folder


def test_a_training_leaves_weights_logs_and_previews(trained):
    names = {path.name for path in (trained / "vqgan").iterdir()}
    assert names == {"checkpoint.pt", "weights.safetensors", "run.json", "previews", "tensorboard"}
    assert {path.name for path in (trained / "vqgan" / "previews").iterdir()} == {
        "step_00000003.png",
        "step_00000006.png",
    }
    told = json.loads((trained / "vqgan" / "run.json").read_text())
    assert told["command"].startswith("lesiondiffusion train")
    assert told["steps"] == 6
    assert told["data"]["training_cases"] == 5
    assert told["versions"]["torch"] == torch.__version__


def test_tensorboard_can_read_the_losses(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(trained / "lmnet" / "tensorboard"))
    events.Reload()
    assert {"loss/lmnet", "learning_rate", "gradient_norm"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/lmnet")] == [1, 2, 3, 4, 5, 6]
    assert events.Tags()["images"] == ["preview"]


def test_a_trained_bundle_is_used_by_synthesize(trained, data, tmp_path, monkeypatch):
    """The interrupted LINet ends with the same bytes as an uninterrupted one; its bundle puts a lesion into a CT."""
    autoencoder = ("--autoencoder", trained / "vqgan")
    export = ("--with", trained / "lmnet", "--bundle-folder", tmp_path / "mine", "--export-bundle", "own")
    whole = command("linet", data, tmp_path / "whole", *autoencoder)
    assert main(whole) == 0
    stopped = command("linet", data, tmp_path / "linet", *autoencoder)
    with monkeypatch.context() as patch:
        interrupted_after(4, patch)
        assert main(stopped) == 130
    assert not (tmp_path / "linet" / "weights.safetensors").exists()
    assert main([*stopped, "--resume", *map(str, export)]) == 0
    assert (tmp_path / "linet" / "weights.safetensors").read_bytes() == (
        tmp_path / "whole" / "weights.safetensors"
    ).read_bytes()
    bundle = open_bundle(tmp_path / "mine" / "own")
    card = (bundle.folder / "README.md").read_text()
    assert "lesiondiffusion train linet" in card
    assert "Research use only" in card
    assert len(bundle.manifest.files) == 4
    assert max(map(abs, bundle.manifest.autoencoder.latent_shift)) > 0, "latents are normalized"
    ct, organs = make_patient()
    write_labels(ct.array.astype(np.int16), ct.geometry, tmp_path / "ct.nii.gz")
    write_labels(organs.volume.array, ct.geometry, tmp_path / "organs.nii.gz")
    mask = np.zeros(ct.array.shape, np.uint8)
    mask[20:28, 18:26, 26:32] = 1
    write_labels(mask, ct.geometry, tmp_path / "mask.nii.gz")
    files = ["--ct", tmp_path / "ct.nii.gz", "--organs", tmp_path / "organs.nii.gz", "--mask", tmp_path / "mask.nii.gz"]
    how = ["--labels", "totalseg_v1", "--lesion", "liver cyst", "--bundle", bundle.folder, "--out", tmp_path / "case"]
    assert main(["synthesize", *map(str, files + how), "--device", "cpu", "--steps", "2"]) == 0
    assert json.loads((tmp_path / "case" / "provenance.json").read_text())["voxels_changed"] > 0


def test_the_exported_lmnet_draws_what_the_trained_one_draws(trained, data, tmp_path):
    """Under the same noise: weights, text encoder, spelling, schedule, prediction, window and sampling all arrive."""
    folder = tmp_path / "lmnet"
    shutil.copytree(trained / "lmnet", folder)
    export = ("--with", tiny_bundle(tmp_path / "tiny").folder, "--bundle-folder", tmp_path, "--export-bundle", "own")
    assert main(command("lmnet", data, folder, "--resume", *export)) == 0
    training, cases = tiny_training("lmnet"), PreparedCases(data)
    denoiser, text = make_denoiser(training)
    learned = torch.load(folder / "checkpoint.pt", weights_only=True)["ema"]
    trainable(denoiser, text).load_state_dict(learned)
    masks = PreparedMasks(cases, training.window, training.text.spelling)
    maps = masks([0], [False]).maps

    def drawn(lmnet, context, options):
        *_, last = lmnet.sample(maps, context, options, SampleNoise.from_seeds([3]))
        return last.x

    models = load_models(open_bundle(tmp_path / "own"), torch.device("cpu"))
    ours = drawn(models.lmnet, models.mask_context(cases[0].report), models.bundle.manifest.lmnet.sampling)
    assert models.lmnet.window == training.window
    assert models.bundle.manifest.lmnet.threshold == training.threshold
    with torch.no_grad():
        lmnet = LMNet(denoiser, training.window, text.encode([""])[None])
        theirs, deaf = (drawn(lmnet, text.encode(s)[None], training.sampling) for s in (masks.strings(0), [""]))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert (theirs - deaf).abs().max() > 1e-2, "a text that did not arrive would show"


def test_a_linear_start_and_modulated_features_reach_the_bundle(trained, data, tmp_path):
    """The settings of the preset that docs/training.md names, from training to a loaded bundle."""
    parts = ("--autoencoder", trained / "vqgan", "--with", trained / "lmnet", "--bundle-folder", tmp_path / "mine")
    assert main(command("linet", data, tmp_path / "linet", *parts, "--export-bundle", "own")) == 0
    linet = load_models(open_bundle(tmp_path / "mine" / "own"), torch.device("cpu")).linet
    assert linet.denoiser.backbone.config.embedding_modulates
    assert max(linet.codec.scale) > 2 * min(linet.codec.scale)
    ct_hu = np.clip(make_patient()[0].array[10:34, 10:34, 10:34], -200, 200).astype(np.float32)
    z = linet.codec.autoencoder.encode(torch.from_numpy(to_network(ct_hu))[None, None])
    decoded = linet.codec.autoencoder.decode(z, quantize=False)[0, 0].detach().numpy()
    assert np.abs(to_hu(decoded) - ct_hu).mean() < 60, "a random start is at 300 HU after six steps"


def test_resume_goes_on_and_a_taken_folder_is_refused(trained, data, tmp_path, capsys):
    folder = tmp_path / "lmnet"
    shutil.copytree(trained / "lmnet", folder)
    whole = (folder / "weights.safetensors").read_bytes()
    for how in ([], ["--dry-run"]):
        assert main(command("lmnet", data, folder, *how)) == 2
        assert "continue its training with --resume or choose another --out" in capsys.readouterr().err
    (folder / "weights.safetensors").unlink()
    assert main(command("lmnet", data, folder, "--resume")) == 0
    assert (folder / "weights.safetensors").read_bytes() == whole
    for how in ([], ["--dry-run"]):
        assert main(command("lmnet", data, folder, "--resume", "--set", "gamma=0.5", *how)) == 2
        assert "other settings: gamma was 0.05, is 0.5" in capsys.readouterr().err
    (folder / "checkpoint.pt").write_bytes(b"")
    assert main(command("lmnet", data, folder, "--resume")) == 2
    assert "checkpoint.pt: EOFError; delete it to start again" in capsys.readouterr().err


def test_a_training_goes_on_with_a_lower_rate_which_its_weights_tell(data, tmp_path, monkeypatch):
    stopped = command("lmnet", data, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupted_after(4, patch)
        assert main(stopped) == 130
    assert main([*stopped, "--resume", "--set", "loop.learning_rate=1e-4", "--set", "loop.clip=0.5"]) == 0
    told = json.loads((tmp_path / "run" / "run.json").read_text())["history"]
    assert [entry["from_step"] for entry in told] == [0, 4]
    assert [entry["learning_rate"] for entry in told] == [1e-3, 1e-4]


def test_a_start_that_was_refused_leaves_nothing_in_the_way(data, tmp_path, capsys):
    refused = command("lmnet", data, tmp_path / "run", "--set", "text.encoder=biomedclip")
    assert main(refused) == 2
    assert "give its folder as --text-encoder" in capsys.readouterr().err
    assert main(command("lmnet", data, tmp_path / "run")) == 0


def test_a_bundle_that_cannot_follow_is_told_before_the_training(trained, data, tmp_path, capsys):
    export = ("--export-bundle", "own", "--bundle-folder", tmp_path / "mine")
    cases = {
        "vqgan and linet is missing": ("lmnet", *export),
        "not a bundle folder|expected a bundle": ("lmnet", *export, "--with", tmp_path / "nowhere"),
        "trained on the latents of another autoencoder": (
            *("linet", *export, "--autoencoder", trained / "vqgan"),
            *("--with", tiny_bundle(tmp_path / "tiny").folder),
        ),
        "needs a LINet that learned on this autoencoder.*'train linet --autoencoder": (
            *("vqgan", *export, "--with", tmp_path / "tiny"),
        ),
        "hear texts in different ways": (
            *("linet", *export, "--autoencoder", trained / "vqgan", "--with", trained / "lmnet"),
            *("--set", "text.spelling=released"),
        ),
    }
    for message, (network, *more) in cases.items():
        assert main(command(network, data, tmp_path / "run", *more)) == 2
        assert re.search(message, capsys.readouterr().err), message
        assert not (tmp_path / "run").exists()


def test_a_finished_autoencoder_is_exported_with_the_linet_that_knows_it(trained, data, tmp_path, capsys):
    bundle, folder = tiny_bundle(tmp_path / "tiny"), tmp_path / "vqgan"
    shutil.copytree(trained / "vqgan", folder)
    export = ("--resume", "--with", bundle.folder, "--bundle-folder", tmp_path, "--export-bundle", "own")
    for steps, message in ((6, "trained on the latents of another autoencoder"), (8, "which come after it")):
        assert main(command("vqgan", data, folder, *export, "--set", f"loop.steps={steps}")) == 2
        assert message in capsys.readouterr().err
    linet = command("linet", data, tmp_path / "linet", "--autoencoder", folder)
    assert main(linet) == 0
    others = ("--with", trained / "lmnet", "--with", tmp_path / "linet")
    assert main(command("vqgan", data, folder, *export[:1], *others, *export[3:])) == 0
    assert (tmp_path / "own" / "bundle.json").is_file()


def test_the_text_encoder_gives_what_the_network_expects(data, tmp_path, capsys):
    folder = save_biomedclip(tmp_path / "text")
    heard = ("--set", "text.encoder=biomedclip", "--text-encoder", folder, "--dry-run")
    assert main(command("lmnet", data, tmp_path / "run", *heard)) == 2
    assert f"set network.context_dim={TINY.text.output_dim}" in capsys.readouterr().err


def test_an_autoencoder_that_linet_cannot_use_is_told(data, tmp_path, capsys):
    settings = ("--set", "network.z_channels=2", "--set", "loop.steps=1")
    assert main(command("vqgan", data, tmp_path / "vqgan", *settings)) == 0
    assert main(command("linet", data, tmp_path / "linet", "--autoencoder", tmp_path / "vqgan", "--dry-run")) == 2
    assert "4 latent channels at half the size, got 2 at 1/2" in capsys.readouterr().err


def test_resume_with_another_text_encoder_is_refused(data, tmp_path, capsys):
    heard = ("--set", "text.encoder=biomedclip", "--set", f"network.context_dim={TINY.text.output_dim}")
    ours = save_biomedclip(tmp_path / "ours")
    assert main(command("lmnet", data, tmp_path / "run", *heard, "--text-encoder", ours)) == 0
    weights = torch.load(ours / "open_clip_pytorch_model.bin")
    other = save_biomedclip(tmp_path / "other")
    torch.save({name: 2 * value for name, value in weights.items()}, other / "open_clip_pytorch_model.bin")
    assert main(command("lmnet", data, tmp_path / "run", *heard, "--text-encoder", ours, "--resume")) == 0
    capsys.readouterr()
    assert main(command("lmnet", data, tmp_path / "run", *heard, "--text-encoder", other, "--resume")) == 2
    assert "other settings: text_encoder was" in capsys.readouterr().err


def test_resume_with_another_perceptual_distance_is_refused(data, tmp_path, capsys):
    files = [tmp_path / name for name in ("ours.safetensors", "other.safetensors")]
    for path in files:
        save_file(LPIPS().state_dict(), path)
    used = ("--set", "losses.lpips=0.1", "--set", "loop.steps=1")
    assert main(command("vqgan", data, tmp_path / "run", *used, "--lpips", files[0])) == 0
    assert main(command("vqgan", data, tmp_path / "run", *used, "--lpips", files[1], "--resume")) == 2
    assert "other settings: lpips was" in capsys.readouterr().err


def test_how_a_trained_network_samples_may_be_changed_afterwards(trained, data, tmp_path):
    folder = tmp_path / "lmnet"
    shutil.copytree(trained / "lmnet", folder)
    before = parts_of(folder)["lmnet"]
    changed = ("--set", "sampling.guidance=3", "--set", "threshold=0.4")
    assert main(command("lmnet", data, folder, "--resume", *changed)) == 0
    after = parts_of(folder)["lmnet"]
    assert (after.spec.sampling.guidance, after.spec.threshold) == (3, 0.4)
    assert all(torch.equal(value, after.tensors[name]) for name, value in before.tensors.items())


def test_a_dry_run_tells_and_writes_nothing(data, tmp_path, capsys):
    assert main(command("lmnet", data, tmp_path / "out", "--dry-run", preset="starter")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["training_cases"], told["left_out"]) == (5, {})
    assert told["samples_per_step"] == 2
    assert told["settings"]["window"]["shape"] == [16, 16, 16]
    assert not (tmp_path / "out").exists()


def test_the_paper_preset_has_the_papers_numbers(data, tmp_path, capsys):
    where = ["--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu", "--dry-run"]
    for network, parameters, missing in (("vqgan", 7_009_709, ""), ("lmnet", 2_527_489, "give its folder as --text-")):
        assert main(["train", network, *where]) == (2 if missing else 0)
        written = capsys.readouterr()
        assert missing in written.err
        told = json.loads(written.out)
        assert told["parameters"] == parameters
        assert told["settings"]["window"]["shape"] == [128, 128, 128]
        assert (told["settings"]["loop"]["learning_rate"], told["settings"]["loop"]["batch"]) == (1e-4, 1)


def test_a_script_file_is_the_same_program(repository, data, tmp_path):
    """As Slicer and torchrun start it: by its path, from anywhere."""
    script = repository / "LesionDiffusionLib" / "scripts" / "train.py"
    start = [sys.executable, str(script)]
    arguments = command("lmnet", data, tmp_path / "out", "--dry-run")[1:]
    result = subprocess.run([*start, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["network"] == "lmnet"
    wrong = subprocess.run([*start, "lmnet"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")


@pytest.fixture
def alike():
    """Arguments for a training that takes moments and does not depend on the machine's cores."""
    before = torch.get_num_threads()
    yield ("--threads", "1", "--set", "window.shape=[8,8,8]", "--set", "window.box_voxels=4")
    torch.set_num_threads(before)


def steps_done(folder):
    """By the training's checkpoint."""
    path = folder / "checkpoint.pt"
    return torch.load(path, weights_only=True)["done"] if path.exists() else 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SKIPPED, not passed: needs POSIX signals")
def test_a_killed_training_is_resumed_to_the_same_bytes(repository, data, tmp_path, alike):
    """`kill -9` of the program itself, while it writes a checkpoint after every step."""
    small = [f"--set=loop.{text}" for text in ("steps=40", "batch=1", "preview_every=0")]
    how = (*alike, *small, "--no-tensorboard")
    whole, killed = (command("lmnet", data, tmp_path / name, *how) for name in ("whole", "killed"))
    script = repository / "LesionDiffusionLib" / "scripts" / "train.py"
    start = [sys.executable, str(script), *killed[1:], "--set", "loop.checkpoint_every=1"]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        while process.poll() is None and steps_done(tmp_path / "killed") < 2:
            time.sleep(0.02)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert 2 <= steps_done(tmp_path / "killed") < 40
    assert main([*killed, "--resume"]) == 0
    assert main(whole) == 0
    ended = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "killed")]
    assert ended[0] == ended[1]


def files_in(folder):
    """Without what the names of event files tell of time and process."""
    return sorted(re.sub("tfevents.*", "tfevents", str(path.relative_to(folder))) for path in folder.rglob("*"))


def distance(a, b):
    """Between all weights of two networks."""
    return sum(float((a[name].double() - b[name].double()).square().sum()) for name in b) ** 0.5


# Of the way that the weights went. Each process sums over its own samples, so the last bits differ, and where a
# gradient is nothing but rounding Adam makes a whole step of it. Here 1e-5; a process with one sample ends 1 away.
SAME_TRAINING = 1e-3


def test_two_processes_leave_what_one_leaves(repository, data, tmp_path, alike, capsys):
    """`torchrun` with one sample each: the files and the weights of one process with two, which can go on from them."""
    constant = (*alike, "--set", "loop.decay=constant", "--set")
    one, two = (command("lmnet", data, tmp_path / f"{n}", *constant, f"loop.batch={3 - n}") for n in (1, 2))
    assert main(one) == 0
    script = repository / "LesionDiffusionLib" / "scripts" / "train.py"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    told = subprocess.run([*start, *two[1:]], capture_output=True, encoding="utf-8", timeout=400, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    assert told.stdout.count("weights in") == 1
    assert files_in(tmp_path / "2") == files_in(tmp_path / "1")
    alone, together = (load_file(tmp_path / name / "weights.safetensors") for name in "12")
    begun = trainable(*make_denoiser(tiny_training("lmnet"))).state_dict()
    assert distance(together, alone) < SAME_TRAINING * distance(alone, begun)
    assert main([*two, "--resume"]) == 2
    assert "samples_per_step was 2, is 1" in capsys.readouterr().err
    assert main([*two, "--resume", "--set", "loop.batch=2", "--set", "loop.steps=8"]) == 0
    assert steps_done(tmp_path / "2") == 8


@pytest.mark.parametrize(
    ("network", "more", "message"),
    [
        ("lmnet", ["--set", "nothing=1"], 'no setting is called "nothing"'),
        ("lmnet", ["--set", "gamma"], "expected --set KEY=VALUE"),
        ("lmnet", ["--set", "loss=mine"], "loss is one of paper, released, balanced, got 'mine'"),
        ("lmnet", ["--set", "loop.steps=many"], "loop: steps, got 'many'"),
        ("lmnet", ["--set", "network.out_channels=2"], "input and output channels, got"),
        ("lmnet", ["--set", "text.drop_all=2"], r"shares of dropped texts lie in 0..1"),
        ("lmnet", ["--set", "loop.betas=0.9,0.99"], "expected a list at"),
        ("lmnet", ["--set", "loop.betas=[0.9]"], "expected 2 values at"),
        ("lmnet", ["--set", 'loop.betas=[0.9,"b"]'], "betas[1], got 'b'"),
        ("lmnet", ["--set", "loop.learning_rate=-1"], "are not negative"),
        ("lmnet", ["--set", "window.shape=[17,16,16]"], "window.shape is divisible by 2"),
        ("linet", ["--set", "window.shape=[22,24,24]"], "window.shape is divisible by 4"),
        ("vqgan", ["--set", "crop=100"], "crop lies in 8..24"),
        ("vqgan", ["--set", "crop=15"], "window.shape and crop are divisible by 2"),
        ("vqgan", ["--set", "losses.l1=0", "--set", "losses.l2=0"], "must be above 0"),
        ("vqgan", ["--set", "losses.lpips=1"], "needs the metric's weights; give --lpips FILE"),
        ("lmnet", ["--set", "text.encoder=biomedclip"], "give its folder as --text-encoder"),
        ("lmnet", ["--set", "loop.precision=bf16"], "needs a GPU"),
        ("linet", ["--set", "network.in_channels=7"], "input and output channels, got"),
        ("linet", ["--set", "network.in_channels=9", "--set", 'change={"unit": 0.06}'], "which prepared cases do not"),
        ("linet", [], "give --autoencoder with a bundle or a finished training"),
        ("lmnet", ["--config", "absent.toml"], "cannot read the configuration absent.toml"),
        ("lmnet", ["--data", "absent"], "give a folder that 'lesiondiffusion prepare' has made"),
        ("lmnet", ["--export-bundle", "a/b"], "expected a plain name for the bundle"),
        ("vqgan", ["--set", "losses.lpips=1", "--lpips", "absent.pt"], "holds no weights of the LPIPS metric"),
        ("lmnet", ["--set", "text.drop_all=0"], "set sampling.guidance=1, or text.drop_all=0.1"),
        ("linet", ["--set", "text.drop_all=0"], "set sampling.guidance=1, or text.drop_all=0.1"),
        ("lmnet", ["--threads", "0"], "expected at least 1 thread, got 0"),
        ("lmnet", ["--threads", "-1"], "expected at least 1 thread, got -1"),
        ("lmnet", ["--text-encoder", "x"], "--text-encoder would do nothing here: it needs a network with"),
        ("vqgan", ["--text-encoder", "x"], "--text-encoder would do nothing here"),
        ("lmnet", ["--allow-download"], "--allow-download would do nothing here: it needs --text-encoder"),
        ("vqgan", ["--lpips", "x"], "--lpips would do nothing here: it needs a vqgan with losses.lpips above 0"),
        ("lmnet", ["--lpips", "x"], "--lpips would do nothing here"),
        ("lmnet", ["--autoencoder", "x"], "--autoencoder would do nothing here: it needs train linet or --"),
        ("lmnet", ["--with", "x"], "--with would do nothing here: it needs --export-bundle"),
        ("lmnet", ["--bundle-folder", "x"], "--bundle-folder would do nothing here: it needs --export-bundle"),
        ("lmnet", ["--license", "MIT"], "--license would do nothing here: it needs --export-bundle"),
    ],
)
def test_mistakes_are_one_clear_line(network, more, message, data, tmp_path, capsys):
    for how in ([], ["--dry-run"]):
        assert main(command(network, data, tmp_path / "out", *more, *how)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert re.search(re.escape(message) if "0..1" not in message else message, error)
        assert not (tmp_path / "out").exists()


def test_lesions_larger_than_the_window_are_left_out_and_told(data, tmp_path, capsys):
    """A window of 20 mm takes only the flat ones, one of 10 mm none."""
    window = ["--set", "window.min_spacing_mm=0.5", "--dry-run"]
    assert main(command("lmnet", data, tmp_path / "out", *window, "--set", "window.max_spacing_mm=2.9")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == {"larger than the window takes (23x23x23 mm)": 3}
    assert told["training_cases"] == 2
    assert main(command("lmnet", data, tmp_path / "out", *window, "--set", "window.max_spacing_mm=1.25")) == 2
    assert "has no usable case of the split 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(("margin_mm", "used"), [(10, 0), (15.3, 2), (15.5, 5), (None, 5)])
def test_a_window_does_not_reach_beyond_what_was_kept(margin_mm, used, data, tmp_path, capsys):
    """Lesions of 22x20x18 mm in a window of 48 mm, and of 18x24x18 mm in one of 48.4 mm, which reaches furthest along
    their shortest axis. Datasets of earlier editions do not tell what was kept."""
    prepared = shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["margin_mm"] = margin_mm
    if margin_mm is None:
        del manifest["margin_mm"]
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    window = [f"--set={text}" for text in ("window.min_spacing_mm=3.0", "window.max_spacing_mm=6.0")]
    assert main(command("lmnet", prepared, tmp_path / "out", *window, "--dry-run")) == (0 if used else 2)
    told = capsys.readouterr()
    if used:
        assert json.loads(told.out)["training_cases"] == used
    else:
        assert "only 10 mm round the lesion were kept, and the window reaches further (prepare --margin-mm)" in told.err


def test_steps_are_not_taken_back_and_a_finished_training_learns_no_more(trained, data, tmp_path, capsys):
    folder = shutil.copytree(trained / "lmnet", tmp_path / "lmnet")
    again = command("lmnet", data, folder, "--resume")
    assert main([*again, "--set", "loop.learning_rate=1e-5"]) == 2
    assert "is finished after 6 steps: another loop.learning_rate would do nothing" in capsys.readouterr().err
    constant = command("lmnet", data, tmp_path / "constant", "--set", "loop.decay=constant")
    assert main(constant) == 0
    assert main([*constant, "--resume", "--set", "loop.steps=4"]) == 2
    assert "has done 6 steps, and none is taken back: expected loop.steps=6 or more" in capsys.readouterr().err


def test_a_world_without_others_is_told(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert main(command("lmnet", data, tmp_path / "out")) == 2
    assert "WORLD_SIZE is 2, but the other processes cannot be joined" in capsys.readouterr().err


def test_bundles_of_parts_that_do_not_belong_together_are_refused(trained, tmp_path, capsys):
    from LesionDiffusionLib.errors import TrainingError
    from LesionDiffusionLib.training.bundling import export_bundle, parts_of

    tiny_bundle(tmp_path / "tiny")
    lmnet, other = parts_of(str(trained / "lmnet")), parts_of(str(tmp_path / "tiny"))
    with pytest.raises(TrainingError, match="needs vqgan, lmnet and linet, but vqgan and linet is missing"):
        export_bundle(tmp_path / "new", lmnet, "MIT")
    with pytest.raises(TrainingError, match="trained on the latents of another autoencoder"):
        export_bundle(tmp_path / "new", other | parts_of(str(trained / "vqgan")), "MIT")
    assert export_bundle(tmp_path / "new", other | lmnet, "MIT").manifest.license == "MIT", "LMNet may be exchanged"
    assert summarize(tmp_path / "new").largest_lesion_mm == (60, 60, 60)
    assert "Lesions up to 60x60x60 mm." in (tmp_path / "new" / "README.md").read_text(), "LINet alone takes 96"
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "checkpoint.pt").touch()
    with pytest.raises(TrainingError, match="is not finished; continue it with --resume first"):
        parts_of(str(tmp_path / "unfinished"))
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    with pytest.raises(TrainingError, match="cannot read the training in"):
        parts_of(str(tmp_path / "unfinished"))
    main(["train", "linet", "--data", ".", "--out", str(tmp_path / "o"), "--autoencoder", str(trained / "lmnet")])
    assert "holds no autoencoder" in capsys.readouterr().err


def test_tensorboard_is_asked_for_only_when_wanted(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for how in ([], ["--dry-run"]):
        assert main(command("lmnet", data, tmp_path / "out", *how)) == 2
        assert "TensorBoard is not installed" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main(command("lmnet", data, tmp_path / "out", "--no-tensorboard")) == 0
    assert not (tmp_path / "out" / "tensorboard").exists()
