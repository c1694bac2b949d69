"""One training on several processes, as `torchrun` starts them.

Every process draws the whole batch and computes its share, and gradients are averaged: N processes of batch B do what
one process of batch N * B does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from LesionDiffusionLib.errors import TrainingError


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[None]:
    """Join the other processes of `torchrun`, if there are any; ``device`` is this process's own.

    Raises TrainingError when there should be others and they cannot be found.
    """
    world = announced_size()
    if world == 1:
        yield
        return
    if device.type == "cuda":
        _require_own_gpu(device, world)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise TrainingError(
            f"WORLD_SIZE is {world}, but the other processes cannot be joined: {str(error).splitlines()[0]:.200}; "
            "start the training with torchrun, or unset WORLD_SIZE"
        ) from error
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others, who wait for this process


def _require_own_gpu(device: torch.device, world: int) -> None:
    """Raises TrainingError where several processes would share a GPU, or cannot talk from one to another."""
    if not dist.is_nccl_available():
        raise TrainingError(
            f"expected NCCL for {world} processes on GPUs, and this torch {torch.__version__} has none (on Windows "
            "none has); train with one process, without torchrun, or on Linux"
        )
    own = int(os.environ.get("LOCAL_RANK", device.index or 0))
    if device.index != own:
        raise TrainingError(
            f"expected a GPU of its own for each of {world} processes, got {device} for number {own}; "
            "leave --device at auto"
        )


def announced_size() -> int:
    """Number of processes that `torchrun` has started, whether they are joined yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """Number of processes of this training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes files and messages."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(items: int) -> slice:
    """Which of ``items`` drawn by every process this one computes; ``items`` is a multiple of the world size."""
    own = items // world_size()
    return slice(rank() * own, (rank() + 1) * own)


def mean(value: Tensor) -> Tensor:
    """The mean of a detached value over all processes."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


def gathered(rows: Tensor) -> Tensor:
    """The rows (N, ...) of all processes, in their order."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def copy_first(tensor: Tensor) -> None:
    """Make ``tensor`` the first process's: sums over many values end differently on every GPU."""
    if world_size() > 1:
        dist.broadcast(tensor.detach(), 0)


def require_same_step(step: int, device: torch.device) -> None:
    """Raises TrainingError unless all processes stand at the same step."""
    steps = gathered(torch.tensor([step], device=device)).tolist()
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes stand at different steps: {', '.join(map(str, steps))}; expected one --out that all of "
            "them see, with one checkpoint"
        )


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes.

    A parameter that took no part in any process's loss keeps no gradient, so that the optimizer skips it as it would
    in a single process.
    """
    if world_size() == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    taking_part = [p for p, is_used in zip(parameters, used.tolist(), strict=True) if is_used]
    for parameter in taking_part:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for work in [dist.all_reduce(p.grad, async_op=True) for p in taking_part]:
        work.wait()
    for parameter in taking_part:
        parameter.grad /= world_size()
