"""Where the published checkpoints keep their weights: every spelling is found, what does not fit is named."""

from __future__ import annotations

import pytest
import torch
from released_checkpoints import import_tiny, part, renamed, require_equal, tiny_states, without

from LesionDiffusionLib.bundles import sha256_of
from LesionDiffusionLib.errors import BundleError


def test_the_bundle_holds_the_averaged_weights_the_schedule_and_the_autoencoder(tmp_path):
    bundle = import_tiny(tmp_path, names=("lmnet", "linet", "vq")).bundle
    for network in ("lmnet", "linet"):
        tensors = bundle.tensors(f"{network}.safetensors")
        without_dots = {name.replace(".", ""): tensor for name, tensor in part(tensors, "unet.").items()}
        averaged = part(tiny_states()[network], "model_ema.")
        del averaged["decay"], averaged["num_updates"]
        require_equal(without_dots, averaged)
        assert torch.equal(tensors["alphas_cumprod"], tiny_states()[network]["alphas_cumprod"])
    require_equal(bundle.tensors("vqgan.safetensors"), without(tiny_states()["vq"], "loss."))
    assert {path.name for path in bundle.folder.iterdir()} == {*bundle.manifest.files, "bundle.json"}


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("model.diffusion_model.", "model_ema.diffusion_model"),
        ("model.diffusion_model.", "model_ema."),
        ("model.", "model_ema.diffusion_model"),
    ],
)
def test_both_spellings_of_the_prefixes_give_the_same_bundle(tmp_path, raw, averaged):
    expected = import_tiny(tmp_path).bundle
    expected.folder.rename(tmp_path / "expected")
    changed = {}
    for network in ("lmnet", "linet"):
        state = renamed(tiny_states()[network], "model.", raw)
        keep = {name: state.pop(name) for name in ("model_ema.decay", "model_ema.num_updates")}
        changed[network] = renamed(state, "model_ema.", averaged) | keep
    found = import_tiny(tmp_path, **changed).bundle
    for file in ("lmnet.safetensors", "linet.safetensors", "vqgan.safetensors"):
        assert sha256_of(tmp_path / "expected" / file) == sha256_of(found.folder / file)


def test_without_an_average_the_raw_weights_are_used_and_said_so(tmp_path):
    imported = import_tiny(tmp_path, lmnet=without(tiny_states()["lmnet"], "model_ema."))
    unet = part(imported.bundle.tensors("lmnet.safetensors"), "unet.")
    require_equal(unet, part(tiny_states()["lmnet"], "model."))
    assert "LMNet.ckpt: raw weights; saved at epoch 7, step 1234" in imported.evidence
    assert imported.warnings == (
        "LMNet.ckpt holds no moving average (EMA) of its weights; the raw ones are used in its place",
    )


def test_without_raw_weights_the_average_is_enough(tmp_path):
    imported = import_tiny(
        tmp_path, lmnet=without(tiny_states()["lmnet"], "model."), linet=without(tiny_states()["linet"], "model.")
    )
    assert "LMNet.ckpt: moving average (EMA) of 5000 updates; saved at epoch 7, step 1234" in imported.evidence
    assert any("the context projection has no average" in line for line in imported.evidence)


def test_an_average_that_was_never_updated_is_warned_about(tmp_path):
    imported = import_tiny(tmp_path, lmnet=tiny_states()["lmnet"] | {"model_ema.num_updates": torch.tensor(0)})
    assert "the moving average (EMA) in LMNet.ckpt was never updated: it may be untrained" in imported.warnings


def test_half_precision_is_kept(tmp_path):
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tiny_states()["lmnet"].items()
    }
    imported = import_tiny(tmp_path, lmnet=halves)
    assert {t.dtype for t in imported.bundle.tensors("lmnet.safetensors").values()} == {torch.float16}
    assert "LMNet.ckpt: noise schedule scaled linear, as in the released code" in imported.evidence[1]


def test_the_autoencoder_inside_linet_wins(tmp_path):
    imported = import_tiny(tmp_path, names=("lmnet", "linet", "vq"))
    assert "autoencoder: VQ.ckpt holds the same" in imported.evidence


def test_another_autoencoder_in_vq_is_noted(tmp_path):
    other = tiny_states()["vq"] | {"quantize.embedding.weight": torch.ones(8, 4)}
    imported = import_tiny(tmp_path, names=("lmnet", "linet", "vq"), vq=other)
    message = "the autoencoder in VQ.ckpt differs from that in LINet.ckpt; that of LINet.ckpt is used"
    assert imported.warnings == (message,)
    require_equal(imported.bundle.tensors("vqgan.safetensors"), without(tiny_states()["vq"], "loss."))


def test_vq_serves_where_linet_has_no_autoencoder(tmp_path):
    bare = without(tiny_states()["linet"], "first_stage_model.")
    with pytest.raises(BundleError, match=r"holds no autoencoder \(no .*first_stage_model\.\); give the published VQ"):
        import_tiny(tmp_path, linet=bare)
    imported = import_tiny(tmp_path, names=("lmnet", "linet", "vq"), linet=bare)
    assert "autoencoder: from VQ.ckpt" in imported.evidence
    require_equal(imported.bundle.tensors("vqgan.safetensors"), without(tiny_states()["vq"], "loss."))


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (
            {"lmnet": "linet", "linet": "lmnet"},
            r"lmnet.ckpt does not hold the U-Net of LMNet.ckpt: input_blocks.0.0.weight expected \(8, 4, 3, 3, 3\), "
            r"found \(8, 5, 3, 3, 3\); .*; this looks like LINet.ckpt",
        ),
        (
            {"linet": "lmnet"},
            r"linet.ckpt does not hold the U-Net of LINet.ckpt: .*expected \(8, 5, 3, 3, 3\), "
            r"found \(8, 4, 3, 3, 3\); .*; this looks like LMNet.ckpt",
        ),
        (
            {"lmnet": "vq"},
            r"U-Net of LMNet.ckpt: time_embed.0.weight \(32, 8\) missing; .* and \d+ more; this looks like VQ.ckpt",
        ),
        (
            {"vq": "linet"},
            r"vq.ckpt does not hold the autoencoder of VQ.ckpt: encoder.conv_in.weight \(16, 1, 3, 3, 3\) missing; "
            r".*; this looks like LINet.ckpt",
        ),
    ],
)
def test_swapped_files_are_recognized(tmp_path, swap, message):
    with pytest.raises(BundleError, match=message) as caught:
        import_tiny(
            tmp_path, names=("lmnet", "linet", "vq"), **{name: tiny_states()[other] for name, other in swap.items()}
        )
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
def test_files_that_do_not_fit_are_refused(tmp_path, change, message):
    changed = {name: tensor for name, tensor in (tiny_states()["lmnet"] | change).items() if tensor is not None}
    with pytest.raises(BundleError, match=message):
        import_tiny(tmp_path, lmnet=changed)
    assert not (tmp_path / "made").exists()


def test_larger_networks_than_the_known_ones_are_refused(tmp_path):
    deeper = {**tiny_states()["lmnet"], "model.input_blocks.6.0.op.weight": torch.zeros(1)}
    with pytest.raises(BundleError, match=r"LMNet.ckpt: 'input_blocks\.6\.0\.op\.weight' unexpected"):
        import_tiny(tmp_path, lmnet=without(deeper, "model_ema."))


def test_what_inference_does_not_need_may_be_missing_or_strange(tmp_path):
    linet = {name: tensor for name, tensor in tiny_states()["linet"].items() if name != "betas"}
    more = {
        "first_stage_model.loss.x": torch.zeros(1),
        "logvar": torch.zeros(3),
        "model_ema.num_updates": torch.full((2,), torch.nan),
    }
    assert import_tiny(tmp_path, linet=linet | more).warnings == ()
