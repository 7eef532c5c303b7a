"""Muon for convolutions, beside torch's own for matrices."""

import pytest
import torch
from torch import nn

from dilib.muon import ITERATIONS, LARGE, Muon, orthogonalised

RATES = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def network():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(16, 16, 1, groups=16)
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        depthwise,
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 4),
    )
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def step(optimizer, network, seed):
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(images).pow(2).mean().backward()
    gradients = [each.grad.clone() for each in network.parameters()]
    optimizer.step()
    return gradients


def test_convolutions_take_torch_s_muon_steps_as_matrices_and_all_else_sgd_s():
    mine, filters, others = network(), [], []
    copies = [nn.Parameter(each.detach().clone()) for each in mine.parameters()]
    for index, copy in enumerate(copies):
        if copy.ndim == 4 and copy.shape[1] > 1:
            copies[index] = nn.Parameter(copy.detach().flatten(1))
        (filters if copies[index].ndim == 2 and copy.ndim == 4 else others).append(copies[index])
    muon = Muon(mine, filter_lr=0.05, filter_momentum=0.6, filter_decay=0.1, **RATES)
    theirs = [
        torch.optim.Muon(filters, lr=0.05, weight_decay=0.1, momentum=0.6, ns_steps=ITERATIONS),
        torch.optim.SGD(others, **RATES, nesterov=True),
    ]
    before = [copy.detach().clone() for copy in copies]
    for seed in range(3):
        for copy, gradient in zip(copies, step(muon, mine, seed), strict=True):
            copy.grad = gradient.reshape(copy.shape)
        for optimizer in theirs:
            optimizer.step()
    for weight, copy, old in zip(mine.parameters(), copies, before, strict=True):
        assert not torch.equal(copy, old)
        moved = (copy - old).norm()
        # Theirs orthogonalises in bfloat16.
        assert (weight.reshape(copy.shape) - copy).norm() < (0.02 if weight.ndim == 4 else 1e-6) * moved


def test_only_large_matrices_are_orthogonalised_in_bfloat16():
    moves = {}
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        layers = [nn.Conv2d(32, LARGE - 1, 3), nn.Conv2d(32, LARGE, 3)]
        before = [layer.weight.detach().clone() for layer in layers]
        for layer in layers:
            layer.weight.grad = torch.randn_like(layer.weight)
        Muon(nn.Sequential(*layers), precision=precision, **RATES).step()
        moves[precision] = [layer.weight.detach() - old for layer, old in zip(layers, before, strict=True)]
    (small, large), (small_in_half, large_in_half) = moves.values()
    assert torch.equal(small, small_in_half)
    assert 0 < (large - large_in_half).norm() < 0.02 * large.norm()


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_singular_values_come_to_lie_about_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonalised(matrix)
    assert ((values := torch.linalg.svdvals(found)) > 0.6).all()
    assert (values < 1.3).all()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    # The singular vectors stay: in their base the matrix is diagonal.
    base = left.T @ found @ right.T
    torch.testing.assert_close(base, base.diag().diag(), atol=1e-4, rtol=0)
    assert not orthogonalised(torch.zeros(shape)).any(), "a gradient of zero moves nothing"


def test_what_was_saved_goes_on_as_if_it_had_not_been():
    whole, first = network(), network()
    one, other = Muon(whole, **RATES), Muon(first, **RATES)
    for seed in range(2):
        step(one, whole, seed), step(other, first, seed)
    again = network()
    again.load_state_dict(first.state_dict())
    restored = Muon(again, **RATES)
    restored.load_state_dict(other.state_dict())
    step(one, whole, 2), step(restored, again, 2)
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
