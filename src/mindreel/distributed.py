"""Several processes that train or sample together: who this one is, its share of a batch, and how they agree.

Under a launcher (torchrun, accelerate) that starts R processes, every process draws the whole global batch with all its
random numbers, takes its R-th of the rows (`share`, `own_rows`, `Dropout`) and runs them through `parallel(model)`: the
gradients, and so the training, are those of one process with the whole batch. A loss over pairs of the batch first
`gather`s what it needs.
"""

import atexit
import os
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mindreel.errors import InputError

PATIENCE = timedelta(hours=2)  # how long processes wait for each other


def world_size() -> int:
    """How many processes work together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0; the first one writes the files."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def join(cuda: bool) -> None:
    """Join the other processes, if there are any and it has not been done."""
    if world_size() > 1 and not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
        atexit.register(distributed.destroy_process_group)


def share(batch_size: int) -> slice:
    """The rows of the global batch that this process takes."""
    own, rest = divmod(batch_size, world_size())
    if rest:
        raise InputError(
            f"a batch of {batch_size} cannot be shared evenly by {world_size()} processes: "
            "choose a number of GPUs that divides it, or another optimizer.batch_size"
        )
    return slice(rank() * own, (rank() + 1) * own)


def parallel(module: nn.Module) -> nn.Module:
    """The module to call in a training step: several processes average its gradients; their means over rows are equal.

    Save and restore the module itself, not this one.
    """
    if world_size() == 1:
        return module
    device = next(module.parameters()).device
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, forward_sync_buffers=False
    )


def own_rows(draw: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
    """Of what `draw(N)` makes for the N samples of the global batch, the rows of this process, which has `count`."""
    batch_size = count * world_size()
    return draw(batch_size)[share(batch_size)]


class Dropout(nn.Dropout):
    """Dropout of this process's rows (N, ...) by masks that are drawn for the global batch."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        if world_size() == 1 or not self.training:
            return super().forward(rows)
        return rows * own_rows(lambda count: F.dropout(rows.new_ones(count, *rows.shape[1:]), self.p), len(rows))


def gather(rows: torch.Tensor) -> torch.Tensor:
    """The global batch from each process's rows (N, ...) -> (N processes, ...); gradients flow back to their process.

    Each process computes the same loss of the whole batch from it, and `parallel` divides the sum of their gradients by
    the number of processes: what remains is the gradient of that loss.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[share(len(gradient))]


def average(value: torch.Tensor) -> torch.Tensor:
    """The mean of a detached tensor over all processes."""
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
        value /= world_size()
    return value


def largest(value: torch.Tensor) -> torch.Tensor:
    """The largest of all processes' values, element by element; `value` (CPU) itself is overwritten."""
    if world_size() > 1:
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return value
