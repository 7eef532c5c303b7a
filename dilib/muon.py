"""Muon: steps for convolutions that are orthogonalised, so that a student learns more from each update."""

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.'s coefficients
ITERATIONS = 3
LARGE = 256  # rows and columns of a matrix, from which bfloat16 pays


class Muon(torch.optim.SGD):
    """SGD with Nesterov momentum, and Muon for the weights of convolutions (Jordan et al., 2024).

    A convolution's momentum, as a matrix of one row a filter, is replaced by one with about the same singular vectors
    and singular values near 1 (those that are very small stay small), times `filter_lr` and √max(1, rows / columns);
    the weights decay by `filter_decay` times that rate. Depthwise convolutions, whose filters have nothing to do with
    each other, and all other weights take the steps of SGD. Matrices of LARGE rows and columns or more are
    orthogonalised in `precision`, as bfloat16 is faster for them, all others in float32.
    (torch.optim.Muon, which this agrees with, takes no convolutions.)
    """

    def __init__(
        self,
        network: nn.Module,
        filter_lr: float = 0.05,
        filter_momentum: float = 0.6,
        filter_decay: float = 0.1,
        precision: torch.dtype = torch.float32,
        **sgd: float,
    ):
        self.precision = precision
        parameters = list(network.parameters())
        filters = {"params": [each for each in parameters if _is_matrix(each)], "filters": True}
        others = {"params": [each for each in parameters if not _is_matrix(each)], "filters": False}
        filters |= {"lr": filter_lr, "weight_decay": filter_decay, "momentum": filter_momentum}
        super().__init__([group for group in (filters, others) if group["params"]], **sgd, nesterov=True)

    @torch.no_grad()
    def step(self) -> None:
        """One update: of filters first, whose gradients are then gone, so that SGD passes them by."""
        for group in self.param_groups:
            for weight in group["params"] if group["filters"] else ():
                if weight.grad is not None:
                    self._turn(weight, group)
                    weight.grad = None
        super().step()

    def _turn(self, weight: Tensor, group: dict) -> None:
        state, lr = self.state[weight], group["lr"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
        matrix = weight.grad.add(momentum, alpha=group["momentum"]).flatten(1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        precision = self.precision if min(matrix.shape) >= LARGE else torch.float32
        turned = orthogonalised(matrix.to(precision)).view_as(weight)
        weight.mul_(1 - lr * group["weight_decay"]).add_(turned, alpha=-lr * scale)


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.shape[1] > 1


def orthogonalised(matrix: Tensor) -> Tensor:
    """About UVᵀ of a matrix UΣVᵀ, by a few steps of a Newton-Schulz iteration."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide, (a, b, c) = wide / (wide.norm() + 1e-7), NEWTON_SCHULZ
    # Every iterate is a small square matrix, a polynomial of the first Gram matrix, times the wide one.
    gram, factor = wide @ wide.T, torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal().add_(a)
        factor, gram = polynomial @ factor, polynomial @ gram @ polynomial
    found = factor @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.T
