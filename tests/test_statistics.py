import pytest
import torch
from torch import nn

from dilib.statistics import FeatureStatistics, batch_moments, observe, recorded


def textbook_statistics(network, images):
    """Hooks, stock mean and variance, stock autograd: slow and plainly right."""
    means, variances, handles = [], [], []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):

            def hook(_, inputs):
                means.append(inputs[0].mean((0, 2, 3)))
                variances.append(inputs[0].var((0, 2, 3), correction=0))

            handles.append(module.register_forward_pre_hook(hook))
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, FeatureStatistics(tuple(means), tuple(variances))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_observed_network_agrees_with_a_float64_reference(teacher, dtype, tolerance):
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    stored = FeatureStatistics.from_batchnorm(teacher)
    reference = teacher.double()
    logits, seen = textbook_statistics(reference, images)
    (gradient,) = torch.autograd.grad(logits.square().sum() + stored.distance(seen), images)

    observed, layers = observe(reference, dtype)
    ours = observed(images.to(dtype)).to(torch.float64)
    moments = recorded(layers)
    (our_gradient,) = torch.autograd.grad(ours.square().sum() + stored.distance(moments), images)

    assert (our_gradient - gradient).norm() / gradient.norm() < tolerance
    for mean, expected in zip(moments.means, seen.means, strict=True):
        assert (mean - expected).norm() / expected.norm() < tolerance


def test_statistics_over_many_batches_are_those_of_one(teacher):
    images = torch.randn(50, 3, 32, 32)
    observed, layers = observe(teacher, torch.float32)
    whole = batch_moments(observed, layers, images)
    split = FeatureStatistics.from_images(teacher, images, batch_size=16)
    for a, b in zip((*whole.means, *whole.variances), (*split.means, *split.variances), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_stored_statistics_are_the_running_ones_and_observing_changes_nothing(teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    stored = FeatureStatistics.from_batchnorm(teacher)
    assert torch.equal(stored.means[0], teacher[0][1].running_mean)
    observed, _ = observe(teacher, torch.float32)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(observed(images), teacher(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_network_without_batchnorm_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^Sequential has no BatchNorm layer .*DeepInversion needs"):
        FeatureStatistics.from_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3)))
