"""One student taught by many processes: each takes its share of every batch, and BatchNorm sees whole batches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def processes() -> Iterator[int]:
    """Join the processes that torchrun started, if it did; this one's rank."""
    if "RANK" not in os.environ:
        yield 0
        return
    use_own_accelerator()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def use_own_accelerator() -> None:
    """Each process that torchrun starts on a host gets a GPU of its own, where there are any."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(count: int) -> slice:
    """This process's part of a batch of `count`, all of it where it is alone. Raises ValueError for uneven parts."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    if count % size:
        raise ValueError(f"a batch of {count} can't be shared evenly by {size} processes; choose a multiple of {size}")
    return slice(rank() * count // size, (rank() + 1) * count // size)


def shared(student: nn.Module) -> nn.Module:
    """The student as these processes train it together, its weights the same in all; itself where there is one.

    Changes its BatchNorm layers in place: their statistics in training are the whole batch's.
    """
    if not dist.is_initialized():
        return student
    for parent in list(student.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SharedBatchNorm2d(child))
    # The running statistics stay equal by themselves.
    return DistributedDataParallel(student, forward_sync_buffers=False)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes. nn.SyncBatchNorm does as much, but not on a CPU."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.__dict__.update(norm.__dict__)

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        wide = features.float()
        own = torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))])
        mean, square = _Sum.apply(own) / dist.get_world_size()
        variance = square - mean**2
        self._remember(mean, variance, features.numel() // features.shape[1] * dist.get_world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        columns = (1, -1, 1, 1)
        normalised = (wide - mean.view(columns)) * scale.view(columns) + self.bias.view(columns)
        return normalised.to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs; torch has deprecated its own."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)
