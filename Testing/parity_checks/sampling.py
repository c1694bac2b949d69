"""Checkers of schedules, sampler runs and training losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from LesionDiffusionLib.diffusion.denoiser import Condition, Denoiser
from LesionDiffusionLib.diffusion.known_region import KnownRegion
from LesionDiffusionLib.diffusion.losses import dice_loss, released_masked_l1, released_weighted_l2
from LesionDiffusionLib.diffusion.samplers import SamplerStep, ddim, ddim_std, unconstrained
from LesionDiffusionLib.diffusion.schedule import NoiseSchedule, PathStep, released_path
from LesionDiffusionLib.linet import LatentMask
from LesionDiffusionLib.networks.blocks import timestep_embedding
from parity_checks.networks import smallest_margin, unet, vqgan
from parity_checks.record import Check, ParityError, Tensors, closest, compare, compare_scalar

LESION = 2  # label of lesions in the released label maps
PARAMETRIZATIONS = {"eps": "epsilon", "v": "v", "x0": "x0"}


def check_sampler_lmnet(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    denoiser = released_denoiser(spec, tensors.state_dict())
    condition = Condition(tensors["in/context"], tensors["in/cond_maps"])
    yield from check_path(spec, tensors)
    for eta in (1, 0):
        steps = run_ddim(partial(denoiser, condition=condition), spec, tensors, eta)
        yield compare(f"out/x_steps_eta{eta}", stacked(steps, "x"), tensors[f"out/x_steps_eta{eta}"])
        yield from check_ends(steps, tensors, eta)
    m_0, t, noise = tensors["in/loss_m0"], tensors["in/loss_t"], tensors["in/loss_noise"]
    m_t = denoiser.schedule.add_noise(m_0, noise, t)
    yield compare("out/loss_x_noisy", m_t, tensors["out/loss_x_noisy"])
    box = condition.maps[:, -1:]
    predicted = denoiser.backbone_output(m_t, t, condition)
    loss = released_weighted_l2(predicted, denoiser.target(m_0, noise, t), box, spec["fg_loss_weight"])
    yield compare_scalar("out/loss", loss, tensors["out/loss"])


def check_sampler_linet(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    prefixes = {role: prefix for prefix, role in spec["sd_prefixes"].items()}
    denoiser = released_denoiser(spec, tensors.state_dict(prefixes["denoiser"]))
    autoencoder = vqgan(spec["vq"], tensors.state_dict(prefixes["autoencoder"]))
    z_0 = autoencoder.encode(tensors["in/image"])
    mask = LatentMask().channel((tensors["in/label"] == LESION).float()[:, None])
    yield compare("out/z0", z_0, tensors["out/z0"])
    yield compare("out/mask_latent", mask, tensors["out/mask_latent"], exact=True)
    yield from check_path(spec, tensors)
    condition, region = Condition(tensors["in/context"], mask), KnownRegion(z_0, mask)
    for eta in (1, 0):
        free: list[Tensor] = []  # x each time before the known latents come back over it
        constrain = partial(remembering, region, free)
        steps = run_ddim(partial(denoiser, condition=condition), spec, tensors, eta, constrain)
        before, after = torch.stack(free[1:]), stacked(steps, "x")
        moments = [before, after, torch.cat([before[:-1], after[-1:]])]
        yield closest(f"out/x_steps_eta{eta}", moments, tensors[f"out/x_steps_eta{eta}"])
        yield from check_ends(steps, tensors, eta)
        if eta == 1 or f"out/decoded_eta{eta}" in tensors:
            decoded = autoencoder.decode(steps[-1].x)
            yield compare(f"out/decoded_eta{eta}", decoded, tensors[f"out/decoded_eta{eta}"])
        if eta == 1 and "out/decode_margin_min" in tensors:
            margin = smallest_margin(autoencoder, steps[-1].x)
            yield compare_scalar("out/decode_margin_min", margin, tensors["out/decode_margin_min"])
    yield from check_linet_loss(denoiser, condition, region, tensors)


def remembering(region: KnownRegion, free: list[Tensor], x: Tensor) -> Tensor:
    """The constraint ``region``, keeping what it is given."""
    free.append(x)
    return region(x)


def check_linet_loss(
    denoiser: Denoiser, condition: Condition, region: KnownRegion, tensors: Tensors
) -> Iterator[Check]:
    z_0, t, noise = region.known, tensors["in/loss_t"], tensors["in/loss_noise"]
    output = denoiser.backbone_output(region(denoiser.schedule.add_noise(z_0, noise, t)), t, condition)
    channels = z_0.shape[1]
    simple = released_masked_l1(output[:, :channels], denoiser.target(z_0, noise, t), region.region)
    dice = dice_loss(output[:, channels : channels + 1], region.region)
    yield compare_scalar("out/loss_simple", simple, tensors["out/loss_simple"])
    yield compare_scalar("out/loss_dice", dice, tensors["out/loss_dice"])
    yield compare_scalar("out/loss", simple + dice, tensors["out/loss"])


def released_denoiser(spec: dict[str, Any], state_dict: dict[str, Tensor]) -> Denoiser:
    return Denoiser(unet(spec["unet"], state_dict), noise_schedule(spec), PARAMETRIZATIONS[spec["parameterization"]])


def noise_schedule(spec: dict[str, Any]) -> NoiseSchedule:
    diffusion = spec["diffusion"]
    return NoiseSchedule.scaled_linear(diffusion["linear_start"], diffusion["linear_end"], diffusion["timesteps"])


def run_ddim(
    denoiser: Callable, spec: dict[str, Any], tensors: Tensors, eta: float, constrain: Callable = unconstrained
) -> list[SamplerStep]:
    """All steps along the released path, with the recorded start and noise."""
    draws = iter(tensors["in/noise"])
    path = released_path(noise_schedule(spec), spec["ddim_steps"])
    return list(ddim(denoiser, tensors["in/x_T"], path, eta, lambda like: next(draws), constrain))


def stacked(steps: Sequence[SamplerStep], name: str) -> Tensor:
    return torch.stack([getattr(step, name) for step in steps])


def check_ends(steps: Sequence[SamplerStep], tensors: Tensors, eta: int) -> Iterator[Check]:
    """The sample, and every predicted x_0 (which may be recorded for eta 1 only)."""
    key = f"out/pred_x0_steps_eta{eta}"
    if eta == 1 or key in tensors:
        yield compare(key, stacked(steps, "x0"), tensors[key])
    yield compare(f"out/sample_eta{eta}", steps[-1].x, tensors[f"out/sample_eta{eta}"])


def check_path(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    path = released_path(noise_schedule(spec), spec["ddim_steps"])
    yield compare("sched/ddim_timesteps", column(path, "timestep"), tensors["sched/ddim_timesteps"], exact=True)
    for name, values in ddim_tables(path).items():
        yield compare(f"sched/ddim_{name}", values, tensors[f"sched/ddim_{name}"])


def column(path: Sequence[PathStep], name: str) -> Tensor:
    """One field of the path, from the least noisy step to the noisiest, as it is recorded."""
    return torch.tensor([getattr(step, name) for step in reversed(path)], dtype=torch.float64)


def ddim_tables(path: Sequence[PathStep]) -> dict[str, Tensor]:
    alphas = column(path, "alpha_cumprod")
    stds = [ddim_std(level, next_level, 1.0) for _, level, next_level in reversed(path)]
    return {
        "alphas": alphas,
        "alphas_prev": column(path, "next_alpha_cumprod"),
        "sigmas": torch.tensor(stds, dtype=torch.float64),
        "sqrt_one_minus_alphas": (1 - alphas).sqrt(),
    }


def check_schedule(spec: dict[str, Any], tensors: Tensors) -> Iterator[Check]:
    released = NoiseSchedule.scaled_linear()
    yield compare("alphas_cumprod_f64", released.alphas_cumprod, tensors["alphas_cumprod_f64"])
    yield compare("betas_f64", betas(released), tensors["betas_f64"])
    yield compare("cosine/betas_f64", betas(NoiseSchedule.cosine()), tensors["cosine/betas_f64"])
    tables = [key.removesuffix("/timesteps") for key in tensors.keys("ddim") if key.endswith("/timesteps")]
    if not tables:
        raise ParityError("the tensor ddimN/timesteps is missing")
    for name in tables:
        yield from check_ddim_tables(name, released, tensors)
    for key in tensors.keys("timestep_embedding_dim"):
        width, *timesteps = (int(number) for number in re.findall(r"\d+", key))
        yield compare(key, timestep_embedding(torch.tensor(timesteps), width), tensors[key])


def betas(schedule: NoiseSchedule) -> Tensor:
    table = schedule.alphas_cumprod
    return 1 - table / torch.cat([torch.ones_like(table[:1]), table[:-1]])


def check_ddim_tables(name: str, released: NoiseSchedule, tensors: Tensors) -> Iterator[Check]:
    recorded = tensors[f"{name}/timesteps"]
    for precision, dtype in (("fp32_table", torch.float32), ("fp16_table", torch.float16)):
        path = released_path(NoiseSchedule(released.alphas_cumprod.to(dtype)), len(recorded))
        tables = ddim_tables(path)
        if dtype == torch.float16:
            tables |= half_precision_tables(tables["alphas"], tables["alphas_prev"])
        yield compare(f"{name}/timesteps", column(path, "timestep"), recorded, exact=True)
        for table, values in tables.items():
            key = f"{name}/{precision}/{'sigmas_eta1' if table == 'sigmas' else table}"
            yield compare(key, values, tensors[key])


def half_precision_tables(alphas: Tensor, alphas_prev: Tensor) -> dict[str, Tensor]:
    """The release takes 1 - alpha, its root and its reciprocal in half precision.

    Our samplers compute in double precision from whatever table they are given, so for these two columns the record
    shows only that table and timesteps are right.
    """
    noise = 1 - alphas.half()
    variances = (1 - alphas_prev) * noise.reciprocal().double() * (1 - alphas / alphas_prev)
    return {"sigmas": variances.sqrt(), "sqrt_one_minus_alphas": noise.sqrt()}
