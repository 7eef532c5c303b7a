"""Every equation against numbers worked out by hand, and its gradient against finite differences."""

import math

import pytest
import torch

from dilib import losses
from dilib.baselines import dafl
from dilib.classifier import Preprocessing

LOGITS_OF = {  # softmax of the logits gives the probabilities exactly
    (0.5, 0.5): [0.0, 0.0],
    (0.75, 0.25): [math.log(3), 0.0],
}


def logits(*rows, temperature=1.0):
    return temperature * torch.tensor([LOGITS_OF[row] for row in rows], dtype=torch.float64)


def test_distillation_is_the_mean_divergence_at_the_temperature():
    teacher = logits((0.75, 0.25), (0.5, 0.5), temperature=3.0)
    student = logits((0.5, 0.5), (0.5, 0.5), temperature=3.0)
    by_hand = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert losses.distillation(teacher, student, temperature=3.0).item() == pytest.approx(by_hand)


def test_jensen_shannon_by_hand_and_at_its_bounds():
    teacher, student = logits((0.75, 0.25)), logits((0.5, 0.5))
    mixture = (0.625, 0.375)
    by_hand = 0.5 * (
        0.75 * math.log(0.75 / mixture[0])
        + 0.25 * math.log(0.25 / mixture[1])
        + 0.5 * math.log(0.5 / mixture[0])
        + 0.5 * math.log(0.5 / mixture[1])
    )
    assert losses.jensen_shannon(teacher, student, 1.0).item() == pytest.approx(by_hand)
    assert losses.competition(teacher, teacher, 1.0).item() == pytest.approx(1.0)
    opposite = torch.tensor([[200.0, 0.0]], dtype=torch.float64)
    assert losses.jensen_shannon(opposite, opposite.flip(1), 1.0).item() == pytest.approx(math.log(2))


def test_total_variation_by_hand():
    image = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    # horizontal (1, 4), vertical (3, 6), diagonals (7) and (4 − 2)
    assert losses.total_variation(image).item() == pytest.approx(math.sqrt(17) + math.sqrt(45) + 7 + 2)
    assert losses.total_variation_l1(image).item() == pytest.approx(2.5 + 4.5 + 7 + 2)
    assert losses.image_prior(image, 2.0, 3.0).item() == pytest.approx(
        2 * losses.total_variation(image).item() + 3 * math.sqrt(85)
    )
    even = torch.ones(1, 1, 4, 4, requires_grad=True)
    losses.total_variation(even).backward()
    assert even.grad.tolist() == torch.zeros(1, 1, 4, 4).tolist()


def test_feature_distance_by_hand():
    means, variances = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 2.0])]
    expected_means, expected_variances = [torch.zeros(2)], [torch.tensor([1.0, 0.0])]
    assert losses.feature_distance(means, variances, expected_means, expected_variances).item() == pytest.approx(5 + 2)
    layers = [[*both, *both] for both in (means, variances, expected_means, expected_variances)]
    assert losses.feature_distance(*layers, weights=(10.0, 1.0)).item() == pytest.approx(70 + 7)


def test_clipping_keeps_pixels_between_black_and_white():
    mean, std = torch.tensor([0.5, 0.2]), torch.tensor([0.25, 0.1])
    clipped = losses.clip_to_pixel_range(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2), mean, std)
    assert clipped.flatten().tolist() == pytest.approx([-2.0, 2.0, -2.0, 8.0])


def test_dafls_images_are_as_large_as_the_preprocessing_says():
    settings = dafl.GeneratorSettings(latents=8, width=4)
    generator = dafl.dafl_generator(Preprocessing((0.5,) * 3, (0.25,) * 3, (32, 64)), settings)
    assert generator(torch.randn(2, 8)).shape == (2, 3, 32, 64)


def test_dafl_losses_by_hand():
    certain, undecided = logits((0.75, 0.25)), logits((0.5, 0.5))
    assert dafl.one_hot_loss(certain).item() == pytest.approx(-math.log(0.75))
    assert dafl.activation_loss(torch.tensor([[1.0, -3.0]])).item() == -2.0
    assert dafl.information_entropy_loss(undecided).item() == pytest.approx(-math.log10(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: losses.distillation(x, x.flip(1)),
        lambda x: losses.competition(x, x.flip(1)),
        lambda x: losses.total_variation(x.view(1, 2, 3, 2)),
        lambda x: losses.total_variation_l1(x.view(1, 2, 3, 2)),
        lambda x: losses.image_prior(x.view(1, 2, 3, 2), 0.3, 0.7),
        lambda x: losses.feature_distance([x[0]], [x[1]], [x[2]], [x[3]]),
    ],
)
def test_gradients_agree_with_finite_differences(function):
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
