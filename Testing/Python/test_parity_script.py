"""The parity script on fixtures made here: it passes what is right and fails what was tampered with.

The records are computed with formulas written out in this file, not with the library's samplers and losses.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from LesionDiffusionLib.networks.text_tower import SPECIAL_TOKENS
from LesionDiffusionLib.networks.unet import UNet3D, UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGAN, VQGANConfig

UNET = {
    "image_size": 64,
    "attention_resolutions": [4],
    "channel_mult": [1, 2, 4],
    "num_head_channels": 32,
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "context_dim": 32,
}
DDCONFIG = {"z_channels": 4, "in_channels": 1, "out_ch": 1, "ch": 16, "ch_mult": [1, 1, 1], "sample_depth": [0]}
DIFFUSION = {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000}


@pytest.fixture
def parity(repository, monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(repository / "Testing"))
    import parity

    return parity


def stored_as(network: torch.nn.Module, dtype: torch.dtype, prefix: str = "") -> dict[str, torch.Tensor]:
    """Give a network random weights that ``dtype`` holds exactly, and return them for a fixture."""
    weights = {}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.randn_like(parameter).mul_(0.05).add_(name.endswith("norm.weight")).to(dtype).float())
            weights[f"sd/{prefix}{name}"] = parameter.detach().to(dtype)
    return weights


def write(folder, name, spec, tensors):
    described = {key: [list(tensor.shape), str(tensor.dtype)] for key, tensor in tensors.items() if key[:3] != "sd/"}
    (folder / f"{name}.json").write_text(json.dumps(spec | {"tensors": described}))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")


def rewrite(folder, name, changes):
    """Replace tensors of a fixture (None: leave the tensor out)."""
    path = folder / f"{name}.safetensors"
    tensors = load_file(path) | changes
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)


@torch.no_grad()
def write_unet(folder, name="unet_own"):
    """In the form of the U-Net fixtures: inner activations, a short context, float8 weights."""
    torch.manual_seed(1)
    network = UNet3D(UNetConfig(4, 1, 8, context_dim=32))
    tensors = stored_as(network, torch.float8_e4m3fn)
    x, t, context = torch.randn(2, 4, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 32)
    short = torch.randn(1, 3, 32)
    tensors |= {"in/x": x, "in/timesteps": t, "in/context": context, "in/context_short": short}
    tensors |= {"out/y": network(x, t, context), "out/y_short": network(x[:1], t[:1], short)}
    projected = context @ network.context_linear_projection.weight.T
    first = functional.conv3d(x[:1], network.input_blocks[0][0].weight, network.input_blocks[0][0].bias, padding=1)
    tensors |= {"mid/context_projected": projected, "mid/input_blocks.0": first}
    spec = UNET | {"in_channels": 4, "out_channels": 1, "model_channels": 8, "num_res_blocks": 1}
    write(folder, name, {"kind": "unet", "unet": spec}, tensors)


@torch.no_grad()
def write_sampler_linet(folder, name="sampler_linet_own", final_blend=False):
    """In the form of the held-back LINet run, following released-model 3.2 to 3.5 step by step."""
    torch.manual_seed(2)
    unet, vqgan = UNet3D(UNetConfig(5, 5, 8, context_dim=32)), VQGAN(VQGANConfig(channels=16, codebook_size=16))
    tensors = stored_as(unet, torch.float16, "unet.") | stored_as(vqgan, torch.float16, "vq.")
    label = torch.zeros(1, 16, 16, 16)
    label[0, 3:9, 4:11, 6:13] = 2
    label[0, 0] = 1
    tensors |= {"in/image": torch.rand(1, 1, 16, 16, 16), "in/label": label, "in/context": torch.randn(1, 3, 32)}
    z_0 = vqgan.encode(tensors["in/image"])
    m = (label[:, None, ::2, ::2, ::2] == 2).float()
    tensors |= {"in/x_T": torch.randn_like(z_0), "in/noise": torch.randn(4, *z_0.shape), "out/z0": z_0}
    tensors |= {"out/mask_latent": m, "out/coarse_mask_latent": torch.ones_like(m)}

    def predict(z, t):
        return unet(torch.cat([z, m], dim=1), torch.tensor([t]), tensors["in/context"])

    roots = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64)
    levels = torch.cumprod(1 - roots**2, 0)
    taus = [1, 251, 501, 751]
    a, a_prev = levels[taus], levels[[0, 1, 251, 501]]
    sigmas = ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    tensors |= {"sched/ddim_timesteps": torch.tensor(taus), "sched/ddim_alphas": a, "sched/ddim_alphas_prev": a_prev}
    tensors |= {"sched/ddim_sigmas": sigmas, "sched/ddim_sqrt_one_minus_alphas": (1 - a).sqrt()}
    for eta in (1, 0):
        x, xs, x0s = tensors["in/x_T"], [], []
        for executed, i in enumerate((3, 2, 1, 0)):
            x = m * x + (1 - m) * z_0
            eps = predict(x, taus[i])[:, :4]
            x0 = (x - (1 - a[i]).sqrt().float() * eps) / a[i].sqrt().float()
            sigma = eta * sigmas[i].float()
            x = a_prev[i].sqrt().float() * x0 + (1 - a_prev[i].float() - sigma**2).sqrt() * eps
            x = x + sigma * tensors["in/noise"][executed]
            x0s.append(x0)
            xs.append(m * x + (1 - m) * z_0 if final_blend and i == 0 else x)
        x = m * x + (1 - m) * z_0
        tensors |= {f"out/x_steps_eta{eta}": torch.stack(xs), f"out/sample_eta{eta}": x}
        if eta == 1:
            tensors |= {"out/pred_x0_steps_eta1": torch.stack(x0s), "out/decoded_eta1": vqgan.decode(x)}
            distances = (x.movedim(1, -1)[..., None, :] - vqgan.quantize.embedding.weight).square().sum(-1)
            two = distances.topk(2, largest=False).values
            tensors["out/decode_margin_min"] = (two[..., 1] - two[..., 0]).min()[None]
    t, noise = 400, torch.randn_like(z_0)
    noisy = levels[t].sqrt().float() * z_0 + (1 - levels[t]).sqrt().float() * noise
    output = predict(m * noisy + (1 - m) * z_0, t)
    where = m[0, 0].nonzero()
    box_volume = (where.amax(0) - where.amin(0) + 1).prod()
    simple = (m * (noise - output[:, :4])).abs().sum() / (box_volume + 1e-6)
    p = output[:, 4:].sigmoid()
    dice = 1 - (2 * (p * m).sum() + 1e-6) / (p.sum() + m.sum() + 1e-6)
    tensors |= {"in/loss_t": torch.tensor([t]), "in/loss_noise": noise}
    tensors |= {"out/loss_simple": simple[None], "out/loss_dice": dice[None], "out/loss": (simple + dice)[None]}
    spec = {
        "kind": "sampler_linet",
        "unet": UNET | {"in_channels": 5, "out_channels": 5, "model_channels": 8, "num_res_blocks": 1},
        "vq": {"n_embed": 16, "ddconfig": DDCONFIG | {"num_res_blocks": 1}},
        "diffusion": DIFFUSION,
        "ddim_steps": 4,
        "parameterization": "eps",
        "sd_prefixes": {"unet.": "denoiser", "vq.": "autoencoder"},
    }
    write(folder, name, spec, tensors)


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    """Untouched fixtures, one folder each."""
    made = {}
    for name, make in (("unet_own", write_unet), ("sampler_linet_own", write_sampler_linet)):
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name], name)
    return made


@pytest.fixture
def unet_folder(fixtures, tmp_path):
    return shutil.copytree(fixtures["unet_own"], tmp_path / "unet")


@pytest.fixture
def linet_folder(fixtures, tmp_path):
    return shutil.copytree(fixtures["sampler_linet_own"], tmp_path / "linet")


def only_line(parity, folder, **options) -> object:
    (line,) = parity.lines(folder, options.get("vocabulary"), options.get("tolerance", 1e-4))
    return line


def shifted(folder, name, key, by):
    return {key: load_file(folder / f"{name}.safetensors")[key].clone().add_(by)}


@pytest.mark.shared
def test_every_given_fixture_is_within_1e_4(parity, shared, capsys):
    assert parity.main([str(shared / "reference/parity")]) == 0
    output = capsys.readouterr().out
    status = {line.split()[0]: line.split()[2] for line in output.splitlines()[:-1]}
    assert status.pop("sampler_linet_mc16") == "absent"
    assert status.pop("tokens_biomedclip") == "skipped"
    assert len(status) == 7
    assert set(status.values()) == {"ok"}


def test_unet_with_float8_weights(parity, unet_folder):
    line = only_line(parity, unet_folder)
    assert (line.status, line.what) == ("ok", "unet: 4 results")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("out/y", 2e-4, "worst out/y"),
        ("out/y_short", 2e-4, "worst out/y_short"),
        ("mid/context_projected", 1e-2, "worst mid/context_projected"),
        ("mid/input_blocks.0", 1e-2, "worst mid/input_blocks.0"),
        ("out/y", float("nan"), "worst out/y"),
        ("in/x", 0.01, "beyond tolerance"),
    ],
)
def test_a_tampered_unet_fixture_fails(parity, unet_folder, key, change, message):
    rewrite(unet_folder, "unet_own", shifted(unet_folder, "unet_own", key, change))
    line = only_line(parity, unet_folder)
    assert line.status == "FAIL"
    assert message in line.what


def test_the_tolerance_is_the_callers(parity, unet_folder):
    rewrite(unet_folder, "unet_own", shifted(unet_folder, "unet_own", "out/y", 2e-4))
    assert only_line(parity, unet_folder, tolerance=1e-3).status == "ok"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out/y": None}, "lacks out/y"),
        ({"sd/out.2.bias": None}, "Missing key"),
        ({"sd/surplus": torch.zeros(1)}, "Unexpected key"),
        ({"mid/nowhere": torch.zeros(1)}, "no module for mid/nowhere"),
        ({"out/y": torch.zeros(2, 1, 4, 8, 4)}, r"worst out/y (shape (2, 1, 4, 8, 8), recorded (2, 1, 4, 8, 4))"),
    ],
)
def test_an_incomplete_or_foreign_unet_fixture_fails(parity, unet_folder, changes, message):
    rewrite(unet_folder, "unet_own", changes)
    line = only_line(parity, unet_folder)
    assert line.status == "FAIL"
    assert message in line.what


def test_a_missing_result_fails_even_when_the_description_does_not_list_it(parity, unet_folder):
    rewrite(unet_folder, "unet_own", {"out/y_short": None})
    spec = json.loads((unet_folder / "unet_own.json").read_text())
    (unet_folder / "unet_own.json").write_text(json.dumps(spec | {"tensors": {}}))
    assert "the tensor out/y_short is missing" in only_line(parity, unet_folder).what


@pytest.mark.parametrize("final_blend", [False, True])
def test_linet_run_whichever_way_its_last_step_was_recorded(parity, tmp_path, final_blend):
    write_sampler_linet(tmp_path, final_blend=final_blend)
    line = only_line(parity, tmp_path)
    assert line.status == "ok"
    assert line.what == "sampler_linet: 17 results; not compared: out/coarse_mask_latent"


@pytest.mark.parametrize(
    "key",
    [
        *("out/z0", "out/mask_latent", "out/x_steps_eta1", "out/pred_x0_steps_eta1", "out/sample_eta1"),
        *("out/x_steps_eta0", "out/sample_eta0", "out/decoded_eta1", "out/decode_margin_min", "out/loss"),
        *("out/loss_simple", "out/loss_dice", "sched/ddim_sigmas", "sched/ddim_alphas_prev", "sched/ddim_timesteps"),
    ],
)
def test_a_tampered_linet_run_fails(parity, linet_folder, key):
    rewrite(
        linet_folder,
        "sampler_linet_own",
        shifted(linet_folder, "sampler_linet_own", key, 1 if "steps" in key else 1e-3),
    )
    line = only_line(parity, linet_folder)
    assert line.status == "FAIL"
    assert f"1 beyond tolerance, worst {key}" in line.what


def test_token_ids(parity, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL_TOKENS, "enhanced", "ct", ","]))
    fixture = tmp_path / "fixtures" / "tokens_own.json"
    fixture.parent.mkdir()
    spec = {"context_length": 256, "vocab_sha256": "?", "tokens": {"": [2, 3], "Enhanced  CT,": [2, 5, 6, 7, 3]}}
    fixture.write_text(json.dumps(spec))
    assert only_line(parity, fixture.parent).status == "skipped"
    line = only_line(parity, fixture.parent, vocabulary=vocabulary)
    assert (line.status, line.what) == ("ok", "tokens (another vocabulary file than the recorded): 2 results")
    spec["tokens"]["ct"] = [2, 5, 3]
    fixture.write_text(json.dumps(spec))
    line = only_line(parity, fixture.parent, vocabulary=vocabulary)
    assert (line.status, "worst token ids of 'ct'" in line.what) == ("FAIL", True)
    assert only_line(parity, fixture.parent, vocabulary=tmp_path / "absent.txt").status == "FAIL"


@pytest.mark.shared
def test_a_tampered_pipeline_case_fails(parity, shared, tmp_path):
    case = tmp_path / "pipeline" / "liver"
    shutil.copytree(shared / "reference/parity/pipeline/liver", case)
    for path in [case, *case.iterdir()]:
        path.chmod(0o755)
    assert only_line(parity, tmp_path).status == "ok"

    with np.load(case / "expected.npz") as archive:
        arrays = dict(archive)
    maps = arrays["lmnet/1/cond_maps_x104"]
    np.savez(case / "expected.npz", **arrays | {"lmnet/1/cond_maps_x104": np.roll(maps, 1, axis=2)})
    line = only_line(parity, tmp_path)
    assert (line.status, "worst lmnet/1/cond_maps_x104" in line.what) == ("FAIL", True)
    np.savez(case / "expected.npz", **arrays | {"loaded/seg": arrays["loaded/seg"][:, :, ::-1]})
    assert "worst loaded/seg" in only_line(parity, tmp_path).what
    np.savez(case / "expected.npz", **arrays)

    expected = json.loads((case / "expected.json").read_text())
    expected["lmnet_texts"][0][0][1] = "non-contrast CT,"
    (case / "expected.json").write_text(json.dumps(expected))
    assert "worst lmnet_texts/0" in only_line(parity, tmp_path).what
    (case / "expected.npz").unlink()
    assert only_line(parity, tmp_path).status == "FAIL"


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ({"a.json": '{"kind": "unet"}'}, "absent", "no a.safetensors beside a.json"),
        ({"a.json": '{"kind": "gan"}'}, "FAIL", "unknown kind 'gan'; known: unet, vq"),
        ({"a.json": "{"}, "FAIL", "cannot read a.json"),
        ({"a.json": "[]"}, "skipped", "not a fixture"),
        ({"a.safetensors": "x"}, "FAIL", "no a.json describes a.safetensors"),
        ({"a.json": '{"kind": "unet"}', "a.safetensors": "x"}, "FAIL", "SafetensorError"),
        ({"case/expected.json": "{}"}, "FAIL", "pipeline: FileNotFoundError"),
    ],
)
def test_what_cannot_be_compared_never_passes(parity, tmp_path, files, status, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    line = only_line(parity, tmp_path)
    assert line.status == status
    assert message in line.what
    assert parity.main([str(tmp_path)]) == 1


def test_an_empty_folder_fails(parity, tmp_path, capsys):
    assert parity.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("FAIL: 0 within 0.0001, 0 failed")


def test_no_folder_is_an_error_of_its_own(repository, tmp_path):
    command = [sys.executable, str(repository / "Testing/parity.py"), str(tmp_path / "nowhere")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: expected a folder of fixtures")
    assert run.stderr.count("\n") == 1
