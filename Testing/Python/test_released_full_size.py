"""Checkpoints with every recorded name and shape, at full size: imported by the command, loaded, and at work."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_geometry
from released_checkpoints import full_size_state, save_checkpoint, save_vocabulary

from LesionDiffusionLib.bundles import open_bundle
from LesionDiffusionLib.diffusion.samplers import SampleNoise
from LesionDiffusionLib.labels import OrganMap, load_table
from LesionDiffusionLib.models import load_models
from LesionDiffusionLib.report import LesionReport
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.synthesis import Settings, synthesize
from LesionDiffusionLib.volume import Volume
from LesionDiffusionLib.wish import Wish

# ru_maxrss would count the parent's memory as well; where there is no /proc, the peak goes unmeasured.
IMPORT = """
import sys
from pathlib import Path
from LesionDiffusionLib.scripts.cli import main
code = main(sys.argv[1:])
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
print("peak MiB", next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0))
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
