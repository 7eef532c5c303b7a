"""Muon: steps for convolutions that are orthogonalised, so that a student learns more from each update."""

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.'s coefficients: singular values come to lie about 1
STEPS = 3  # of the iteration, enough for networks of this size
MOMENTUM = 0.6


class Muon(torch.optim.SGD):
    """SGD with Nesterov momentum, and Muon for the weights of convolutions (Jordan et al., 2024).

    A convolution's momentum, as a matrix of one row a filter, is replaced by the nearest matrix whose rows (or columns,
    where there are fewer) are orthonormal, times `filter_lr`; its weights decay by `filter_decay` times that rate.
    (torch.optim.Muon, which this agrees with, takes no convolutions.)
    """

    def __init__(self, network: nn.Module, filter_lr: float = 0.05, filter_decay: float = 0.1, **sgd: float):
        parameters = list(network.parameters())
        filters = {"params": [each for each in parameters if each.ndim == 4], "filters": True}
        others = {"params": [each for each in parameters if each.ndim != 4], "filters": False}
        filters |= {"lr": filter_lr, "weight_decay": filter_decay, "momentum": MOMENTUM}
        super().__init__([group for group in (filters, others) if group["params"]], **sgd, nesterov=True)

    @torch.no_grad()
    def step(self, closure=None):
        """One update: of filters first, whose gradients are then gone, so that SGD passes them by."""
        for group in self.param_groups:
            for weight in group["params"] if group["filters"] else ():
                if weight.grad is not None:
                    self._turn(weight, group)
                    weight.grad = None
        return super().step(closure)

    def _turn(self, weight: Tensor, group: dict) -> None:
        state, lr = self.state[weight], group["lr"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
        matrix = weight.grad.add(momentum, alpha=group["momentum"]).flatten(1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        weight.mul_(1 - lr * group["weight_decay"]).add_(orthogonalised(matrix).view_as(weight), alpha=-lr * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About UVᵀ of a matrix UΣVᵀ, by a few steps of a Newton-Schulz iteration."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide, (a, b, c) = wide / (wide.norm() + 1e-7), NEWTON_SCHULZ
    for _ in range(STEPS):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
