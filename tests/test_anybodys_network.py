"""Networks that somebody else built: inverted right, or refused in one line."""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

from dilib import inversion, networks
from dilib.classifier import Classifier, Preprocessing, head_of
from dilib.compression.pruning import coupled
from dilib.compression.quantization import quantized
from dilib.continual.extension import extend
from dilib.distillation import DistillationSettings, distill
from dilib.evaluation import penultimate_features, predict
from dilib.feature_statistics import FeatureStatistics, Observed
from dilib.inversion import Objective, Schedule, invert, updates
from dilib.networks import timm_preprocessing, untrained_imagenet_network
from dilib.pool import Batch

ONE_UPDATE = Schedule(((None, 1),))
DI = Objective(alpha_f=1.0).deepinversion()


def of_size(size, channels=3):
    return Preprocessing([0.5] * channels, [0.25] * channels, size)


def with_statistics(network):
    """In evaluation mode, as if trained: running statistics that are far from 0 and 1."""
    torch.manual_seed(0)
    for layer in network.modules():
        if getattr(layer, "running_mean", None) is not None:
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


def small(norm=nn.BatchNorm2d, channels=3, classes=4):
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norm(8)]
    return with_statistics(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def moments(features):
    dims = [axis for axis in range(features.ndim) if axis != 1]
    return features.mean(dims), features.var(dims, correction=0)


def r_feature(network, layer_inputs):
    """R_feature from its definition, given what each layer reads, by name."""
    layers, total = dict(network.named_modules()), 0.0
    for name, features in layer_inputs.items():
        mean, variance = moments(features)
        total += (mean - layers[name].running_mean).norm() + (variance - layers[name].running_var).norm()
    return total.item()


def first_r_feature(network, images):
    observed = Observed(network, torch.float32)
    logits = observed(images)
    return logits, FeatureStatistics.from_batchnorm(network).distance(observed.moments).item()


class BNAct(nn.BatchNorm2d):
    def forward(self, images):
        return F.silu(super().forward(images))


class ByHand(nn.BatchNorm2d):
    def forward(self, images):
        mean, std = self.running_mean.view(1, -1, 1, 1), (self.running_var + self.eps).sqrt().view(1, -1, 1, 1)
        return (images - mean) / std


class Attending(nn.BatchNorm2d):
    """Its weight depends on its input."""

    def forward(self, images):
        weight = self.weight * images.mean((0, 2, 3)).sigmoid()
        return F.batch_norm(images, self.running_mean, self.running_var, weight, self.bias, False, 0.0, self.eps)


class ByName(nn.BatchNorm2d):
    def forward(self, features):
        return super().forward(input=features)


def patched(channels):
    layer = nn.BatchNorm2d(channels)
    layer.forward = MethodType(lambda self, images: 2 * nn.BatchNorm2d.forward(self, images), layer)
    return layer


NORMS = [nn.BatchNorm2d, BNAct, ByHand, Attending, ByName, patched, FrozenBatchNorm2d]


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_through_any_layer_are_those_of_stock_operations(norm):
    network, images = small(norm).double(), noise(6, 3, 16, 16).double().requires_grad_()
    layers, read = {name: network[int(name)] for name in ("1", "4")}, {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: read.update({name: inputs[0]}))
    expected = network(images).square().sum()
    for name, layer in layers.items():
        mean, variance = moments(read[name])
        expected = expected + (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
    observed = Observed(network, torch.float64)
    found = observed(images).square().sum()
    stored = FeatureStatistics(
        {name: layer.running_mean for name, layer in layers.items()},
        {name: layer.running_var for name, layer in layers.items()},
    )
    found = found + stored.distance(observed.moments)
    torch.testing.assert_close(torch.autograd.grad(found, images), torch.autograd.grad(expected, images))


@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_a_layer_that_is_not_torchs_own_runs_as_it_is_and_is_observed(norm):
    network, images = small(norm), noise(6, 3, 16, 16)
    read = {"1": network[0](images), "4": network[:4](images)}
    logits, distance = first_r_feature(network, images)
    torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert distance == pytest.approx(r_feature(network, read), rel=1e-4)


@torch.no_grad()
def test_a_hook_that_changes_a_layers_output_is_kept():
    network, images = small(), noise(6, 3, 16, 16)
    network[1].register_forward_hook(lambda layer, inputs, output: 3 * output)
    logits, distance = first_r_feature(network, images)
    torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert distance == pytest.approx(r_feature(network, {"1": network[0](images), "4": network[:4](images)}), rel=1e-4)


class OfTokens(nn.BatchNorm1d):
    """Over (N, tokens, channels)."""

    def forward(self, tokens):
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 16, 4, 4), OfTokens(16), nn.Linear(16, 4)

    def forward(self, images):
        return self.head(self.norm(self.embed(images).flatten(2).transpose(1, 2)).mean(1))


@torch.no_grad()
def test_a_layer_over_another_axis():
    network, images = with_statistics(Tokens()), noise(6, 3, 16, 16)
    logits, distance = first_r_feature(network, images)
    torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert distance == pytest.approx(r_feature(network, {"norm": network.embed(images).flatten(2)}), rel=1e-4)


class Siamese(nn.Module):
    """One BatchNorm for two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.norm = nn.BatchNorm2d(8, momentum=None)  # running statistics are the plain average of all calls

    def forward(self, images):
        images = F.relu(self.norm(self.one(images)))
        return self.head(self.norm(3 * self.two(images) + 1).mean((2, 3)))


@torch.no_grad()
def test_calls_of_one_layer_count_as_they_did_in_training():
    """Their averages alike, as running statistics are the average of what each call saw."""
    torch.manual_seed(0)
    network, images = Siamese(), noise(64, 3, 16, 16)
    network(images)
    network.eval()
    first = network.one(images)
    second = 3 * network.two(F.relu(network.norm(first))) + 1
    means, variances = zip(moments(first), moments(second), strict=True)
    expected = (sum(means) / 2 - network.norm.running_mean).norm()
    expected += (sum(variances) / 2 - network.norm.running_var).norm()
    assert first_r_feature(network, images)[1] == pytest.approx(expected.item(), rel=1e-4)


@torch.no_grad()
def test_a_layer_under_two_names_counts_once():
    network, images = small(), noise(6, 3, 16, 16)
    network = nn.ModuleDict({"body": network, "alias": network[1]})
    network.forward = network["body"].forward
    _, distance = first_r_feature(network, images)
    body = network["body"]
    read = {"body.1": body[0](images), "body.4": body[:4](images)}
    assert distance == pytest.approx(r_feature(network, read), rel=1e-4)


def test_layers_that_do_not_run_do_not_count():
    """inception_v3 comes with an auxiliary head, with BatchNorm of its own, that runs in training alone."""
    network = with_statistics(torchvision.models.inception_v3(init_weights=False))
    made = invert(Classifier(network, of_size(96)), [1, 2], DI, ONE_UPDATE)
    assert made.history[0, 2] > 0
    observed = Observed(network, torch.float32)
    observed(noise(2, 3, 96, 96))
    assert len(observed.moments.means) == 94 == len(FeatureStatistics.from_batchnorm(network).means) - 2


class Projecting(nn.Module):
    """A stem that is registered last, and two heads beside the classifier's, one of as many outputs."""

    def __init__(self, classes=10):
        super().__init__()
        self.classifier = nn.Linear(16, classes)
        self.twin, self.projection = nn.Linear(16, classes), nn.Linear(16, 24)
        self.norm, self.late = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)
        self.stem = nn.Conv2d(3, 16, 3)

    def forward(self, images):
        features = self.late(self.norm(self.stem(images))).mean((2, 3))
        self.projected = self.projection(features), self.twin(features)
        return self.classifier(features)


def test_structure_is_read_from_a_forward_pass():
    teacher = Classifier(with_statistics(Projecting()), of_size(16))
    assert (teacher.structure().classes, head_of(teacher)) == (10, "classifier")
    assert len(invert(teacher, [9], DI, ONE_UPDATE).images) == 1
    with pytest.raises(ValueError, match=r"labels 10\.\.10 do not fit the teacher's 10 classes"):
        invert(teacher, [10], DI, ONE_UPDATE)
    with torch.no_grad():
        network, pixels = teacher.network, torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
        images = teacher.preprocessing.normalise(pixels)
        expected = network.late(network.norm(network.stem(images))).mean((2, 3))
    torch.testing.assert_close(penultimate_features(teacher, pixels), expected, rtol=1e-4, atol=1e-5)
    extended = extend(teacher, new=3, seed=0)
    torch.testing.assert_close(extended(images)[:, :10], network(images))
    assert (extended.classifier.out_features, extended.twin.out_features) == (13, 10)


def test_classes_are_not_added_where_more_than_a_layer_makes_the_logits():
    scaled = Answering(lambda logits: logits * torch.arange(4)).eval()
    with pytest.raises(ValueError, match=r"its logits are not those of body\.7 alone; give another"):
        extend(Classifier(scaled, of_size(16)), new=2, seed=0)


def test_a_convolution_may_be_the_head():
    network = torchvision.models.squeezenet1_1()
    teacher = Classifier(network.eval(), of_size(64))
    assert (teacher.structure().classes, head_of(teacher)) == (1000, "classifier.1")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert penultimate_features(teacher, pixels).shape == (2, 512)


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.body, self.answer = small(), answer

    def forward(self, images):
        return self.answer(self.body(images))


class WithLogits:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits: (logits, None),
        lambda logits: {"loss": None, "logits": logits},
        WithLogits,
        lambda logits: logits[:, :, None, None],
    ],
)
def test_logits_are_found_in_the_usual_places(answer):
    network, images = Answering(answer).eval(), noise(6, 3, 16, 16)
    teacher = Classifier(network, of_size(16))
    torch.testing.assert_close(predict(teacher, images), network.body(images), rtol=1e-4, atol=1e-5)
    assert invert(teacher, [1], DI, ONE_UPDATE).history[0, 0] > 0
    history = distill(
        teacher,
        Answering(answer),
        lambda index: Batch(images, torch.zeros(6, dtype=torch.long)),
        (images, torch.zeros(6, dtype=torch.long)),
        DistillationSettings(rounds=1, updates=1, batch_size=6, shift=0),
    )
    assert len(history["student_on_test"]) == 1


class Keeping(nn.Module):
    """Keeps its features, as code that looks at them does, and a list of them."""

    def __init__(self):
        super().__init__()
        self.body, self.kept = small(), []

    def forward(self, images):
        self.features = self.body[0](images)
        self.kept.append({"features": self.features})
        return self.body[1:](self.features)


def test_features_kept_as_an_attribute_do_not_stand_in_the_way():
    network, images = Keeping().eval(), noise(6, 3, 16, 16)
    network(images)
    assert network.features.grad_fn
    teacher = Classifier(network, of_size(16))
    torch.testing.assert_close(predict(teacher, images), network.body(images), rtol=1e-4, atol=1e-5)
    assert len(invert(teacher, [1, 2], Objective(), ONE_UPDATE, student=network).images) == 2
    labels, how = torch.zeros(6, dtype=torch.long), DistillationSettings(rounds=1, updates=1, batch_size=6, shift=0)
    distill(teacher, network, lambda index: Batch(images, labels), (images, labels), how)


class Checkpointing(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.reentrant = small(), reentrant

    def forward(self, images):
        features = checkpoint(self.body[:3], images, use_reentrant=self.reentrant)
        return self.body[3:](features)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointed_layers_are_observed_unless_that_loses_their_gradient():
    images = [
        invert(Classifier(network.eval(), of_size(16)), [1, 2], DI, ONE_UPDATE).images
        for network in (small(), Checkpointing(reentrant=False))
    ]
    torch.testing.assert_close(*images)
    with pytest.raises(
        ValueError, match=r"layer body\.1 reads features without a gradient; take .* reentrant checkpoin"
    ):
        invert(Classifier(Checkpointing(reentrant=True).eval(), of_size(16)), [1, 2], DI, ONE_UPDATE)


def test_reparametrised_weights_are_copied():
    network = small()
    spectral_norm(network[0])
    weight_norm(network[3])
    images = noise(6, 3, 16, 16)
    logits, _ = first_r_feature(network.eval(), images)
    torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert len(invert(Classifier(network, of_size(16)), [1], DI, ONE_UPDATE).images) == 1


class Viewing(nn.Module):
    """Flattens its features by view, which takes them in one order of memory alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 14 * 14, 4)

    def forward(self, images):
        features = self.norm(self.conv(images))
        return self.head(features.view(len(features), -1))


def test_a_network_may_flatten_its_features_by_view():
    teacher, student = Classifier(with_statistics(Viewing()), of_size(16)), Viewing()
    assert len(invert(teacher, [1, 2], Objective(), ONE_UPDATE, student=student).images) == 2
    images, labels = noise(6, 3, 16, 16), torch.zeros(6, dtype=torch.long)
    how = DistillationSettings(rounds=1, updates=1, batch_size=6, shift=0)
    assert len(distill(teacher, student, lambda index: Batch(images, labels), (images, labels), how)["seconds"]) == 1


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, images):
        return self.body(images + torch.randn_like(images))


def test_a_network_that_draws_random_numbers_makes_the_same_images_and_disturbs_no_one():
    teacher, schedule = Classifier(Noisy().eval(), of_size(16)), Schedule(((None, 3),))
    torch.manual_seed(1)
    first = invert(teacher, [1, 2], DI, schedule).images
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after), "the global generator was left as it was"
    torch.rand(5)
    assert torch.equal(invert(teacher, [1, 2], DI, schedule).images, first)
    assert not torch.equal(invert(teacher, [1, 2], DI, schedule, seed=1).images, first)


def test_a_network_that_draws_random_numbers_draws_others_at_every_update(monkeypatch):
    seeds, undisturbed = [], inversion.undisturbed
    monkeypatch.setattr(inversion, "undisturbed", lambda seed: seeds.append(seed) or undisturbed(seed))
    invert(Classifier(Noisy().eval(), of_size(16)), [1, 2], DI, Schedule(((8, 2), (None, 3))), memory=0.5)
    assert len(seeds) == len(set(seeds)) == 5


@pytest.mark.parametrize("size", [24, (24, 40)])
def test_images_are_as_large_as_the_preprocessing_says(size):
    images, _ = next(updates(Classifier(small(), of_size(size)), [1, 2, 3], DI, Schedule()))
    assert images.shape == (3, 3, 24, 24 if size == 24 else 40)


@pytest.mark.parametrize("stages", [((16, 1), (None, 1)), ((None, 1), (16, 1))])
def test_every_stage_is_tried_first(stages):
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16 * 16, 4))
    with pytest.raises(ValueError, match="can't take 32×32 images"):
        invert(Classifier(fixed.eval(), of_size(32)), [1], DI, Schedule(stages))


def test_stages_may_be_of_other_sizes_than_the_preprocessing():
    schedule = Schedule((((12, 20), 2), (None, 2)), jitter=4)
    assert invert(Classifier(small(), of_size((24, 40))), [1], DI, schedule).images.shape == (1, 3, 24, 40)


def test_the_papers_settings_go_by_the_size_of_images():
    """CIFAR-10's up to 64 pixels a side, ImageNet's above (Sec. 4.1, 4.2 and 4.4)."""
    assert Objective.for_images(of_size(32)) == Objective(2.5e-5, 3e-8, 10.0, 10.0)
    assert Objective.for_images(of_size(224)) == Objective(1e-4, 0.0, 0.01, 0.2)
    assert Schedule.for_images(of_size(224)).sized(224).stages == (((112, 112), 2000), (224, 1000))


def test_soft_labels_are_aimed_at_as_a_distribution():
    teacher = Classifier(small(), of_size(16))
    with torch.no_grad():
        teacher.network[7].weight *= 10  # an untrained head hardly tells classes apart
    soft = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    made = invert(teacher, soft, DI.noise(), Schedule(((None, 300),), lr=0.1, flip=False, jitter=0))
    found = predict(teacher, made.images)
    entropy = -(soft * soft.clamp_min(1e-12).log()).sum(1).mean()
    assert F.cross_entropy(found, soft).item() == pytest.approx(entropy.item(), abs=0.05), "the least there can be"


@pytest.mark.parametrize(
    "labels",
    [
        [1, 3],
        np.array([1, 3]),
        torch.tensor([1, 3], dtype=torch.int32),
        torch.eye(4)[[1, 3]],
        [[0, 1, 0, 0], [0, 0, 0, 1]],
    ],
)
def test_labels_come_in_many_forms(labels):
    teacher = Classifier(small(), of_size(16))
    expected = invert(teacher, torch.tensor([1, 3]), DI, ONE_UPDATE)
    torch.testing.assert_close(invert(teacher, labels, DI, ONE_UPDATE).images, expected.images)


@pytest.mark.parametrize(("change", "precision"), [("half", "float32"), ("double", "float32"), ("half", "bfloat16")])
def test_a_teacher_in_half_or_double_precision(change, precision):
    teacher = Classifier(getattr(small(), change)(), of_size(16), precision=getattr(torch, precision))
    made = invert(teacher, [1, 2], DI, ONE_UPDATE)
    assert (made.images.dtype, made.history.isfinite().all()) == (torch.float32, True)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(wrap):
    wrapped = wrap(small())
    assert len(invert(Classifier(wrapped, of_size(16)), [1], DI, ONE_UPDATE).images) == 1


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, images):
        return self.body(images.sub_(1))


class Counting(nn.Module):
    """Its answer depends on how often it was asked."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = small(), 0

    def forward(self, images):
        self.calls += 1
        return self.body(images) * self.calls


def dropout_in_training(network):
    network.append(nn.Dropout())
    return network


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (lambda: small(classes=5), {"student": small()}, "the student has 4 outputs and the teacher 5; give one with"),
        (
            lambda: small().train(),
            {},
            r"the teacher can't be used while it is in training mode; call teacher\.eval\(\)",
        ),
        (lambda: dropout_in_training(small()), {}, r"while its layer 8 is in training mode; call teacher\.eval\(\)"),
        (lambda: small(channels=1), {}, r"the teacher takes images with 1 channel\(s\) but .* has 3; give one"),
        (
            lambda: nn.Sequential(small(), nn.Unflatten(1, (2, 2))).eval(),
            {},
            r"returns a Tensor of shape \(2, 2, 2\) without",
        ),
        (lambda: Answering(lambda logits: "cat").eval(), {}, "returns a str without logits .*; wrap it in a module"),
        (lambda: Answering(lambda logits: None).eval(), {}, "returns a NoneType without logits"),
        (
            lambda: Answering(lambda logits: logits.softmax(1)).eval(),
            {},
            "Answering returns probabilities; have it retu",
        ),
        (lambda: InPlace().eval(), {}, "InPlace changes its input in place; have it change a copy"),
        (
            lambda: Counting().eval(),
            {},
            "a copy of Counting gives logits that are off by .*; have its forward depend on",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)).eval(), {}, "no BatchNorm layer with running statis"),
        (small, {"labels": [0.5, 1.0]}, r"labels of shape \(2,\) and torch\.float32 are neither whole numbers"),
        (small, {"labels": torch.ones(2, 4)}, "soft labels are not distributions; give shares of at least 0"),
        (
            small,
            {"labels": torch.full((2, 5), 0.2)},
            "soft labels have 5 shares each, and the teacher 4 classes; give as",
        ),
        (small, {"labels": "cat"}, "labels 'cat' can't be read; give whole numbers"),
        (lambda: Answering(torch.Tensor.detach).eval(), {}, "Answering gives logits without a gradient; take no_grad"),
        (
            lambda: torch.jit.script(small()),
            {},
            "is scripted, so its layers can't be looked into; give the module that",
        ),
        (
            small,
            {"student": small(channels=1)},
            r"the student takes images with 1 channel\(s\) and the teacher 3; give one for the same",
        ),
    ],
)
def test_what_can_not_be_inverted_is_refused_in_one_line(network, options, message):
    objective = Objective() if "student" in options else DI
    with pytest.raises(ValueError, match=message) as error:
        invert(
            Classifier(network(), of_size(16)), schedule=ONE_UPDATE, objective=objective, **{"labels": [1, 2]} | options
        )
    assert "\n" not in str(error.value)


def test_images_that_are_too_large_are_said_to_be():
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16 * 16, 4))
    with pytest.raises(ValueError, match=r"Sequential can't take 64×64 images .*; use smaller ones, such as 16×16"):
        invert(Classifier(fixed.eval(), of_size(64)), [1], DI, ONE_UPDATE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.5,), (0.0,), 32), r"std \(0\.0,\) are not of pixels in \[0, 1\]"),
        (
            ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), 32),
            r"are not of pixels in \[0, 1\]; divide those of 0 to 255 by",
        ),
        (((0.5,) * 3, (0.25,), 32), "differ in length; give one of each per channel"),
        ((0.5, 0.25, 32), "mean 0.5 is not a list of numbers; give one per channel"),
        (([0.5], [0.25], "32"), "size '32' is not a resolution; give one whole number, or height and width"),
        (([0.5], [0.25], 0), "size 0 is out of range"),
    ],
)
def test_preprocessing_that_can_not_be_meant_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(*arguments)


def test_preprocessing_may_be_given_as_lists():
    listed = Preprocessing([0.5, 0.4, 0.3], np.array([0.25, 0.2, 0.1]), 32)
    assert listed == Preprocessing((0.5, 0.4, 0.3), (0.25, 0.2, 0.1), 32)
    assert listed.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).mean().item() == pytest.approx(4.0)


def families():
    """The rows of the table in docs/networks.md: a network, its image size, and what is said of it."""
    text = (Path(__file__).parent.parent / "docs" / "networks.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.partition("| few bits |\n")[2].splitlines()[1:]]
    assert len(rows) > 20
    for name, size, *said in rows:
        skipped = pytest.mark.skipif(name.startswith("timm/") and not find_spec("timm"), reason="needs timm")
        yield pytest.param(name, int(size), said, id=name, marks=skipped)


def or_refused(work):
    try:
        return work()
    except ValueError as error:
        assert "\n" not in str(error)
        return "refused"


@pytest.mark.parametrize(("name", "size", "said"), list(families()))
def test_families_are_as_the_documentation_has_them(name, size, said):
    network, images = with_statistics(untrained_imagenet_network(name)), noise(2, 3, size, size)
    classifier = Classifier(network, of_size(size))
    assert invert(classifier, [1, 999], DI, ONE_UPDATE).history[0, 2] > 0
    observed = Observed(network, torch.float32)
    with torch.no_grad():
        found, expected = observed(images), network(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    sets = or_refused(lambda: len(coupled(classifier)))
    few_bits = or_refused(lambda: quantized(network, images, 8) and "yes")
    layers = len(observed.moments.means), len(FeatureStatistics.from_batchnorm(network).means)
    assert [*map(str, layers), str(sets), few_bits] == said


@pytest.mark.skipif(not find_spec("timm"), reason="needs timm")
def test_timms_own_data_configuration_is_the_preprocessing():
    found = timm_preprocessing(untrained_imagenet_network("timm/mobilevit_xxs"))
    assert found == Preprocessing((0.0,) * 3, (1.0,) * 3, 256)


def test_a_name_of_timms_without_timm_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"timm/resnet18 needs timm; get it by pip install 'dilib\[timm\]'"):
        networks.check_imagenet_name("timm/resnet18")


class Remembering(nn.Module):
    """Normalises by the batch in evaluation mode, too, and moves its statistics as it does."""

    def __init__(self):
        super().__init__()
        self.body = small()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", None)

    def forward(self, images):
        self.calls, self.last = self.calls + 1, images.mean()
        return F.batch_norm(self.body(images), self.mean, self.var, training=True)


def bn_in_training():
    network = small()
    network[4].train()
    return network


@pytest.mark.parametrize("make", [bn_in_training, lambda: Remembering().eval()])
def test_a_network_is_left_as_it_was(make):
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    refused = pytest.raises(ValueError, match="its layer 4 is in training mode")
    with refused if make is bn_in_training else nullcontext():
        invert(Classifier(network, of_size(16)), [1, 2], DI, ONE_UPDATE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()
