"""What a training is told: one frozen dataclass per network. Presets and files are in `presets.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from LesionDiffusionLib.dataclass_json import from_json
from LesionDiffusionLib.diffusion.denoiser import PREDICTIONS
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule
from LesionDiffusionLib.errors import SettingsError
from LesionDiffusionLib.latent_change import LatentChange
from LesionDiffusionLib.linet import LatentMask, input_channels, require_one_knee
from LesionDiffusionLib.networks.unet import UNetConfig
from LesionDiffusionLib.networks.vqgan import CODEBOOK_WEIGHT, VQGANConfig
from LesionDiffusionLib.sampling import SamplingOptions
from LesionDiffusionLib.training.loop import ADJUSTABLE, LoopOptions
from LesionDiffusionLib.windowing import WindowRule

SCHEDULES = {"cosine": NoiseSchedule.cosine, "scaled_linear": NoiseSchedule.scaled_linear}
LMNET_LOSSES, LINET_LOSSES = ("paper", "released", "balanced"), ("paper", "released", "masked_l2", "relative_l2")
ADVERSARIES, STARTS, CODEBOOK_STARTS = ("none", "log", "hinge"), ("random", "linear"), ("uniform", "kmeans")


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} is one of {', '.join(allowed)}, got {value!r}")


@dataclass(frozen=True)
class TextOptions:
    """What a denoiser hears.

    Attributes:
        encoder: "biomedclip" (frozen; its folder is given when training) or "vocabulary" (learns with the network).
        spelling: of the strings, "report" (our canonical words) or "released".
        drop_all: share of texts replaced by the empty text, so that guidance means something.
        drop_each: share of single attributes left out, so that a partial report means something.
    """

    encoder: str = "biomedclip"
    spelling: str = "report"
    drop_all: float = 0.1
    drop_each: float = 0.1

    def __post_init__(self) -> None:
        _one_of("text.encoder", self.encoder, ("biomedclip", "vocabulary"))
        _one_of("text.spelling", self.spelling, ("report", "released"))
        if not (0 <= self.drop_all <= 1 and 0 <= self.drop_each < 1):
            raise SettingsError(f"shares of dropped texts lie in 0..1, got {self.drop_all} and {self.drop_each}")

    @property
    def guidable(self) -> bool:
        """Whether the network learns what an empty text means."""
        return self.drop_all > 0


@dataclass(frozen=True)
class DenoiserTraining:
    """What the trainings of LMNet and LINet share.

    Attributes:
        window: the network's grid.
        sampling: how the trained network samples by default.
        schedule: "cosine" (paper) or "scaled_linear" (released).
        prediction: what the backbone predicts: "epsilon", "v" or "x0".
        flip: mirror half of the cases left to right, words included; but none with an organ of one side alone, the
            right middle lung lobe, in its window.
        noise_bias: timesteps are drawn as the largest of so many uniform ones: with 1 they are uniform, above it noisy
            ones come more often, and there the text decides what the noise hides. Need not be whole.
        activation_checkpointing: trade time for memory; changes no value.
    """

    network: UNetConfig
    window: WindowRule
    loop: LoopOptions
    sampling: SamplingOptions
    text: TextOptions = TextOptions()
    schedule: str = "cosine"
    prediction: str = "epsilon"
    flip: bool = False
    noise_bias: float = 1.0
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.noise_bias < 1:
            raise SettingsError(f"noise_bias must be at least 1 (uniform), got {self.noise_bias:g}")
        if self.sampling.guidance != 1 and not self.text.guidable:  # its bundle could not be sampled as it stands
            raise SettingsError(
                f"sampling.guidance needs an empty text that was learned, got {self.sampling.guidance:g} with "
                "text.drop_all=0; set sampling.guidance=1, or text.drop_all=0.1"
            )
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("prediction", self.prediction, PREDICTIONS)

    def require_window(self, divisor: int) -> None:
        """SettingsError unless the window can be halved as often as the network does."""
        if not self.window.is_multiple_of(divisor):
            raise SettingsError(f"window.shape is divisible by {divisor} for this network, got {self.window.shape}")

    def require_channels(self, expected: tuple[int, int], loss: str) -> None:
        """SettingsError unless the network has these input and output channels."""
        found = (self.network.in_channels, self.network.out_channels)
        if found != expected:
            raise SettingsError(f'loss "{loss}" needs {expected} input and output channels, got {found}')


@dataclass(frozen=True)
class LMNetTraining(DenoiserTraining):
    """LMNet's training.

    Attributes:
        loss: "paper" (equation 2), "released" (released-model 3.2), or "balanced": equation 2 with the box's weight
            divided by its share of the window, so that a small lesion counts as much as a large one.
        gamma: equation 2's weight of the whole window.
        threshold: binarizes what the network samples, or None for the released sweep.
    """

    loss: str = "paper"
    gamma: float = 0.001
    threshold: float | None = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("loss", self.loss, LMNET_LOSSES)
        self.require_channels((4, 1), self.loss)
        self.require_window(self.network.size_divisor)


@dataclass(frozen=True)
class LINetTraining(DenoiserTraining):
    """LINet's training.

    Attributes:
        loss: "paper" (equation 5), "released" (masked L1 plus the Dice loss of a fifth output channel, released-model
            3.2), "masked_l2": the mean squared error of the generated latents, or "relative_l2": the same over the
            root mean square of the change that the lesion is, so that 30 HU in a liver count beside a stone
            (for rendered pairs, as ``change``).
        latent_mask: how a mask becomes latent, as at inference.
        change: diffuse what the lesion changes instead of what is there. For rendered pairs: patients with a lesion
            have no latents without it.
        normalize_latents: run the diffusion on latents of mean 0 and standard deviation 1.
        whitening: how alike that makes their channels: 1 gives each the deviation 1, 0 only the widest, and the others
            keep their share of it. Where one channel holds the density and the others the edges, 1 leaves the density
            too little of the loss, and 0 the edges.
    """

    loss: str = "paper"
    latent_mask: LatentMask = LatentMask()
    normalize_latents: bool = False
    whitening: float = 1.0
    change: LatentChange | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.whitening <= 1:
            raise SettingsError(f"whitening lies in 0..1, got {self.whitening:g}")
        _one_of("loss", self.loss, LINET_LOSSES)
        self.require_channels((input_channels(self.change), 5 if self.loss == "released" else 4), self.loss)
        if self.network.replaces_shown and self.prediction != "x0":
            raise SettingsError(f'network.replaces_shown says changes: it needs prediction=x0, got "{self.prediction}"')
        require_one_knee(self.network, self.change)
        self.require_window(2 * self.network.size_divisor)  # latents have half the window's size


@dataclass(frozen=True)
class VQGANLosses:
    """Weights of equation 3's terms, and of those the released code has besides (released-model 1.6).

    Attributes:
        l1, l2: of the reconstruction.
        codebook: of the codebook term; the commitment term counts once.
        lpips: of the perceptual distance of one axial slice; needs its weights as a file.
        adversarial: "none", "log" (the paper's) or "hinge" (the released).
        adversarial_weight: times the adaptive weight, the ratio of the gradients at the decoder's last layer.
        adversarial_from: first step with discriminators.
        slices: whether a 2-D discriminator judges one axial slice beside the 3-D one.
        discriminator_norm: "batch" (released) or "group", which does not depend on the batch.
    """

    l1: float = 0.0
    l2: float = 1.0
    codebook: float = CODEBOOK_WEIGHT
    lpips: float = 0.0
    adversarial: str = "none"
    adversarial_weight: float = 0.5
    adversarial_from: int = 25_000
    slices: bool = False
    discriminator_norm: str = "batch"

    def __post_init__(self) -> None:
        _one_of("losses.adversarial", self.adversarial, ADVERSARIES)
        _one_of("losses.discriminator_norm", self.discriminator_norm, ("batch", "group"))
        if self.l1 + self.l2 <= 0:
            raise SettingsError(f"one of losses.l1 and losses.l2 must be above 0, got {self.l1} and {self.l2}")


@dataclass(frozen=True)
class VQGANTraining:
    """The autoencoder's training.

    Attributes:
        window: of the CT around a lesion, from which crops are cut.
        crop: edge of the random crops in voxels; None trains on whole windows.
        whole_every: with crops, every so many steps one whole window: it keeps the group norms right for inference; 0
            for never.
        start: "random", or "linear": the principal components of small blocks, see `training.linear_start`. Needs a
            network without norms that halves the size once and upsamples "transposed".
        codebook_start: "uniform" (released), or "kmeans": half of the steps without quantization, then k-means centers
            of the latents, and codes nobody uses are moved to where latents are.
    """

    network: VQGANConfig
    window: WindowRule
    loop: LoopOptions
    losses: VQGANLosses = VQGANLosses()
    crop: int | None = None
    whole_every: int = 8
    start: str = "random"
    codebook_start: str = "uniform"

    def __post_init__(self) -> None:
        _one_of("start", self.start, STARTS)
        _one_of("codebook_start", self.codebook_start, CODEBOOK_STARTS)
        if self.crop is not None and not 8 <= self.crop <= min(self.window.shape):
            raise SettingsError(f"crop lies in 8..{min(self.window.shape)} (the window's edge), got {self.crop}")
        divisor = self.network.downsampling
        if not self.window.is_multiple_of(divisor) or (self.crop or 0) % divisor:
            raise SettingsError(
                f"window.shape and crop are divisible by {divisor}, which the network divides them by; "
                f"got {self.window.shape} and {self.crop}"
            )
        if self.losses.adversarial != "none" and self.losses.adversarial_from >= self.loop.steps:
            raise SettingsError(
                f"losses.adversarial={self.losses.adversarial} would never act: it begins at step "
                f"losses.adversarial_from={self.losses.adversarial_from} of loop.steps={self.loop.steps}; "
                "let it begin earlier, or set losses.adversarial=none"
            )
        if self.start == "linear" and not startable_linearly(self.network):
            raise SettingsError(
                'start "linear" needs network.norm_groups=0, network.upsampling="transposed", a network.sample_depth '
                "of one level, one channel in and out, z_channels up to 8, and twice as many channels"
            )


def startable_linearly(network: VQGANConfig) -> bool:
    """Whether `training.linear_start` can start an autoencoder of this configuration."""
    plain = network.norm_groups == 0 and network.upsampling == "transposed"
    single = network.downsampling == 2 and network.in_channels == network.out_channels == 1
    return plain and single and network.z_channels <= 8 and network.channels >= 2 * network.z_channels


Training = VQGANTraining | LMNetTraining | LINetTraining
# What may differ when a training goes on: settings that change no weight, and those of which the loop keeps a history,
# because whoever was stopped by a NaN must be able to go on with others.
UNDECIDING = ("report_every", "checkpoint_every", "preview_every", "workers", "sampling", "threshold")
UNDECIDING += ("activation_checkpointing",)
MAY_CHANGE = {*UNDECIDING, *ADJUSTABLE}
KINDS: dict[str, type] = {"vqgan": VQGANTraining, "lmnet": LMNetTraining, "linet": LINetTraining}


def deciding(training: Training) -> dict[str, Any]:
    """The settings that decide the weights, as JSON."""
    settings = json.loads(json.dumps(dataclasses.asdict(training)))
    for part in (settings, settings["loop"]):
        for name in part.keys() & MAY_CHANGE:
            del part[name]
    return settings


def config_from_json(network: str, data: dict, where: str) -> Training:
    """A configuration from its JSON. Raises SettingsError."""
    try:
        return from_json(KINDS[network], data, where)
    except ValueError as error:
        raise SettingsError(f"{error}; see 'lesiondiffusion train {network} --dry-run'") from error
