"""The benchmark: both ways do the same job, and the figures are what they are called."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch
from conftest import make_geometry
from patients import fake_models, tiny_bundle

from LesionDiffusionLib.benchmark import comparison, growth
from LesionDiffusionLib.benchmark.ceiling import EDGES, forward_tflop, matmul_tflops
from LesionDiffusionLib.benchmark.comparison import compare
from LesionDiffusionLib.benchmark.forwards import bare_forwards, evaluations, forwards, sampling_tflop
from LesionDiffusionLib.benchmark.job import Sizes, make_job, random_models
from LesionDiffusionLib.benchmark.paths import our_way, released_way, whole_around
from LesionDiffusionLib.benchmark.steps import enough_steps
from LesionDiffusionLib.benchmark.tables import as_markdown
from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.errors import BundleError, SettingsError
from LesionDiffusionLib.geometry import Box
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.networks import convolution
from LesionDiffusionLib.networks.unet import UNetConfig
from LesionDiffusionLib.networks.vqgan import VQGANConfig
from LesionDiffusionLib.resampling import box_on_grid, window_grid
from LesionDiffusionLib.run import Settings
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.windowing import largest_in_all

CPU = torch.device("cpu")
COARSE_MM = 5.0
UNETS = [UNetConfig(n, out, 8, (1, 2), 1, (2,), 16, 32, norm_groups=8) for n, out in ((4, 1), (5, 4))]
SMALL = Sizes(*UNETS, VQGANConfig(16, codebook_size=32), (8, 16, 16), edge=16, spacing_mm=6.0, text_tower=False)


@pytest.fixture(scope="module", autouse=True)
def _small_products():
    """The ceiling's full matrices take minutes in bfloat16 on a CPU without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EDGES, "cpu", 64)
        yield


@pytest.fixture(scope="module")
def job():
    return make_job(random_models(CPU, SMALL), 30, COARSE_MM)


@pytest.fixture(scope="module")
def compared(job):
    """The figures of a comparison."""
    return compare(job, lambda: job, steps=4, repeats=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "tiny")


class Conv(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 5, 3, padding=1)

    def forward(self, x, timesteps, context):
        return self.conv(x)


def test_operations_are_counted_as_in_the_closed_form():
    counted = forward_tflop(Conv(), torch.zeros(2, 3, 4, 6, 8), torch.zeros(2), torch.zeros(2, 1, 4))
    assert counted == pytest.approx(2 * 2 * 5 * 3 * 27 * 4 * 6 * 8 / 1e12)
    modes = []
    forward_tflop(lambda: modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())))
    assert modes == [(False, False)], "in inference mode older PyTorch counts nothing"


def test_less_of_the_phantom_around_the_same_lesion(job):
    """As much as is asked for, for GPUs that cannot take the whole volume through the autoencoder."""
    near = make_job(job.models, 30, COARSE_MM, margin_mm=40)
    assert near.mask.sum() == job.mask.sum()
    lesion = [n * COARSE_MM for n in Box.bounding(near.mask).shape]
    assert all(n * COARSE_MM <= mm + 2 * (40 + COARSE_MM) for n, mm in zip(near.mask.shape, lesion, strict=True))
    assert near.ct.array.size < job.ct.array.size / 8
    assert np.array_equal(near.ct.array[near.mask], job.ct.array[job.mask])
    assert near.organs.volume.geometry.difference(near.ct.geometry) is None
    settings = Settings(1, steps=2)
    assert released_way(near, settings).lesion_hu.shape == our_way(near, settings).lesion_hu.shape


def test_the_ceiling_is_the_number_of_operations_over_time(monkeypatch):
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setattr("LesionDiffusionLib.benchmark.ceiling.time.perf_counter", lambda: next(clock))
    assert matmul_tflops(CPU) == pytest.approx(2 * EDGES["cpu"] ** 3 / 0.5 / 1e12)


def test_guidance_doubles_the_evaluations(job):
    assert evaluations(SamplingOptions("ddim", 7, 1.0)) == 7
    assert evaluations(SamplingOptions("ddim", 7, 2.0)) == 14
    networks = forwards(job.models)
    once, guided = (sampling_tflop(networks, Settings(steps=4, guidance=w)) for w in (1.0, 3.0))
    assert guided == pytest.approx(2 * once)


def test_both_ways_put_the_same_lesion_there(tmp_path):
    """Networks by rule: the autoencoder acts locally and the denoiser shifts by the text, so both ways must agree."""
    job = make_job(fake_models(tmp_path), 30, COARSE_MM)
    job = dataclasses.replace(job, report=dataclasses.replace(job.report, density="hypodense lesion"))
    settings = Settings(1, guidance=1.0)
    ours, released = our_way(job, settings), released_way(job, settings)
    before = job.ct.array[job.mask]
    assert ours.lesion_hu.shape == released.lesion_hu.shape == before.shape
    assert abs(np.median(ours.lesion_hu) - np.median(released.lesion_hu)) < 10
    assert abs(np.median(released.lesion_hu) - np.median(before)) > 20


FLIPPED = ((-1, 0, 0), (0, 0, 1), (0, 1, 0))


@pytest.mark.parametrize(
    ("axes", "spacing_mm", "degrees_xyz"), [(None, (2, 2, 2), (0, 0, 0)), (FLIPPED, (0.8, 1.1, 5), (9, -7, 4))]
)
@pytest.mark.parametrize("edge", [8, 64])
def test_the_whole_volume_contains_the_very_same_window(axes, spacing_mm, degrees_xyz, edge):
    patient = make_geometry((37, 22, 29), spacing_mm, axes, degrees_xyz, (12, -30, 7))
    window = window_grid(patient, (5.0, 11.0, 20.5), 1.7, (edge,) * 3)
    whole, box = whole_around(window, patient, 4)
    assert whole.cropped(box).difference(window) is None
    assert all(n % 4 == 0 for n in (*whole.shape, *box.start, *box.stop))
    covered = box_on_grid(Box.whole(patient.shape), patient, whole)
    assert Box.whole(whole.shape).contains(covered)
    assert all(n <= max(edge, size + 2 * 4) for n, size in zip(whole.shape, covered.shape, strict=True)), "not wasteful"


def test_measuring_channels_last_leaves_the_networks_as_they_were(job):
    networks = forwards(job.models)
    before = {name: one.backbone(*one.inputs) for name, one in networks.items()}
    told = bare_forwards(networks, ceiling=0.5)
    for name, one in networks.items():
        assert told[name]["channels_last_tflops"] > 0
        assert all(p.is_contiguous() for p in one.backbone.parameters())
        assert torch.equal(one.backbone(*one.inputs), before[name])


@pytest.mark.parametrize("whose", ["random", "a bundle's"])
def test_channels_that_are_last_already_are_not_measured_again(whose, tiny, monkeypatch):
    monkeypatch.setattr(convolution, "_halved_on_gpu", lambda x: x.dtype in convolution.HALF)  # a CPU in its place
    from_bundle = whose != "random"
    models = load_models(tiny, CPU, precision="bf16") if from_bundle else random_models(CPU, SMALL, "bf16")
    networks = forwards(models)
    assert all(one.backbone.input_blocks[0][0].weight.stride(1) == 1 for one in networks.values())
    told = bare_forwards(networks, ceiling=0.5)
    assert all(one["channels_last_tflops"] is None for one in told.values())


def test_only_the_released_way_encodes_text_at_every_step(job, monkeypatch):
    calls = []
    encode = job.models.image_text.encode
    monkeypatch.setattr(job.models.image_text, "encode", lambda strings: calls.append(1) or encode(strings))
    our_way(job, Settings(1, "ddim", 5))
    ours = len(calls)
    released_way(job, Settings(1, "ddim", 5))
    assert ours == 2, "one context a network"
    assert len(calls) - ours == 2 + 2 * 5


def test_the_released_way_pays_for_the_whole_volume(job):
    ours, released = (way(job, Settings(1, steps=2)) for way in (our_way, released_way))
    assert released.seconds["encode"] > 3 * ours.seconds["encode"]
    assert next(iter(released.seconds)) == "encode", "which finds out whether there is memory for it"
    assert set(ours.seconds) == set(released.seconds) == {"mask", "encode", "inpaint", "decode", "blend"}
    assert ours.total_seconds == pytest.approx(sum(ours.seconds.values()))


def test_the_table_is_json_and_its_reference_is_the_released_way(job, compared):
    figures = json.loads(json.dumps(compared))
    released, same, defaults = figures["rows"]
    assert [row["name"].split(",")[0] for row in figures["rows"]] == ["released way", "ours", "ours"]
    assert released["ratio"] == 1
    assert released["difference_hu"] == 0
    assert same["ratio"] == pytest.approx(sum(released["seconds"].values()) / sum(same["seconds"].values()))
    assert defaults["name"] == "ours, defaults"
    assert figures["seed_to_seed_hu"] > 0
    for name, x in (("LMNet", (1, 4, 8, 16, 16)), ("LINet", (1, 5, 8, 8, 8))):
        bare, network = figures["forwards"][name], getattr(job.models, name.lower()).denoiser.backbone
        expected = forward_tflop(network, torch.zeros(x), torch.zeros(1), torch.zeros(1, 8, 32))
        assert bare["tflop"] == pytest.approx(expected)
        assert bare["share_of_ceiling"] == pytest.approx(bare["tflops"] / figures["matmul_tflops"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("full"), "The released way does not fit into the memory: no ratio"),
        (
            RuntimeError("output tensor has too many elements\nat"),
            "(output tensor has too many elements): no ratio",
        ),
    ],
)
def test_without_the_released_way_ours_is_told_all_the_same(error, told, job, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(comparison, "released_way", fails)
    figures = json.loads(json.dumps(compare(job, lambda: job, steps=4, repeats=1)))
    assert [(row["name"].split(",")[0], row["ratio"]) for row in figures["rows"]] == [("ours", None)] * 2
    text = as_markdown({"comparison": figures})
    assert told in text
    assert "One evaluation of one sample: LMNet" in text


def test_as_many_steps_of_the_same_sampler_differ_less_than_another_seed(tmp_path):
    job = make_job(fake_models(tmp_path), 30, COARSE_MM)
    figures = enough_steps(job, seeds=2, many=20, counts=(10,))
    assert figures["dpmpp"]["10"]["mask_dice"] > 0.95
    assert figures["dpmpp"]["10"]["difference_hu"] <= figures["seed_to_seed"]["difference_hu"] + 0.5


def test_in_half_precision_the_same_lesion_comes_out(job):
    """The released way stays in float32; what rounding changes is told, and is less than another seed does."""
    ours = dataclasses.replace(job, models=random_models(CPU, SMALL, "bf16"))
    figures = compare(ours, lambda: job, steps=4, repeats=1)
    assert figures["environment"]["precision"] == "bf16"
    assert next(ours.models.linet.denoiser.backbone.parameters()).dtype == torch.bfloat16
    assert figures["rounding_hu"] < 0.5 * figures["seed_to_seed_hu"], "zero where the codebook takes the rounding away"


def test_the_released_way_has_no_guidance(job, monkeypatch):
    heard = {}

    def recorded(way):
        return lambda job, settings: heard.setdefault(way.__name__, []).append(settings) or way(job, settings)

    for way in (our_way, released_way):
        monkeypatch.setattr(comparison, way.__name__, recorded(way))
    compare(job, lambda: job, steps=4, repeats=1)
    assert [settings.guidance for settings in heard["released_way"]] == [1.0]
    assert [s for s in heard["our_way"] if s == heard["released_way"][0]], "ours once with the same settings"
    assert [s for s in heard["our_way"] if s.guidance is None], "and once with its own"


def test_lesions_that_the_bundle_does_not_take_are_left_out_of_its_growth(tiny, monkeypatch):
    models, asked = load_models(tiny, CPU), []
    monkeypatch.setattr(growth, "_seconds", lambda phantom, models, mm=30, **settings: asked.append(mm) or 0.1)
    monkeypatch.setattr(growth, "lesions_per_minute", lambda *_: 1.0)
    monkeypatch.setattr(growth, "SPACINGS_MM", (6.0,))
    figures = growth.cost_growth(models)
    limit_mm = min(largest_in_all((models.lmnet.window, models.linet.window)))
    assert 40 <= limit_mm < 80, "or this tests nothing"
    assert [point["x"] for point in figures["lesion_mm"]] == [10, 20, 40]
    assert max(asked) <= limit_mm


def test_a_process_that_fails_does_not_keep_the_others_waiting():
    barrier = threading.Barrier(2)
    with pytest.raises(BundleError):
        growth._worker(("nowhere", "cpu", None, False, "fp32"), 1, 1, 2, barrier)
    assert barrier.broken


def test_what_is_measured_is_kept_when_the_next_part_fails(tiny, compared, tmp_path, monkeypatch):
    def fails(*_):
        raise SettingsError("no growth today")

    monkeypatch.setattr(comparison, "compare", lambda *_: compared)
    monkeypatch.setattr(growth, "cost_growth", fails)
    arguments = ["--bundle", str(tiny.folder), "--device", "cpu", "--steps", "3", "--repeats", "1", "--growth"]
    assert main(["benchmark", *arguments, "--spacing-mm", "5", "--out", str(tmp_path)]) == 2
    assert "comparison" in json.loads((tmp_path / "benchmark.json").read_text())


def test_processes_share_the_work():
    models = load_models(open_bundle("starter"), CPU)
    assert growth.lesions_per_minute(models, 2, each=1, steps=2) > 0


def test_the_command_prints_and_writes(tiny, tmp_path, capsys):
    arguments = ["--bundle", str(tiny.folder), "--device", "cpu", "--steps", "3", "--repeats", "1"]
    out = tmp_path / "out"
    assert main(["benchmark", *arguments, "--spacing-mm", "5", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| released way, DDIM 3 |" in printed
    written = json.loads((out / "benchmark.json").read_text())
    assert written["command"].startswith("lesiondiffusion benchmark")
    assert (out / "benchmark.md").read_text().startswith("`lesiondiffusion benchmark")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "must be above 0"),
        (["--threads", "0"], "expected at least 1 thread, got 0"),
        (["--threads", "-1"], "expected at least 1 thread, got -1"),
        (["--margin-mm", "-1"], "must be above 0"),
        (["--enough-steps", "0"], "must be above 0"),
        (["--growth", "--released-size"], "use a bundle instead"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--size-mm", "4000"], "make the lesion smaller"),
    ],
)
def test_a_users_mistake_is_told_in_one_line(arguments, message, capsys):
    assert main(["benchmark", "--device", "cpu", "--spacing-mm", "6", *arguments]) == 2
    assert message in capsys.readouterr().err
