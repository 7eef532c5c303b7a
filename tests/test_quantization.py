import pytest
import torch
from torch import nn

from dilib import networks
from dilib.compression.quantization import ActivationGrid, WeightGrid, quantized
from dilib.experiments import quantization
from dilib.study.cells import Study

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["vgg11_bn", "resnet18"])
def network(request):
    torch.manual_seed(0)
    built = networks.create(request.param, 4, width=1 / 8)
    for _ in range(20):
        built(torch.randn(16, 3, 32, 32))  # BatchNorm's statistics settle
    return built.eval()


def test_weights_fall_on_the_nearest_of_seven_levels_by_channel():
    weight = torch.tensor([[3.0, -1.4, 0.6], [0.3, 0.04, -0.16]])
    expected = torch.tensor([[3.0, -1.0, 1.0], [0.3, 0.0, -0.2]])
    torch.testing.assert_close(WeightGrid(3)(weight), expected)


def test_activations_keep_the_range_of_the_images_that_set_it():
    grid = ActivationGrid(4)
    ramp = torch.arange(16.0)
    assert torch.equal(grid(ramp), ramp)
    torch.testing.assert_close(grid(torch.tensor([20.0, -1.0, 7.4])), torch.tensor([15.0, 0.0, 7.0]))


def test_one_outlier_does_not_set_the_range():
    values = torch.cat([torch.linspace(0, 1, 10_000), torch.tensor([8.0])])
    grid = ActivationGrid(4)
    rounded = grid(values)[:-1]
    assert (rounded - values[:-1]).square().mean() < (8 / 15) ** 2 / 12 / 4  # a grid up to 8 has steps of 8/15


@torch.no_grad()
def test_more_bits_come_closer_to_the_whole_network(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    whole = network(IMAGES)
    errors = [(quantized(network, IMAGES, bits)(IMAGES) - whole).norm() / whole.norm() for bits in (8, 6, 4, 2)]
    assert errors == sorted(errors)
    assert errors[0] < errors[1] / 2 < 0.2  # two bits are four times the error, or nearly
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_gradients_pass_through_the_rounding(network):
    student = quantized(network, IMAGES, 4)
    student(IMAGES).square().sum().backward()
    gradients = [parameter.grad for parameter in student.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


class Twice(nn.Module):
    """One convolution that is called twice, each time with another BatchNorm behind it."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, images):
        images = self.first(self.conv(self.stem(images))).relu()
        return self.head(self.second(self.conv(images)).relu().mean((2, 3)))


@torch.no_grad()
def test_a_convolution_used_twice_is_folded_for_each_use():
    torch.manual_seed(0)
    network = Twice()
    for norm in (network.first, network.second):
        nn.init.uniform_(norm.weight, 0.5, 4.0)
    for _ in range(20):
        network(IMAGES)
    whole = network.eval()(IMAGES)
    assert (quantized(network, IMAGES, 8)(IMAGES) - whole).norm() / whole.norm() < 0.02


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        found = self.conv(images).mean((2, 3))
        return found if found.sum() > 0 else -found


def test_a_network_that_can_not_be_traced_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"Branching can't be quantised .*; torch.fx must be able to") as error:
        quantized(Branching(), IMAGES, 8)
    assert len(str(error.value).splitlines()) == 1


def test_bits_out_of_range_are_refused(network):
    with pytest.raises(ValueError, match="9 bits are out of range; choose from 2 to 8"):
        quantized(network, IMAGES, 9)


def test_cells_of_every_source(tmp_path):
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    assert quantization.available(study) == ["noise", "real", "proxy", "gan", "deepinversion", "amortised"]
    tasks = [(source, bits, bits == 4) for source in quantization.available(study) for bits in (8, 4)]
    cells = dict(zip(tasks, study.run(quantization.quantized_cell(study, *task) for task in tasks), strict=True))
    eight, four = cells["real", 8, False], cells["real", 4, True]
    assert abs(eight["metrics"]["top1"] - eight["metrics"]["teacher_top1"]) < 3
    assert len(four["metrics"]["history"]) == 1


class Padded(nn.Conv2d):
    """A layer of somebody else's that does as torch's own."""

    def forward(self, images):
        return self._conv_forward(images, self.weight, self.bias)


class Centred(nn.Conv2d):
    """One that computes with other weights than it has."""

    def forward(self, images):
        return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)


class Gated(nn.Conv2d):
    """One that has further weights."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight_gate = nn.Parameter(torch.randn(4, 4))

    def forward(self, images):
        found = super().forward(images)
        return found * (found.mean((2, 3)) @ self.weight_gate)[:, :, None, None].sigmoid()


class Exponential(nn.Conv2d):
    """One that reads other values than it is given."""

    def forward(self, images):
        return super().forward(images.exp())


class Product(nn.Module):
    """One that multiplies by a matrix itself."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(32, 32))

    def forward(self, images):
        return (images @ self.matrix)[:, :1].expand(-1, 4, -1, -1)


class Normed(nn.Conv2d):
    """One with a BatchNorm inside."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(super().forward(images))


class Functional(nn.Module):
    """One that calls the function itself."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight)


def followed(layer):
    return nn.Sequential(layer, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@torch.no_grad()
def test_a_layer_derived_from_torchs_is_rounded_and_folded_as_that():
    torch.manual_seed(0)
    derived, plain = followed(Padded(3, 4, 3)), followed(nn.Conv2d(3, 4, 3))
    for _ in range(20):
        derived(IMAGES)
    plain.load_state_dict(derived.state_dict())
    torch.testing.assert_close(*(quantized(each.eval(), IMAGES, 4)(IMAGES) for each in (derived, plain)))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Functional(), "conv2d is no nn.Conv2d or nn.Linear; build it of these"),
        (nn.ConvTranspose2d(3, 4, 3), "0 is no nn.Conv2d or nn.Linear; build it of these"),
        (Centred(3, 4, 3), "0 changes its input or its weight, has others"),
        (Exponential(3, 4, 3), "0 changes its input or its weight, has others"),
        (Product(), "matmul is no nn.Conv2d or nn.Linear; build it of these"),
        (nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), "0 computes its weight from others; call remove_weight_norm"),
        (Gated(3, 4, 3), "0 changes its input or its weight, has others"),
        (Normed(3, 4, 3), "0 changes its input or its weight, has others"),
    ],
    ids=["function", "other", "centred", "exponential", "product", "weight norm", "gated", "normed"],
)
def test_weights_that_would_not_be_rounded_as_they_are_used_are_refused(layer, said):
    network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=f"Sequential can't be quantised: {said}"):
        quantized(network, IMAGES, 4)


class Named(nn.Module):
    """Layers that are called by name, and BatchNorm behind linear layers, without statistics, and over tokens."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.bare = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.without, self.tokens = nn.BatchNorm2d(8, track_running_stats=False), nn.Linear(28, 6)
        self.over, self.hidden, self.second = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        images = self.norm(input=self.conv(input=images)).relu()
        images = self.without(self.bare(images)).relu().mean(2)
        return self.head(self.second(self.hidden(self.over(self.tokens(images)).mean(2))).relu())


@torch.no_grad()
@pytest.mark.parametrize("build", [Named, lambda: followed(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))])
def test_what_is_not_folded_says_the_same(build):
    torch.manual_seed(0)
    network = build()
    for _ in range(20):
        network(IMAGES)
    whole, coarse = network.eval()(IMAGES), quantized(network, IMAGES, 8)
    assert (coarse(IMAGES) - whole).norm() / whole.norm() < 0.02
    assert not hasattr(coarse, "second"), "folded into the linear layer"
