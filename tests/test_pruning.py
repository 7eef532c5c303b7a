"""Filters ranked, gated and removed; latencies looked up."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dilib import networks
from dilib.classifier import Classifier, Preprocessing
from dilib.compression import latency, pruning
from dilib.compression.latency import Kind, LookupTable, Operator
from dilib.compression.pruning import Coupled, Gates, PruningSettings, Target, coupled, prune, removed
from dilib.networks import untrained_imagenet_network

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(name):
    """With BatchNorm statistics that are far from 0 and 1."""
    torch.manual_seed(0)
    lite = name.startswith("efficientnet")
    built = untrained_imagenet_network(name) if lite else networks.create(name, 4, width=1 / 8)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return classifier(built.eval())


def classifier(built, precision=torch.float32):
    return Classifier(built, Preprocessing((0.5,) * 3, (0.25,) * 3, 32), precision=precision)


def endless(images=IMAGES):
    return itertools.repeat((images, torch.arange(len(images)) % 4))


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "efficientnet_lite0"])
def test_closed_gates_say_what_the_network_without_the_filters_says(name):
    whole = network(name)
    gates = Gates(whole, coupled(whole))
    generator = torch.Generator().manual_seed(1)
    for group in list(gates.kept):
        gates.remove(group, torch.randperm(group.channels, generator=generator)[: group.channels // 3])
    smaller = removed(whole, gates.kept)
    with torch.no_grad():
        expected, found = gates(IMAGES), smaller(IMAGES)
    assert sum(p.numel() for p in smaller.parameters()) < 0.6 * sum(p.numel() for p in whole.network.parameters())
    assert not torch.allclose(expected, whole.network(IMAGES), rtol=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def of_torchvision(name, size=64):
    """With BatchNorm statistics that are far from 0 and 1."""
    torch.manual_seed(0)
    built = torchvision.models.get_model(name, weights=None)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return Classifier(built.eval(), Preprocessing((0.5,) * 3, (0.25,) * 3, size))


@pytest.mark.parametrize(
    ("name", "sets"),
    [("densenet121", 58), ("mobilenet_v3_small", 17), ("efficientnet_b0", 24), ("resnext50_32x4d", 5)],
)
def test_what_can_not_be_gated_stays_whole(name, sets):
    """DenseNet's concatenated filters, the inside of squeeze-and-excitation, and grouped convolutions."""
    whole = of_torchvision(name)
    kept = {group: torch.arange(group.channels) >= group.channels // 3 for group in coupled(whole)}
    assert len(kept) == sets
    smaller = removed(whole, kept)  # which compares it with the gated network
    assert smaller(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
    assert sum(p.numel() for p in smaller.parameters()) < 0.8 * sum(p.numel() for p in whole.network.parameters())


class Switched(nn.Module):
    """A gate between BatchNorm and what reads it that is not 0 at 0."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.last, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        features = self.last(self.two(self.norm(self.one(images)).sigmoid())).relu()
        return self.head(features).mean((2, 3))


def test_filters_that_are_read_behind_their_gate_and_classes_stay_whole():
    (group,) = coupled(classifier(Switched().eval()))
    assert (group.convolutions, group.fed, group.channels) == (("two",), ("head",), 8)
    nothing_left = Switched()
    nothing_left.last = nn.Identity()
    with pytest.raises(
        ValueError, match=r"no filters of Switched can be removed: those of (one|two) stay, as "
    ) as error:
        coupled(classifier(nothing_left.eval()))
    assert len(str(error.value).splitlines()) == 1
    headed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="those of 0 stay, as they make the logits"):
        coupled(classifier(headed.eval()))


def test_a_network_that_can_not_be_cut_is_refused_before_it_is_ranked():
    def none_may_be_asked():
        raise AssertionError("ranking began")
        yield

    shuffling = of_torchvision("shufflenet_v2_x0_5")
    with pytest.raises(ValueError, match=r"ShuffleNetV2 can't be traced for pruning .*; prune another network"):
        prune(shuffling, none_may_be_asked(), PruningSettings(), Target("filters", 0.1))


def test_images_that_are_not_square_have_no_latencies():
    wide = Classifier(network("resnet18").network, Preprocessing((0.5,) * 3, (0.25,) * 3, (32, 48)))
    assert len(coupled(wide)) == 12
    with pytest.raises(ValueError, match="no look-up entry can stand for 32×48 images"):
        latency.operators(wide, coupled(wide))


def test_convolutions_that_stay_whole_but_read_less_are_looked_up():
    whole = of_torchvision("mobilenet_v3_small")
    found = {each.outputs is None for each in latency.operators(whole, coupled(whole))}
    assert found == {True, False}


def test_shortcuts_and_depthwise_convolutions_are_coupled():
    by_first = {group.convolutions[0]: group for group in coupled(network("resnet18"))}
    assert by_first["0.0"].convolutions == ("0.0", "0.3.conv2", "0.4.conv2")
    assert by_first["0.0"].norms == ("0.1", "0.3.bn2", "0.4.bn2")
    assert by_first["0.0"].filters == 3 * 8
    lite = coupled(network("efficientnet_lite0"))
    assert ("_blocks.5._depthwise_conv", "_blocks.5._expand_conv") in [group.convolutions for group in lite]
    with pytest.raises(
        ValueError, match="no filters of Sequential can be removed: those of 0 stay, as they have no BatchNorm"
    ):
        coupled(classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))))


def test_importance_is_the_squared_effect_of_a_gate_by_finite_differences():
    whole = classifier(network("resnet18").network.double(), torch.float64)
    gates = Gates(whole, coupled(whole))
    labels = torch.arange(8) % 4

    def loss():
        return F.cross_entropy(gates(IMAGES.double()), labels)

    scores = gates.importance(loss())
    group = next(group for group in scores if len(group.norms) == 3)
    expected = 0.0
    for name in group.norms:
        gate, step = gates.gates[name], 1e-6  # so small that no ReLU changes its mind
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                gate[2] = 1 + sign * step
                values.append(loss().item())
                gate[2] = 1
        expected += ((values[0] - values[1]) / (2 * step)) ** 2
    assert scores[group][2].item() == pytest.approx(expected, rel=1e-6)


def test_filters_that_do_nothing_go_first_and_the_target_is_met():
    torch.manual_seed(0)
    built = networks.create("vgg11_bn", 4, width=1 / 8)
    for _ in range(20):
        built(torch.randn(16, 3, 32, 32))  # BatchNorm's statistics settle, so that every filter does something
    whole, idle = classifier(built.eval()), [3, 4, 10, 11]
    with torch.no_grad():
        norm = built.get_submodule("0.5")  # after the second convolution, 0.4
        for index in idle:
            norm.weight[index] = norm.bias[index] = 0
    settings = PruningSettings(filters=4, group=4, batches=1)
    found = prune(whole, endless(), settings, Target("filters", 4 / 344))
    (changed,) = [group for group, stays in found.kept.items() if not stays.all()]
    assert (changed.convolutions, (~found.kept[changed]).nonzero().flatten().tolist()) == (("0.4",), idle)
    half = prune(whole, endless(), settings, Target("filters", 0.5))
    assert 0.5 <= half.reached < 0.52
    assert half.stopped == ""


def test_no_layer_is_emptied():
    found = prune(
        network("vgg11_bn"), endless(), PruningSettings(filters=64, group=4, batches=1), Target("filters", 0.99)
    )
    assert set(pruning.counts(found.kept).values()) == {4}
    assert "every layer is down to its last 4 filters" in found.stopped


def test_a_costly_layer_goes_first_if_latency_counts():
    whole = network("vgg11_bn")

    def milliseconds(counts):
        return sum((100.0 if group.convolutions == ("0.8",) else 0.1) * count for group, count in counts.items())

    kept = {
        eta: prune(
            whole,
            endless(),
            PruningSettings(filters=8, group=4, batches=1, eta=eta),
            Target("filters", 0.05),
            milliseconds=milliseconds,
        ).kept
        for eta in (0.0, 1.0)
    }
    left = {eta: {g.convolutions[0]: n for g, n in pruning.counts(found).items()} for eta, found in kept.items()}
    assert left[1.0]["0.8"] == 12 < left[0.0]["0.8"]


def test_a_filter_is_worth_its_share_of_the_next_step_down():
    group = coupled(network("vgg11_bn"))[0]

    def stairs(counts):
        return math.ceil(counts[group] / 16)

    assert pruning._saving({group: 20}, group, 2, stairs) == 2 * 1 / 4  # four filters reach the step, two save nothing
    assert pruning._saving({group: 17}, group, 1, stairs) == 1


def test_the_first_groups_are_ranked_although_both_networks_still_agree():
    whole = network("vgg11_bn")
    gates = Gates(whole, coupled(whole))
    loss = pruning._loss(gates, whole.frozen(), IMAGES, torch.zeros(8, dtype=torch.long), "kl")
    assert max(score.max() for score in gates.importance(loss).values()) > 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: Target("filters", 1.0), "a share of 1.0 filters can't be removed; choose one between 0 and 1"),
        (lambda: Target("weights", 0.5), "target 'weights' is unknown; choose from filters, latency"),
        (lambda: Target("latency", -1), "a latency of -1 ms can't be reached"),
        (lambda: PruningSettings(loss="mse"), "loss 'mse' is unknown; choose from kl, ce"),
        (
            lambda: prune(network("vgg11_bn"), endless(), PruningSettings(), Target("latency", 1.0)),
            "needs a look-up table of latencies; measure one first",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        bad()
    assert len(str(error.value).splitlines()) == 1


def test_every_convolution_of_a_network_is_looked_up():
    whole = network("resnet18")
    found = latency.operators(whole, coupled(whole))
    assert len(found) == 20  # ResNet-18's convolutions, with three shortcuts
    assert sum(each.inputs is None for each in found) == 1
    assert {each.kind.size for each in found} == {32, 16, 8, 4}
    lite = network("efficientnet_lite0")
    kinds = {each.kind for each in latency.operators(lite, coupled(lite))}
    assert {kind.depthwise for kind in kinds} == {True, False}
    dilated = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, dilation=2), nn.BatchNorm2d(4))
    dilated = classifier(dilated.append(nn.Flatten()).append(nn.Linear(4 * 26 * 26, 2)))
    with pytest.raises(ValueError, match="no look-up entry can stand for 2"):
        latency.operators(dilated, coupled(dilated))


class CountingClock:
    """Milliseconds by a formula, linear in each of the channels, so that interpolation is exact."""

    batch = 1

    def operator(self, kind, inputs, outputs):
        return 2 * kind.size * (1 + inputs / (outputs if kind.depthwise else 1)) * outputs, 0.5


def test_a_table_sums_its_operators_and_interpolates_between_them(tmp_path):
    wide, narrow = Coupled(("a",), ("x",), ("b",), 64), Coupled(("b",), ("y",), (), 32)
    plain, strided = Kind(3, 1, 1, False, 8), Kind(3, 2, 1, False, 4)
    operators = [Operator(plain, None, wide, 3), Operator(strided, wide, narrow, 64)]
    table = latency.measure(operators, CountingClock(), steps=5)
    # 3 → 50 channels at size 8, then 50 → 20 at size 4
    expected = 8 * (1 + 3) * 50 + 4 * (1 + 50) * 20
    assert table.milliseconds(operators, {wide: 50, narrow: 20}) == pytest.approx(expected)
    latency.save(tmp_path / "table.json", table, torch.device("cpu"))
    again = latency.load(tmp_path / "table.json")
    assert isinstance(again, LookupTable)
    assert again.milliseconds(operators, {wide: 50, narrow: 20}) == pytest.approx(expected)


def test_a_clock_reads_milliseconds():
    clock = latency.Clock(batch=4, device=torch.device("cpu"))
    short, _ = clock.operator(Kind(3, 1, 1, False, 8), 4, 4)
    long, unit = clock.operator(Kind(3, 1, 1, False, 32), 128, 128)
    assert 0 < short < 1 < long
    assert unit > 0
    both = [networks.create("vgg11_bn", 4, width=width) for width in (1 / 16, 1)]
    small, large = clock.networks(both, Preprocessing((0.5,) * 3, (0.25,) * 3, 32))
    assert 0 < small < large
