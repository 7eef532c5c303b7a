import math
from dataclasses import replace

import pytest
import torch

from dilib import inversion, networks
from dilib.classifier import Classifier, Preprocessing
from dilib.inversion import TERMS, Objective, Schedule, balanced_labels, invert
from dilib.parameterisation import Pixels

SHORT = Schedule(stages=((32, 12),), lr=0.1, jitter=2)
LABELS = torch.arange(8) % 4
OBJECTIVE = Objective(alpha_f=1.0)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def student():
    torch.manual_seed(1)
    return networks.create("resnet18", classes=4, channels=3, width=1 / 16)


@pytest.mark.parametrize("method", ["noise", "deepdream", "deepinversion", "adaptive"])
def test_methods_are_one_loop_with_terms_switched_on(teacher, method):
    objective = OBJECTIVE if method == "adaptive" else getattr(OBJECTIVE, method)()
    made = invert(teacher, LABELS, objective, SHORT, student=student())
    used = {name for name, values in zip(TERMS, made.history.T, strict=True) if values.abs().sum() > 0}
    order = {"noise": 1, "deepdream": 2, "deepinversion": 3, "adaptive": 4}
    assert used == set(TERMS[: order[method]])
    assert made.images.shape == (8, 3, 32, 32)


@pytest.mark.parametrize(("objective", "term"), [(OBJECTIVE.noise(), 0), (OBJECTIVE.deepinversion(), 2)])
def test_images_come_closer_to_what_they_are_optimised_for(teacher, objective, term):
    with torch.no_grad():
        teacher.network[2].weight *= 10  # an untrained head hardly tells classes apart
    schedule = replace(SHORT, stages=((32, 60),))
    history = invert(teacher, LABELS, objective, schedule).history[:, term]
    assert history[-5:].mean() < 0.8 * history[:5].mean()


def test_the_same_seed_gives_the_same_images_bit_for_bit(teacher):
    first, again, other = (
        invert(teacher, LABELS, OBJECTIVE.deepinversion(), SHORT, seed=seed).images for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_student_is_read_and_left_as_it_was(teacher):
    rival = student().train()
    before = {name: value.clone() for name, value in rival.state_dict().items()}
    invert(teacher, LABELS, OBJECTIVE, SHORT, student=rival)
    assert rival.training
    assert all(torch.equal(value, before[name]) for name, value in rival.state_dict().items())


def test_several_resolutions_and_clipping(teacher, preprocessing):
    schedule = Schedule(stages=((16, 5), (32, 5)), lr=5.0, jitter=2, clip=True)
    # At 16 pixels VGG's last pooling would be empty, so a ResNet is inverted.
    network = teacher.with_network(student().eval())
    made = invert(network, LABELS, OBJECTIVE.deepinversion(), schedule)
    assert made.images.shape[-1] == 32
    assert len(made.history) == 10
    pixels = made.images * torch.tensor(preprocessing.std).view(3, 1, 1) + torch.tensor(preprocessing.mean).view(
        3, 1, 1
    )
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5


def test_the_prior_is_the_weighted_sum_of_its_three_norms(teacher):
    still = replace(SHORT, stages=((32, 1),), jitter=0, flip=False)
    noise = torch.randn((8, 3, 32, 32), generator=torch.Generator().manual_seed(5)).double()
    across, down = noise[..., 1:] - noise[..., :-1], noise[..., 1:, :] - noise[..., :-1, :]
    falling, rising = noise[..., 1:, 1:] - noise[..., :-1, :-1], noise[..., 1:, :-1] - noise[..., :-1, 1:]
    shifts = (across, down, falling, rising)
    expected = (
        0.3 * sum(each.norm() for each in shifts) + 0.2 * noise.norm() + 7 * sum(each.abs().mean() for each in shifts)
    )
    objective = Objective(alpha_tv=0.3, alpha_l2=0.2, alpha_f=0.0, alpha_c=0.0, alpha_tv_l1=7.0)
    assert invert(teacher, LABELS, objective, still, seed=5).history[0, 1].item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_the_rate_falls_as_the_schedule_says():
    """In steps: times 0.3 at every 15 % of 20 updates, which are 3."""
    image = Pixels(torch.zeros(1, 1, 1, 1))
    rates = {}
    for decay in inversion.DECAYS:
        optimizer, schedule = inversion._adam(image, replace(SHORT, decay=decay, lr=0.2), updates=20)
        rates[decay] = []
        for _ in range(20):
            rates[decay].append(optimizer.param_groups[0]["lr"])
            image().grad = torch.ones(1, 1, 1, 1)
            optimizer.step()
            schedule.step()
    assert rates["constant"] == [0.2] * 20
    assert rates["step"] == pytest.approx([0.2 * 0.3 ** (update // 3) for update in range(20)])
    assert rates["cosine"] == pytest.approx([0.1 * (1 + math.cos(math.pi * update / 20)) for update in range(20)])


def test_a_warm_start_keeps_its_share_of_earlier_images_and_their_variance(teacher):
    still = replace(SHORT, stages=((32, 1),), lr=1e-9, warm_start=0.6, warm_updates=1)
    earlier = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5))

    def begin(start=None):
        return invert(teacher, LABELS, OBJECTIVE.noise(), still, start=start, seed=3).images

    torch.testing.assert_close(begin(earlier), 0.6 * earlier + 0.8 * begin())


def test_batches_after_a_warm_start_take_fewer_updates(teacher):
    schedule = replace(SHORT, stages=((32, 4), (32, 3)), warm_start=0.6, warm_updates=2)
    first = invert(teacher, LABELS, OBJECTIVE.noise(), schedule)
    second = invert(teacher, LABELS, OBJECTIVE.noise(), schedule, start=first.images)
    assert (len(first.history), len(second.history)) == (7, 2)
    assert [schedule.updates(batches) for batches in (1, 2, 3)] == [7, 9, 11]


def test_views_turn_and_zoom_about_the_middle(monkeypatch):
    """A spot 8 pixels right of the middle of 33×65: seen 1.5 times nearer or farther, and turned by 0.5 radians."""
    spot = torch.zeros(2, 1, 33, 65)
    spot[:, 0, 16, 40] = 1
    draws = torch.tensor([[0.0, 0.5], [0.5, 1.0]])  # distances, then angles, of the two, from 0 to 1
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: draws)
    places = []
    for seen in inversion.turned(spot, 0.5, None)[:, 0]:
        down, right = (
            ((seen.sum(axis) * torch.arange(seen.shape[1 - axis])).sum() / seen.sum()).item() for axis in (1, 0)
        )
        places.append((down - 16, right - 32))
    assert places[0] == pytest.approx((0, 16), abs=0.3), "from half the distance it is twice as far from the middle"
    assert places[1] == pytest.approx((-8 * math.sin(0.5), 8 * math.cos(0.5)), abs=0.3)
    assert inversion.turned(spot, 0.0, None) is spot


def test_views_are_drawn_from_the_seed_and_leave_the_images_as_they_are(teacher):
    still = replace(SHORT, lr=1e-9, jitter=0, flip=False)
    plain = invert(teacher, LABELS, OBJECTIVE.deepinversion(), still, seed=3)
    first, again = (invert(teacher, LABELS, OBJECTIVE.deepinversion(), still, views=0.3, seed=3) for _ in range(2))
    assert torch.equal(first.history, again.history)
    assert not torch.equal(first.history, plain.history)
    torch.testing.assert_close(first.images, plain.images)
    with pytest.raises(ValueError, match=r"views 1\.5 is out of range; choose from 0 \(none\) to below 1"):
        invert(teacher, LABELS, OBJECTIVE.deepinversion(), still, views=1.5)


def test_with_memory_r_feature_is_of_statistics_averaged_over_updates(teacher):
    """Images stand still and only their views differ: R_feature varies less by averaged statistics."""
    still = replace(SHORT, stages=((32, 40),), lr=1e-9, jitter=0, flip=False)
    spread, first = [], []
    for memory in (0.0, 0.9):
        made = invert(teacher, LABELS, OBJECTIVE.deepinversion(), still, views=0.3, memory=memory, seed=3)
        feature = made.history[:, TERMS.index("feature")]
        first.append(feature[0].item())
        spread.append(feature[10:].std().item())
    assert first[0] == first[1]
    assert spread[1] < 0.5 * spread[0]
    with pytest.raises(ValueError, match=r"memory 1\.0 is out of range; choose from 0 \(none\) to below 1"):
        invert(teacher, LABELS, OBJECTIVE, still, memory=1.0)


@needs_cuda
def test_a_cuda_graph_makes_the_images_of_the_plain_loop(teacher, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # whose rounding Adam makes much of
    teacher.network.cuda()
    arguments, recorded = (teacher, LABELS, OBJECTIVE, SHORT), []
    record = torch.cuda.make_graphed_callables
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *given: recorded.append(1) or record(*given))
    plain = invert(*arguments, student=student().cuda())
    assert not recorded
    monkeypatch.setattr(inversion, "GRAPHED", 1)
    graphed = invert(*arguments, student=student().cuda())
    assert len(recorded) == len(SHORT.stages)
    torch.testing.assert_close(graphed.images, plain.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(graphed.history, plain.history, atol=1e-4, rtol=1e-4)


@needs_cuda
def test_on_cuda_the_terms_are_those_of_a_cpu(teacher, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    first = replace(SHORT, stages=((32, 1),))
    on_cpu = invert(teacher, LABELS, OBJECTIVE, first, student=student())
    teacher.network.cuda()
    on_cuda = invert(teacher, LABELS, OBJECTIVE, first, student=student().cuda())
    torch.testing.assert_close(on_cuda.history, on_cpu.history, atol=1e-4, rtol=1e-4)


def test_watching_sees_every_update_and_the_images_it_left(teacher):
    seen = []
    watch = lambda done, images: seen.append((done, images.clone()))  # noqa: E731
    made = invert(teacher, LABELS, OBJECTIVE.noise(), SHORT, watch=watch)
    assert [done for done, _ in seen] == list(range(1, 13))
    assert torch.equal(seen[-1][1], made.images)


def test_labels_are_balanced():
    counts = balanced_labels(103, 10, seed=1).bincount()
    assert counts.sum() == 103
    assert set(counts.tolist()) == {10, 11}


def test_a_loss_that_is_not_finite_stops_with_step_and_terms(teacher):
    with torch.no_grad():
        teacher.network[2].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"not finite at update 1: classification nan, prior \d.*feature \d"):
        invert(teacher, LABELS, OBJECTIVE.deepinversion(), SHORT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 4])}, r"labels 0\.\.4 do not fit the teacher's 4 classes; use 0\.\.3"),
        ({"labels": torch.tensor([], dtype=torch.long)}, "labels none do not fit"),
        ({"training": True}, r"in training mode; call teacher\.eval\(\)"),
        ({"channels": 1}, r"takes images with 3 channel\(s\) .* has 1; give one"),
        ({"student": None}, "no student is given"),
        ({"start": torch.zeros(7, 3, 32, 32)}, r"start has shape \(7, 3, 32, 32\); give 8 images of 3 channels"),
        ({"network": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 1024, 4))}, "no BatchNorm"),
    ],
)
def test_bad_input_is_refused_before_any_work(network, preprocessing, change, message):
    network = change.get("network", network).train(change.get("training", False))
    if "channels" in change:
        preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), size=32)
    rival = None if "student" in change else student()
    labels, start = change.get("labels", LABELS), change.get("start")
    with pytest.raises(ValueError, match=message) as error:
        invert(Classifier(network, preprocessing), labels, OBJECTIVE, SHORT, student=rival, start=start)
    assert "\n" not in str(error.value)


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="unknown network 'vgg19'; choose from vgg11_bn, resnet18, resnet34"):
        networks.create("vgg19", 10)
    with pytest.raises(ValueError, match="decay 'linear' is unknown; choose from constant, cosine, step"):
        Schedule(decay="linear")
    with pytest.raises(ValueError, match=r"warm_start 1 is out of range; choose 0"):
        Schedule(warm_start=1)
    with pytest.raises(ValueError, match=r"warm_start 0.5 with warm_updates 0; give both, or neither"):
        Schedule(warm_start=0.5)
    for stages in ((), (32, 100), ((0, 3),), ((32, 2.5),), ((32, 0),)):
        with pytest.raises(ValueError, match=r"must be \(resolution, updates\) pairs"):
            Schedule(stages=stages)
    with pytest.raises(ValueError, match=r"jitter -1 is out of range; choose a finite number of at least 0"):
        Schedule(jitter=-1)
    for name, value in (("alpha_f", -1.0), ("alpha_tv", float("nan")), ("alpha_c", float("inf")), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=f"{name} {value} is out of range; choose a finite number"):
            Objective(**{name: value})


def test_a_resolution_below_what_the_teacher_takes_is_refused(teacher):
    with pytest.raises(
        ValueError, match=r"^Sequential can't take 16×16 images \(.*\); use larger ones, such as 32×32$"
    ):
        invert(teacher, LABELS, OBJECTIVE.noise(), replace(SHORT, stages=((16, 5), (32, 5))))
