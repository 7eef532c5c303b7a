import pytest
import torch
from torch import nn

from dilib.classifier import frozen_copy
from dilib.feature_statistics import FeatureStatistics, MovingAverage, Observed


def textbook_statistics(network, images):
    """Hooks, stock mean and variance, stock autograd: slow and plainly right."""
    means, variances, handles = {}, {}, []
    for name, module in getattr(network, "network", network).named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def hook(_, inputs, name=name):
                features = inputs[0] if inputs[0].dtype == torch.float64 else inputs[0].float()
                means[name] = features.mean((0, 2, 3))
                variances[name] = features.var((0, 2, 3), correction=0)

            handles.append(module.register_forward_pre_hook(hook))
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, FeatureStatistics(means, variances)


def textbook_gradient(network, images, stored):
    logits, seen = textbook_statistics(network, images)
    return torch.autograd.grad(logits.double().square().sum() + stored.distance(seen), images)[0], seen


def observed_gradient(network, images, stored, dtype):
    observed = Observed(network, dtype)
    logits, seen = observed(images.to(dtype)), observed.moments
    return torch.autograd.grad(logits.double().square().sum() + stored.distance(seen), images)[0], seen


def error(tensor, reference):
    return ((tensor - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_statistics_and_gradient_agree_with_a_float64_reference(network, dtype, tolerance):
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    stored, reference = FeatureStatistics.from_batchnorm(network), network.double()
    expected, seen = textbook_gradient(reference, images, stored)
    gradient, moments = observed_gradient(reference, images, stored, dtype)
    assert error(gradient, expected) < tolerance
    for name, value in moments.tensors().items():
        assert error(value, seen.tensors()[name]) < tolerance


def test_bfloat16_costs_no_more_than_its_own_error(network):
    images = torch.randn(64, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    stored, reference = FeatureStatistics.from_batchnorm(network), network.double()
    expected, seen = textbook_gradient(reference, images, stored)
    stock, _ = textbook_gradient(frozen_copy(reference, torch.bfloat16), images, stored)
    gradient, moments = observed_gradient(reference, images, stored, torch.bfloat16)
    assert error(gradient, expected) < 1.1 * error(stock, expected)
    # The sums are kept in fp32: the first layer sees features rounded to 8 bits, and their mean is better than that.
    assert error(moments.means["0.1"], seen.means["0.1"]) < 2**-8


def test_statistics_over_many_batches_are_those_of_one(network):
    images = torch.randn(50, 3, 32, 32)
    whole = Observed(network, torch.float32).moments_of(images)
    split = FeatureStatistics.from_images(network, images, batch_size=16)
    torch.testing.assert_close(split.tensors(), whole.tensors(), rtol=1e-4, atol=1e-4)


def test_stored_statistics_are_the_running_ones_and_observing_changes_nothing(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = FeatureStatistics.from_batchnorm(network)
    assert torch.equal(stored.means["0.1"], network[0][1].running_mean)
    observed = Observed(network, torch.float32)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(observed(images), network(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_batchnorm_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^Sequential has no BatchNorm layer .*DeepInversion needs"):
        FeatureStatistics.from_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_joined_statistics_are_those_of_all_images(network):
    images = torch.randn(40, 3, 32, 32) + torch.linspace(0, 2, 40).view(-1, 1, 1, 1)
    first, second = (FeatureStatistics.from_images(network, part) for part in images.split([30, 10]))
    whole, joined = FeatureStatistics.from_images(network, images), first.joined(second, share=0.25)
    torch.testing.assert_close(joined.tensors(), whole.tensors(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.like(joined.tensors()).tensors(), joined.tensors(), rtol=0, atol=0)


def test_a_moving_average_has_the_newest_statistics_whole_gradient():
    """1, 3, 7 with a memory of 3/4: 1, then 3/4 + 3/4 = 1.5, then 1.125 + 1.75 = 2.875."""
    average, seen = MovingAverage(0.75), []
    for value in (1.0, 3.0, 7.0):
        newest = torch.tensor([value], requires_grad=True)
        found = average(FeatureStatistics({"layer": newest}, {"layer": 10 * newest}))
        (found.means["layer"] + found.variances["layer"]).sum().backward()
        seen.append((found.means["layer"].item(), found.variances["layer"].item(), newest.grad.item()))
    assert seen == [(1.0, 10.0, 11.0), (1.5, 15.0, 11.0), (2.875, 28.75, 11.0)]
