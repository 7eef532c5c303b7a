"""New classes for a trained network."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dilib import continual, continual_data, data, learner
from dilib.data import Split
from dilib.extension import (
    ExtensionSettings,
    dreams_term,
    extend,
    learn_new_classes,
    lwf_mc_loss,
    memory_term,
    shift_to_binary,
)
from dilib.models import Preprocessing
from dilib.statistics import FeatureStatistics
from dilib.study import Study
from dilib.training import TrainingSettings, train

LN = torch.log


def logits_of(*probabilities):
    return LN(torch.tensor([probabilities], dtype=torch.float64))


def test_terms_by_hand():
    old, new = logits_of(0.5, 0.5), logits_of(0.25, 0.25, 0.5)
    assert dreams_term(old, new).item() == pytest.approx(0.6931472)  # ln 2: half of p_k is on the new class
    assert memory_term(old, new).item() == pytest.approx(0, abs=1e-12)  # restricted to old classes, they agree
    assert memory_term(logits_of(0.75, 0.25), new).item() == pytest.approx(0.1308120)  # .75 ln 1.5 + .25 ln .5
    zero = torch.zeros(1, 3, dtype=torch.float64)
    # Every output says one half: three times ln 2 whatever the targets.
    assert lwf_mc_loss(zero[:, :2], zero, torch.tensor([2])).item() == pytest.approx(3 * 0.6931472)


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    new = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([3, 4, 3, 4])
    for loss in (
        lambda logits: dreams_term(old, logits),
        lambda logits: memory_term(old, logits),
        lambda logits: lwf_mc_loss(old, logits, labels),
    ):
        assert torch.autograd.gradcheck(loss, (new,))


def test_an_extended_network_keeps_what_it_says_of_old_classes(teacher):
    images = torch.randn(8, 3, 32, 32)
    before = teacher.state_dict()["2.weight"].clone()
    extended = extend(teacher, 3, seed=0)
    assert extended(images).shape == (8, 7)
    torch.testing.assert_close(extended(images)[:, :4], teacher(images))
    assert teacher(images).shape == (8, 4)
    assert torch.equal(teacher.state_dict()["2.weight"], before)
    assert torch.equal(extended[-1].bias[4:], teacher[-1].bias.mean().expand(3))
    with pytest.raises(ValueError, match="no BatchNorm layer"):
        extend(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 1, seed=0)


def test_a_shift_towards_binary_changes_no_answer(teacher):
    images = torch.randn(8, 3, 32, 32)
    before = teacher(images).detach()
    shift_to_binary(teacher, before)
    after = teacher(images).detach()
    torch.testing.assert_close(after.softmax(1), before.softmax(1))
    assert after.logsumexp(1).mean().item() == pytest.approx(0, abs=1e-6)


def test_learning_rate_falls_to_a_fifth_four_times():
    settings = ExtensionSettings(updates=600, lr=1.0)
    rates = [settings.lr_at(update) for update in (0, 199, 200, 300, 400, 500, 599)]
    assert rates == pytest.approx([1, 1, 0.2, 0.04, 0.008, 0.0016, 0.0016])


@pytest.fixture(scope="module")
def half_digits():
    return continual_data.halves(data.load("digits"), range(5))


@pytest.fixture(scope="module")
def five_digits(half_digits):
    from dilib import models

    old, _ = half_digits
    torch.manual_seed(0)
    network = models.create("vgg11_bn", classes=5, channels=1, width=1 / 8)
    images = old.preprocessing.normalise(old.train.pixels)
    train(network, images, old.train.labels, TrainingSettings(epochs=8, batch_size=100, flip=False))
    return network


def test_halves_are_whole_and_counted_from_zero(half_digits):
    whole = data.load("digits")
    old, new = half_digits
    assert (old.classes, new.classes) == (tuple("01234"), tuple("56789"))
    assert len(old.train.labels) + len(new.train.labels) == 1500
    sixes = whole.train.pixels[whole.train.labels == 6]
    assert torch.equal(new.train.pixels[new.train.labels == 1], sixes)


def test_memories_keep_old_classes_and_new_ones_are_learnt(half_digits, five_digits):
    old, new = half_digits
    settings = ExtensionSettings(updates=120, batch_size=50, lr=0.3, clip=1.0, shift=1, flip=False)
    extended = extend(five_digits, 5, seed=0)
    statistics = [value.clone() for name, value in extended.state_dict().items() if "running" in name]
    arriving = Split(new.train.pixels, new.train.labels + 5)
    learn_new_classes(five_digits, extended, old.train, arriving, old.preprocessing, settings, "oracle_distill")
    seen = FeatureStatistics.from_batchnorm(extended)
    known = learner.Known(extended, old.preprocessing, old.classes + new.classes, (0, 5), seen)
    assert learner.top1(known, old.test, 0) > 80
    assert learner.top1(known, new.test, 5) > 80
    frozen = [value for name, value in extended.state_dict().items() if "running" in name]
    assert all(torch.equal(*pair) for pair in zip(statistics, frozen, strict=True))
    taken_for = learner.guessed(known, [old.test, new.test])
    assert taken_for.sum(1).tolist() == pytest.approx([100, 100])
    assert taken_for.diagonal().min() > 80


def test_only_the_modules_named_learn(half_digits, five_digits):
    old, new = half_digits
    extended = extend(five_digits, 5, seed=0)
    before = {name: value.clone() for name, value in extended.state_dict().items()}
    last = [name for name, module in extended.named_modules() if isinstance(module, nn.Linear)][-1]
    settings = ExtensionSettings(updates=2, batch_size=20, shift=1, trained=(last,))
    arriving = Split(new.train.pixels, new.train.labels + 5)
    learn_new_classes(five_digits, extended, old.train, arriving, old.preprocessing, settings, "oracle_distill")
    changed = {name for name, value in extended.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{last}.weight", f"{last}.bias"}


def test_dreams_of_added_classes_aim_at_statistics_of_what_was_added(tmp_path, monkeypatch, half_digits):
    """After an addition, the next dreams' statistics are the mixture of BatchNorm's and the added images' own."""
    study = Study("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    _, new = half_digits
    added = replace(new, classes=tuple("ABCDE"))
    monkeypatch.setattr(continual, "data_sets", lambda study, names: [study.data, *(added for _ in names)])
    monkeypatch.setattr(continual, "learn_new_classes", lambda *arguments, **_: None)
    known, _ = continual._after(study, "vgg11_bn", ("digits",), "oracle_distill", 0)
    stored = FeatureStatistics.from_batchnorm(known.network)
    looked_at = continual_data.some(added.train, learner.WATCHED).pixels
    seen = FeatureStatistics.from_images(known.network, known.preprocessing.normalise(looked_at))
    torch.testing.assert_close(known.statistics.means[3], (2 * stored.means[3] + seen.means[3]) / 3)
    recipe = learner.recipe(study, "vgg11_bn", known, "deepinversion", 0)
    assert recipe.card != replace(recipe, statistics=None).card
    assert sorted(recipe.classes) == list(range(15))


def test_half_of_a_lone_validation_split_stands_in_for_training_images(tmp_path, monkeypatch):
    pixels = torch.arange(2000, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    nothing = Split(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    test = Split(pixels, torch.arange(2000) // 2)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, 4)
    whole = data.Data("imagenet", "ImageNet", nothing, test, tuple(map(str, range(1000))), preprocessing)
    monkeypatch.setattr(continual_data, "_loaded", lambda *_: whole)
    study = Study("smoke", "imagenet", tmp_path / "results", tmp_path / "artifacts")
    (base,) = continual_data.data_sets(study, ())
    assert base.train.labels.tolist() == base.test.labels.tolist() == list(range(1000))
    assert not (base.train.pixels == base.test.pixels).any()


def test_grey_images_are_added_to_a_network_that_takes_colours(tmp_path):
    study = Study("smoke", "photographs", tmp_path / "results", tmp_path / "artifacts")
    continual_data.check(study, ("digits",))
    colours, digits = continual_data.data_sets(study, ("digits",))
    assert colours.train.pixels.shape[1] == digits.train.pixels.shape[1] == digits.test.pixels.shape[1] == 3
    assert (digits.train.pixels[:, :1] == digits.train.pixels).all()
    assert not (colours.train.pixels[:, :1] == colours.train.pixels).all()


def test_a_chain_reuses_its_first_link(tmp_path, monkeypatch, half_digits):
    """Adding A, then A and B: the second run starts from the weights that the first left."""
    study = Study("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    old, new = half_digits
    sets = {"A": replace(new, classes=tuple("ABCDE")), "B": replace(old, classes=tuple("FGHIJ"))}
    monkeypatch.setattr(continual, "data_sets", lambda study, added: [study.data, *(sets[name] for name in added)])
    monkeypatch.setattr(continual_data.data, "slug", lambda name: name)
    learnt = []
    monkeypatch.setattr(
        continual, "learn_new_classes", lambda *arguments, **_: learnt.append(arguments[3].labels.min())
    )
    first = continual.cell(study, "vgg11_bn", ("A",), "oracle_distill", 0)
    both = continual.cell(study, "vgg11_bn", ("A", "B"), "oracle_distill", 0)
    assert [label.item() for label in learnt] == [10, 15]
    assert len(first["metrics"]["classes"]) == 15
    assert both["metrics"]["classes"] == [*"0123456789", *"ABCDE", *"FGHIJ"]
    assert {"base", "A", "B", "combined"} <= both["metrics"].keys()


def test_bad_additions_are_refused_in_one_line(half_digits):
    _, new = half_digits
    with pytest.raises(ValueError, match=r"has classes that are known already \(5\); rename them"):
        continual_data.check_addition(["4", "5"], new)
    missing = replace(new, classes=(*new.classes, "ten"))
    with pytest.raises(ValueError, match="has no training image of class 'ten'; remove the class or add images"):
        continual_data.check_addition(["a"], missing)
