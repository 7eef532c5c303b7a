"""Every loss of the paper, one pure function each. Norms are ℓ2 and not squared, as the paper writes them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """KL(p_T, p_S) with both softmaxes at `temperature`, mean over the batch; logits (N, K) → scalar, nats. Eq. 1."""
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    student = F.log_softmax(student_logits / temperature, dim=1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def total_variation(images: Tensor) -> Tensor:
    """R_TV: ℓ2 norms of the differences to four one-pixel shifts, summed; (N, C, H, W) → scalar. Eq. 3, Sec. B.1."""
    return _TotalVariation.apply(images)


def total_variation_l1(images: Tensor) -> Tensor:
    """The ℓ1 form of R_TV: mean absolute difference to each of the four shifts, summed. Sec. E.1."""
    return sum((one - other).abs().mean() for one, other in _neighbours(images))


def _neighbours(images: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Views of the images and of their shifts by one pixel: horizontal, vertical, two diagonals."""
    return (
        (images[..., :, 1:], images[..., :, :-1]),
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )


class _TotalVariation(torch.autograd.Function):
    """R_TV, its gradient gathered in one tensor: stock slicing would copy the images once for each of eight views."""

    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:
        differences = [one - other for one, other in _neighbours(images)]
        norms = torch.stack([torch.linalg.vector_norm(difference) for difference in differences])
        ctx.save_for_backward(images, norms, *differences)
        return norms.sum()

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        images, norms, *differences = ctx.saved_tensors
        gradient = torch.zeros_like(images)
        factors = torch.where(norms > 0, grad_output / norms, 0)
        for (one, other), difference, factor in zip(_neighbours(gradient), differences, factors, strict=True):
            scaled = difference * factor
            one += scaled
            other -= scaled
        return gradient


def l2_norm(images: Tensor) -> Tensor:
    """R_ℓ2: the ℓ2 norm of the whole batch; (N, C, H, W) → scalar. Eq. 3."""
    return torch.linalg.vector_norm(images)


def image_prior(images: Tensor, alpha_tv: float, alpha_l2: float) -> Tensor:
    """R_prior = α_tv·R_TV + α_ℓ2·R_ℓ2; (N, C, H, W) → scalar. Eq. 3."""
    return alpha_tv * total_variation(images) + alpha_l2 * l2_norm(images)


def feature_distance(
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    expected_means: Sequence[Tensor],
    expected_variances: Sequence[Tensor],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """R_feature: Σ_l w_l (‖μ_l − E[μ_l]‖ + ‖σ²_l − E[σ²_l]‖) over layers l, tensors (channels,) → scalar. Eq. 4.

    There, every layer has the weight w_l = 1.
    """
    weights = [1.0] * len(means) if weights is None else weights
    distances = [
        weight * torch.linalg.vector_norm(batch - expected)
        for weight, batch, expected in zip(
            (*weights, *weights), (*means, *variances), (*expected_means, *expected_variances), strict=True
        )
    ]
    return torch.stack(distances).sum()


def jensen_shannon(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """JS(p_T, p_S) = ½(KL(p_T, M) + KL(p_S, M)), M = ½(p_T + p_S), mean over the batch; in [0, ln 2]. Eq. 8."""
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    student = F.log_softmax(student_logits / temperature, dim=1)
    mixture = torch.logaddexp(teacher, student) - math.log(2)
    return 0.5 * (
        F.kl_div(mixture, teacher, log_target=True, reduction="batchmean")
        + F.kl_div(mixture, student, log_target=True, reduction="batchmean")
    )


def competition(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """R_compete = 1 − JS(p_T, p_S): falls as teacher and student disagree; logits (N, K) → scalar. Eq. 8."""
    return 1.0 - jensen_shannon(teacher_logits, student_logits, temperature)


def clip_to_pixel_range(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """x̂ ← min(max(x̂, −m/s), (1−m)/s): normalised images whose pixels all lie in [0, 1]; m, s (C,). Eq. 16."""
    mean, std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    return torch.clamp(images, -mean / std, (1 - mean) / std)
