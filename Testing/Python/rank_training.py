"""Run by one or several processes: trains each network a few steps and writes the losses of every step.

python rank_training.py PREPARED_FOLDER LOSSES.json SAMPLES_PER_PROCESS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from training_cases import RELEASED_VQGAN, tiny_training

from LesionDiffusionLib.training import ranks
from LesionDiffusionLib.training.bundling import Part
from LesionDiffusionLib.training.inputs import Inputs
from LesionDiffusionLib.training.loop import optimize
from LesionDiffusionLib.training.prepared import PreparedCases
from LesionDiffusionLib.training.trainer import make_job

# The last bits of one process and two differ. Where two codes are equally near they decide between them, and the losses
# part from there on. With these settings no latent meets such a tie.
ADVERSARIAL = (
    *RELEASED_VQGAN,
    "whole_every=8",
    "loop.learning_rate=1.2e-3",
    "losses.adversarial=hinge",
    "losses.adversarial_from=1",
    "losses.discriminator_norm=group",
)


def main(data: Path, out: Path, batch: int) -> None:
    torch.set_num_threads(1)
    trainings = {
        "vqgan": tiny_training("vqgan", f"loop.batch={batch}", *ADVERSARIAL, "losses.slices=true"),
        "lmnet": tiny_training("lmnet", f"loop.batch={batch}", "flip=true"),
        "linet": tiny_training("linet", f"loop.batch={batch}", "flip=true"),
    }
    cases, autoencoder, told = PreparedCases(data), None, {}
    device = torch.device("cpu")
    with ranks.joined_ranks(device):
        for network, training in trainings.items():
            job = make_job(training, Inputs(data, device, autoencoder), cases, lambda step, rows: None)
            reports = []
            state = optimize(job.objective, training.loop, reports.append)
            told[network] = [report.raw for report in reports]
            if network == "vqgan":
                autoencoder = Part(training.network, job.finish(state))
        if ranks.rank() == 0:
            out.write_text(json.dumps({"world": ranks.world_size(), "losses": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
