"""New classes for a trained network."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dilib import data, networks
from dilib.classifier import Classifier, Preprocessing
from dilib.continual.extended import WATCHED, Extended, some, taken_for, top1
from dilib.continual.extension import (
    ExtensionSettings,
    Lesson,
    dreams_term,
    extend,
    learn_new_classes,
    lwf_mc_loss,
    memory_term,
    shift_to_binary,
)
from dilib.data import Split
from dilib.experiments import continual_data, table7_continual
from dilib.feature_statistics import FeatureStatistics
from dilib.study.cells import Study
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


def test_an_extended_network_keeps_what_it_says_of_old_classes(teacher, network, preprocessing):
    images = torch.randn(8, 3, 32, 32)
    before = network.state_dict()["2.weight"].clone()
    extended = extend(teacher, 3, seed=0)
    assert extended(images).shape == (8, 7)
    torch.testing.assert_close(extended(images)[:, :4], network(images))
    assert network(images).shape == (8, 4)
    assert torch.equal(network.state_dict()["2.weight"], before)
    assert torch.equal(extended[-1].bias[4:], network[-1].bias.mean().expand(3))
    with pytest.raises(ValueError, match="no BatchNorm layer"):
        extend(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), preprocessing), 1, seed=0)


def test_a_shift_towards_binary_changes_no_answer(teacher, network):
    images = torch.randn(8, 3, 32, 32)
    before = network(images).detach()
    shift_to_binary(teacher, before)
    after = network(images).detach()
    torch.testing.assert_close(after.softmax(1), before.softmax(1))
    assert after.logsumexp(1).mean().item() == pytest.approx(0, abs=1e-6)


def test_learning_rate_falls_to_a_fifth_four_times():
    settings = ExtensionSettings(updates=600, lr=1.0)
    rates = [settings.lr_factor(update) for update in (0, 199, 200, 300, 400, 500, 599)]
    assert rates == pytest.approx([1, 1, 0.2, 0.04, 0.008, 0.0016, 0.0016])


@pytest.fixture(scope="module")
def half_digits():
    return continual_data.halves(data.load("digits"), range(5))


@pytest.fixture(scope="module")
def five_digits(half_digits):
    old, _ = half_digits
    torch.manual_seed(0)
    teacher = Classifier(networks.create("vgg11_bn", classes=5, channels=1, width=1 / 8), old.preprocessing)
    train(teacher, old.train, TrainingSettings(epochs=8, batch_size=100, flip=False))
    return teacher


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
    learn_new_classes(five_digits, extended, Lesson("oracle_distill", arriving, old.train), settings)
    seen = FeatureStatistics.from_batchnorm(extended)
    known = Extended(five_digits.with_network(extended), old.classes + new.classes, (0, 5), seen)
    assert top1(known, old.test, 0) > 80
    assert top1(known, new.test, 5) > 80
    frozen = [value for name, value in extended.state_dict().items() if "running" in name]
    assert all(torch.equal(*pair) for pair in zip(statistics, frozen, strict=True))
    shares = taken_for(known, [old.test, new.test])
    assert shares.sum(1).tolist() == pytest.approx([100, 100])
    assert shares.diagonal().min() > 80


def test_only_the_modules_named_learn(half_digits, five_digits):
    old, new = half_digits
    extended = extend(five_digits, 5, seed=0)
    before = {name: value.clone() for name, value in extended.state_dict().items()}
    last = [name for name, module in extended.named_modules() if isinstance(module, nn.Linear)][-1]
    settings = ExtensionSettings(updates=2, batch_size=20, shift=1, trained=(last,))
    arriving = Split(new.train.pixels, new.train.labels + 5)
    learn_new_classes(five_digits, extended, Lesson("oracle_distill", arriving, old.train), settings)
    changed = {name for name, value in extended.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{last}.weight", f"{last}.bias"}


def test_dreams_of_added_classes_aim_at_statistics_of_what_was_added(tmp_path, monkeypatch, half_digits):
    """After an addition, the next dreams' statistics are the mixture of BatchNorm's and the added images' own."""
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    _, new = half_digits
    added = replace(new, classes=tuple("ABCDE"))
    monkeypatch.setattr(table7_continual, "data_sets", lambda study, names: [study.data, *(added for _ in names)])
    monkeypatch.setattr(table7_continual, "learn_new_classes", lambda *arguments, **_: None)
    known, _ = table7_continual.extended(study, "vgg11_bn", ("digits",), "oracle_distill", 0)
    network = known.classifier.network
    stored = FeatureStatistics.from_batchnorm(network)
    looked_at = known.classifier.preprocessing.normalise(some(added.train, WATCHED).pixels)
    seen = FeatureStatistics.from_images(network, looked_at)
    layer = list(stored.means)[3]
    torch.testing.assert_close(known.statistics.means[layer], (2 * stored.means[layer] + seen.means[layer]) / 3)
    recipe = table7_continual._recipe(study, "vgg11_bn", known, "deepinversion", 0)
    assert recipe.card != replace(recipe, statistics=None).card
    assert sorted(recipe.classes) == list(range(15))


def test_half_of_a_lone_validation_split_stands_in_for_training_images(tmp_path, monkeypatch):
    pixels = torch.arange(2000, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    nothing = Split(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    test = Split(pixels, torch.arange(2000) // 2)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, 4)
    whole = data.Data("imagenet", "ImageNet", nothing, test, tuple(map(str, range(1000))), preprocessing)
    monkeypatch.setattr(continual_data, "_loaded", lambda *_: whole)
    study = Study.open("smoke", "imagenet", tmp_path / "results", tmp_path / "artifacts")
    (base,) = continual_data.data_sets(study, ())
    assert base.train.labels.tolist() == base.test.labels.tolist() == list(range(1000))
    assert not (base.train.pixels == base.test.pixels).any()


def test_grey_images_are_added_to_a_network_that_takes_colours(tmp_path):
    study = Study.open("smoke", "photographs", tmp_path / "results", tmp_path / "artifacts")
    continual_data.check_additions(study, ("digits",))
    colours, digits = continual_data.data_sets(study, ("digits",))
    assert colours.train.pixels.shape[1] == digits.train.pixels.shape[1] == digits.test.pixels.shape[1] == 3
    assert (digits.train.pixels[:, :1] == digits.train.pixels).all()
    assert not (colours.train.pixels[:, :1] == colours.train.pixels).all()


def test_a_chain_reuses_its_first_link(tmp_path, monkeypatch, half_digits):
    """Adding A, then A and B: the second run starts from the weights that the first left."""
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    old, new = half_digits
    sets = {"A": replace(new, classes=tuple("ABCDE")), "B": replace(old, classes=tuple("FGHIJ"))}
    monkeypatch.setattr(table7_continual, "data_sets", lambda study, added: [study.data, *map(sets.get, added)])
    monkeypatch.setattr(continual_data.data, "slug", lambda name: name)
    learnt = []
    monkeypatch.setattr(
        table7_continual, "learn_new_classes", lambda *arguments, **_: learnt.append(arguments[2].new.labels.min())
    )
    first, both = study.run(
        (table7_continual.continual_cell(study, "vgg11_bn", added, "oracle_distill") for added in (("A",), ("A", "B"))),
        jobs=1,
    )
    assert [label.item() for label in learnt] == [10, 15]
    assert len(first["metrics"]["classes"]) == 15
    assert both["metrics"]["classes"] == [*"0123456789", *"ABCDE", *"FGHIJ"]
    assert {"base", "A", "B", "combined"} <= both["metrics"].keys()


def test_bad_additions_are_refused_in_one_line(half_digits):
    _, new = half_digits
    with pytest.raises(ValueError, match=r"has classes that are known already \(5\); rename them"):
        continual_data.check_addition(["4", "5"], new)
    missing = replace(new, classes=(*new.classes, "ten"))
    with pytest.raises(ValueError, match="unknown method 'replay'; choose from lwf_mc, deepdream"):
        Lesson("replay", new.train)
    with pytest.raises(ValueError, match="DeepInversion needs memories"):
        Lesson("deepinversion", new.train)
    with pytest.raises(ValueError, match="has no training image of class 'ten'; remove the class or add images"):
        continual_data.check_addition(["a"], missing)


def test_two_added_folders_of_one_name_are_refused(tmp_path):
    study = Study.open("smoke", "digits", tmp_path / "results", tmp_path / "artifacts")
    with pytest.raises(ValueError, match="of folder:/a/pets, folder:/b/pets two have one name in results; rename"):
        table7_continual.chains(study, ("folder:/a/pets", "folder:/b/pets"))
