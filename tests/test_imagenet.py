"""ImageNet variants, pictures and scores against what is known beforehand."""

from dataclasses import replace

import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from dilib.calls import plans
from dilib.classifier import Classifier, Preprocessing
from dilib.data import imagenet_validation
from dilib.evaluation import inception_score
from dilib.experiments import imagenet
from dilib.experiments.imagenet import (
    LONGER,
    VARIANTS,
    Snapshots,
    colours_by_class,
    longest_first,
    mean_colours,
    variant,
)
from dilib.inversion import Schedule
from dilib.pool import save_pictures
from dilib.study.cells import Study
from dilib.study.scales import SCALES
from dilib.study.scales.laptop import LITE_IMAGENET


def flat(settings):
    """Every setting by its own name, with those of the last schedule."""
    parts = {**vars(settings), **vars(settings.objective), **vars(settings.schedules[-1])}
    return {name: value for name, value in parts.items() if name not in ("objective", "schedules", "classes")}


def cost(schedule):
    return sum(updates * size**2 for size, updates in schedule.stages)


def test_variants_change_what_they_say_at_the_cost_they_say():
    base = flat(LITE_IMAGENET)
    changed = {
        name: {key for key, value in flat(variant(LITE_IMAGENET, name)).items() if value != base[key]}
        for name in VARIANTS
    }
    assert changed == {
        "deepinversion": set(),
        "deepdream": {"alpha_f"},
        "no_prior": {"alpha_tv"},
        "no_flips": {"flip"},
        "no_clipping": {"clip"},
        "no_first_layer": {"first_layer"},
        "single_resolution": {"stages"},
        "waves": {"spectrum"},
        "views": {"views"},
        "averages": {"memory"},
        "waves_and_views": {"spectrum", "views"},
        "pictures": {"spectrum", "views", "memory", "lr", "alpha_tv"},
        "longer": {"spectrum", "views", "memory", "lr", "alpha_tv", "stages"},
    }
    (schedule,) = LITE_IMAGENET.schedules
    for name in VARIANTS:
        times = LONGER if name == "longer" else 1
        assert [cost(made) for made in variant(LITE_IMAGENET, name).schedules] == pytest.approx(
            [times * cost(schedule)] * len(variant(LITE_IMAGENET, name).schedules), rel=0.01
        )
    for scale in SCALES.values():
        for name, times in {"waves": 1, "waves_and_views": 1, "pictures": 1, "longer": LONGER}.items():
            (plain,), (waved,) = scale.imagenet.schedules, variant(scale.imagenet, name).schedules
            assert len(waved.stages) > 1
            assert cost(waved) == pytest.approx(times * cost(plain), rel=0.01)
            assert replace(waved, stages=plain.stages, lr=plain.lr) == plain
    assert longest_first(LITE_IMAGENET)[0] == "longer"
    with pytest.raises(ValueError, match="unknown variant 'no_jitter'; choose from deepinversion, deepdream, "):
        variant(LITE_IMAGENET, "no_jitter")


def test_the_readme_s_picture_is_captioned_from_its_cell(tmp_path):
    assert imagenet.captioned(tmp_path) == ""
    study = Study.open("laptop", "imagenet", tmp_path / "results", tmp_path / "artifacts")
    asked, top1 = (
        imagenet.variant_cell(study, "longer"),
        {"efficientnet_lite1": 100 * 23 / 24, "efficientnet_lite2": 87.5},
    )
    study.result(replace(asked, work=lambda: {"top1": top1, "seconds": 24 * 41.2}))
    words = " ".join(imagenet.captioned(tmp_path / "results").split())
    for said in (
        "12 images at 224×224, made from a classifier: goldfish,",
        "12 of 24, 41 seconds",
        "recognise 23 and 21.",
    ):
        assert said in words


def test_the_calls_make_their_pictures_as_the_study_does():
    ours, plan = variant(LITE_IMAGENET, "pictures"), plans.plan_for(224, "deepinversion")
    recipe = plan.recipe(Classifier(torch.nn.Identity(), Preprocessing((0.0,), (1.0,), 224)), (0, 1), 0)
    for made in (plan, recipe):
        assert (made.spectrum, made.views, made.memory) == (ours.spectrum, ours.views, ours.memory)
        assert made.objective.alpha_tv == pytest.approx(ours.objective.alpha_tv)
    assert plan.schedule.lr == ours.schedules[0].lr
    assert [updates for _, updates in plan.schedule.stages] == [updates for _, updates in ours.schedules[0].stages]


def test_snapshots_are_ten_and_end_with_the_last_update():
    for schedule in (Schedule(stages=((4, 3),)), Schedule(stages=((4, 300), (8, 150)))):
        total = schedule.updates()
        snapshots = Snapshots(total)
        complete = [snapshots(done, torch.full((2, 3, 4, 4), float(done))) for done in range(1, total + 1)]
        assert complete.index(True) == total - 1
        kept = snapshots.tensors(8)
        assert kept["images"].shape == (10, 3, 8, 8)
        assert kept["images"][:, 0, 0, 0].tolist() == kept["after"].tolist()
        assert kept["after"][-1] == total


def test_inception_score_of_sure_answers_is_the_number_of_classes_seen():
    sure = 100 * torch.eye(7)[[0, 1, 2, 3, 3, 2, 1, 0]]
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(torch.zeros(5, 7)) == pytest.approx(1)


def test_pictures_are_an_image_folder(tmp_path):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    save_pictures(tmp_path, pixels, torch.tensor([1, 0, 1]), ("cat", "dog/wolf"))
    folder = ImageFolder(str(tmp_path))
    assert folder.classes == ["0-cat", "1-dog-wolf"]
    assert [label for _, label in folder.samples] == [0, 1, 1]
    image, _ = folder[1]
    assert torch.equal(pil_to_tensor(image), pixels[0])


def test_mean_colours_by_hand():
    pixels = torch.tensor([[[[0, 10]], [[20, 20]], [[30, 50]]]], dtype=torch.uint8)
    means = colours_by_class({"synthesised": mean_colours(pixels)}, ["dog"])
    assert means.values.tolist() == [["dog", "red", 5.0], ["dog", "green", 20.0], ["dog", "blue", 40.0]]


def test_without_imagenet_a_finished_cell_stands_for_real_images(tmp_path):
    assert imagenet_validation(tmp_path, (1, 2)) is None
    study = Study.open("smoke", "imagenet", tmp_path / "results", tmp_path / "artifacts")
    assert imagenet.real_result(study) is None
    study.result(replace(imagenet.real_cell(study), work=lambda: {"inception_score": 3.0}))
    assert imagenet.real_result(study)["metrics"] == {"inception_score": 3.0}
