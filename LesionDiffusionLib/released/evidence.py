"""What the released files say about how they were trained, weighed and put into words (released-model 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.released.layout import ReleasedFile, UNetWeights

TRAIN_STEPS = 1000
KNOWN_SCHEDULES = {
    "scaled linear, as in the released code": NoiseSchedule.scaled_linear,
    "cosine, as in the paper": NoiseSchedule.cosine,
}
SCHEDULE_TOLERANCE = 2e-3  # relative; covers a table that was once rounded to half precision
PROJECTION = "context_linear_projection.weight"
TEXT_CHOICES = ("auto", "use", "skip")


@dataclass
class Findings:
    """Sentences for the user, gathered along the way."""

    evidence: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def note_weights(file: ReleasedFile, weights: UNetWeights, findings: Findings) -> None:
    """Which of its two sets of weights is used, and how long it was trained."""
    checkpoint = file.checkpoint
    counters = {"epoch": checkpoint.epoch, "step": checkpoint.global_step}
    trained = ", ".join(f"{name} {value}" for name, value in counters.items() if value is not None)
    if not weights.averaged:
        findings.warnings.append(
            f"{file.name} holds no moving average (EMA) of its weights; the raw ones are used in its place"
        )
    elif weights.updates == 0:
        findings.warnings.append(f"the moving average (EMA) in {file.name} was never updated: it may be untrained")
    updates = "" if weights.updates is None else f" of {weights.updates} updates"
    kind = f"moving average (EMA){updates}" if weights.averaged else "raw weights"
    findings.evidence.append(f"{file.name}: {kind}{f'; saved at {trained}' if trained else ''}")


def noise_schedule(file: ReleasedFile, findings: Findings) -> Tensor:
    """alpha-bar (1000,) as the file has it; released-model 3.1's scaled linear table where it has none.

    Raises BundleError for a table that is no noise schedule of 1000 steps.
    """
    table = file.checkpoint.tensors.get("alphas_cumprod")
    if table is None:
        findings.warnings.append(f"{file.name} holds no noise schedule; the released code's (scaled linear) is used")
        return NoiseSchedule.scaled_linear(num_train_steps=TRAIN_STEPS).alphas_cumprod.float()
    if tuple(table.shape) != (TRAIN_STEPS,):
        raise BundleError(
            f"expected a noise schedule of {TRAIN_STEPS} steps in {file.checkpoint.path}, found alphas_cumprod of "
            f"shape {tuple(table.shape)}; give the published {file.name}"
        )
    try:
        schedule = NoiseSchedule(table)
    except ValueError as error:
        raise BundleError(f"{file.checkpoint.path} is no usable {file.name}: {error}") from error
    ends = f"alpha-bar {schedule.alphas_cumprod[0]:.6f} to {schedule.alphas_cumprod[-1]:.3e}"
    if (name := schedule_name(schedule)) is None:
        findings.warnings.append(f"the noise schedule of {file.name} ({ends}) is not a known one; it is used as it is")
    findings.evidence.append(f"{file.name}: noise schedule {name or 'unknown'} ({ends})")
    return table


def schedule_name(schedule: NoiseSchedule) -> str | None:
    """The known schedule whose table this is, within rounding, or None."""
    for name, make in KNOWN_SCHEDULES.items():
        known = make(num_train_steps=schedule.num_train_steps).alphas_cumprod
        if torch.allclose(schedule.alphas_cumprod, known, rtol=SCHEDULE_TOLERANCE, atol=1e-7):
            return name
    return None


def linet_hears_text(weights: UNetWeights, choice: str, findings: Findings) -> bool:
    """Whether LINet shall be given the report (released-model 1.4 and 10.1).

    Args:
        weights: LINet's.
        choice: "auto" follows the evidence, and where it decides nothing the authors' training configuration, which
            uses the text; "use" and "skip" are the user's own decision.
        findings: gets the decision and its reason, and a warning when the user decides against the evidence.
    """
    trained, reason = projection_evidence(weights)
    if choice == "auto":
        hears = trained is not False
        basis = "as in the authors' training configuration" if trained is None else "as the weights show"
    else:
        hears, basis = choice == "use", "as the user chose"
    decision = f"report text {'used' if hears else 'skipped'}"
    findings.evidence.append(f"LINet.ckpt: {decision}, {basis} ({reason})")
    if trained is not None and trained is not hears:
        findings.warnings.append(f"LINet.ckpt: {decision} against the evidence ({reason})")
    return hears


def projection_evidence(weights: UNetWeights) -> tuple[bool | None, str]:
    """Was the projection of the text context ever trained? True, False or None for undecided, and why.

    A layer that never had a gradient is bit-equal to its moving average and keeps its initial uniform range. Training
    ends both: the initial weights fill their range to the edge. One without the other has another cause (weight decay
    alone, a later freezing) and decides nothing.
    """
    raw, averaged = weights.raw.get(PROJECTION), weights.averaged.get(PROJECTION)
    known = averaged if raw is None else raw
    limit, largest = known.shape[-1] ** -0.5, float(known.abs().max())
    inside, distance = largest <= limit * (1 + torch.finfo(known.dtype).eps), _distance(raw, averaged)
    if distance == 0:
        trained, compared = False if inside else None, "equals its average"
    else:
        trained = None if inside else True
        compared = "has no average" if distance is None else f"lies up to {distance:.1e} from its average"
    verdict = {True: "trained", False: "never trained", None: "undecided"}[trained]
    extent = f"its largest weight {largest:.4f} is {'within' if inside else 'beyond'} the initial {limit:.4f}"
    return trained, f"{verdict}: the context projection {compared}, {extent}"


def _distance(a: Tensor | None, b: Tensor | None) -> float | None:
    if a is None or b is None or a.shape != b.shape:
        return None
    return float((a.float() - b.float()).abs().max())


def first_of(what: str, copies: Sequence[tuple[str, Mapping[str, Tensor]]], findings: Findings) -> Mapping[str, Tensor]:
    """The first of several (file name, tensors) copies of a network; says whether the others agree."""
    (source, used), *others = copies
    findings.evidence.append(f"{what}: from {source}")
    for other, tensors in others:
        if all(torch.equal(used[name].float(), tensors[name].float()) for name in used):
            findings.evidence.append(f"{what}: {other} holds the same")
        else:
            findings.warnings.append(f"the {what} in {other} differs from that in {source}; that of {source} is used")
    return used
