"""Training by a teacher, against loops written by hand; and that a kill changes nothing."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.engine.test_objective import KEY, PHASES, STEPS, batches_of, by_hand, equal, rows_of
from thinet.datasets.class_sampler import ClassUniform
from thinet.engine.distilled import Distilled, Pupil
from thinet.engine.lesson import Lesson
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.models.features import find_feature

LESSON = Lesson(alpha=0.3, temperature=2.0, beta=5.0)
TERMS = ("cross_entropy", "soft_targets", "correlation")


@pytest.fixture
def teacher(make_network):
    """Wider than the student, with statistics and dropout that count if it is not at rest."""
    network = make_network(8)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network.train()


def pupil(network):
    return Pupil(network, find_feature(network, torch.rand(2, 3, 8, 8)))


@pytest.fixture
def make(make_network, teacher, training):
    """``make(lesson)``: an objective of a new student and the one teacher."""

    def made(lesson=LESSON, projection=None):
        student = pupil(make_network())
        return Distilled(student, pupil(teacher), lesson, PHASES, training, projection)

    return made


def until_last(network, images):
    """Features and logits, the last layer by hand."""
    features = network[:-1](images)
    return features, network[-1](features)


def unit(features):
    return features / features.norm(dim=1, keepdim=True)


def matrix(features, gamma=0.4):
    """The kernel of order 2, as cckd.md has it: coefficients written out."""
    cosines = unit(features) @ unit(features).T
    return math.exp(-2 * gamma) * (1 + 2 * gamma * cosines + (2 * gamma * cosines) ** 2 / 2)


def terms_by_hand(network, teacher, images, labels, lesson, smoothing):
    features, logits = until_last(network, images)
    with torch.no_grad():
        theirs, taught = until_last(teacher, images)
    heat = lesson.temperature
    wanted = (taught / heat).softmax(1)
    soft = (wanted * (wanted.log() - (logits / heat).log_softmax(1))).sum(1).mean() * heat**2
    found = {
        "cross_entropy": F.cross_entropy(logits, labels, label_smoothing=smoothing),
        "soft_targets": soft,
        "correlation": (matrix(features) - matrix(theirs)).square().mean(),
    }
    return found, features, (logits.argmax(1) == taught.argmax(1)).float().mean()


def test_it_is_a_plain_loop_with_the_teachers_terms(engine, make, teacher, training, tmp_path):
    one, twin = make(), make().network
    before = copy.deepcopy(teacher)
    engine.loggers = [RunCSVLogger(tmp_path)]
    engine.train(one, KEY, tmp_path / "fit")
    calm, seen = copy.deepcopy(before).eval(), []

    def loss(images, labels):
        terms, features, agreement = terms_by_hand(
            twin, calm, images, labels, LESSON, training.label_smoothing
        )
        weights = dict(zip(TERMS, (0.3, 0.7, 5.0), strict=True))
        norms = {
            name: torch.autograd.grad(weights[name] * terms[name], features, retain_graph=True)[0]
            .norm().item()
            for name in TERMS
        }  # fmt: skip
        whole = sum(norms.values())
        seen.append(
            {name: terms[name].item() for name in TERMS}
            | {"agreement": agreement.item()}
            | {f"gradient_share_{name}": norm / whole for name, norm in norms.items()}
        )
        return sum(weights[name] * terms[name] for name in TERMS)

    by_hand(engine, twin, loss, training)
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-4, atol=1e-6)
    rows = [row for row in rows_of(tmp_path) if row["train/loss"]]
    assert len(rows) == 2
    for epoch, row in enumerate(rows):
        part = seen[STEPS * epoch : STEPS * (epoch + 1)]
        for name in part[0]:
            mean = sum(one[name] for one in part) / STEPS
            assert float(row[f"train/{name}"]) == pytest.approx(mean, rel=1e-3, abs=1e-6), name
        shares = [float(row[f"train/gradient_share_{name}"]) for name in TERMS]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert min(shares) > 0.001
    assert equal(teacher, before)
    assert all(p.grad is None for p in teacher.parameters())
    content = torch.load(tmp_path / "fit" / "last.ckpt", weights_only=True)
    assert len(content["state_dict"]) == len(twin.state_dict()), "the teacher is in no checkpoint"


def test_without_beta_the_correlation_is_watched_and_changes_nothing(
    engine, make, teacher, make_network, training, tmp_path
):
    lesson = replace(LESSON, beta=0.0)
    watched = make(lesson)
    engine.loggers = [RunCSVLogger(tmp_path)]
    engine.train(watched, KEY, tmp_path / "a")
    row = next(row for row in rows_of(tmp_path) if row["train/loss"])
    parts = 0.3 * float(row["train/cross_entropy"]) + 0.7 * float(row["train/soft_targets"])
    assert float(row["train/loss"]) == pytest.approx(parts, rel=1e-4)
    assert float(row["train/correlation"]) > 0
    engine.loggers = []
    blind = Distilled(Pupil(make_network(), None), Pupil(teacher, None), lesson, PHASES, training)
    engine.train(blind, KEY, tmp_path / "b")
    assert equal(watched.network, blind.network)
    assert blind.updates[0].watched == ("agreement",)


def test_each_weight_counts(engine, make, tmp_path):
    found = []
    for place, changed in enumerate(
        ({}, {"alpha": 0.4}, {"temperature": 3.0}, {"beta": 6.0}, {"kernel": "bilinear"},
         {"kernel": "mmd"}, {"gamma": 0.5}, {"order": 1}, {"order": None}, {"normalize": False})
    ):  # fmt: skip
        one = make(replace(LESSON, **changed))
        engine.train(one, KEY, tmp_path / str(place))
        found.append(one.network[-1].weight.detach().clone())
    for place, weight in enumerate(found):
        assert all(not torch.equal(weight, other) for other in found[:place]), place


def test_a_projection_of_the_student_is_trained_and_kept(engine, make, tmp_path):
    torch.manual_seed(1)
    layer = nn.Linear(54, 5)
    before = layer.weight.detach().clone()
    one = make(LESSON, layer)
    engine.train(one, KEY, tmp_path)
    assert not torch.equal(layer.weight, before)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(content["state_dict"]["parts.projection.weight"], layer.weight)


class Map(nn.Module):
    """A convolution classifies every position; the mean is the answer."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 10, 1)

    def forward(self, images):
        return self.head(self.body(images).relu()).mean((2, 3))


def test_maps_are_averaged_and_have_no_shares(engine, teacher, training, tmp_path):
    student = pupil(Map())
    one = Distilled(student, pupil(teacher), LESSON, PHASES, training)
    engine.train(one, KEY, tmp_path)
    assert one.updates[0].watched == ("agreement",)
    images = torch.rand(4, 3, 8, 8)
    logits, features = student.answer(images)
    assert torch.allclose(features, student.network.body(images).relu().mean((2, 3)))
    assert torch.equal(logits, student.network(images))


def test_the_teacher_has_a_precision_of_its_own(make, teacher):
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6)
    half = make(replace(LESSON, precision="bf16"))
    teacher.eval()
    taught, features = half._teach(images)
    assert taught.dtype == features.dtype == torch.bfloat16
    full, _ = make(replace(LESSON, precision="auto"))._teach(images)
    assert full.dtype == torch.float32, "auto is full precision on a CPU"
    terms = half.updates[0].losses((images, labels))
    assert all(value.dtype == torch.float32 for value in terms.values())
    assert not torch.equal(
        terms["soft_targets"], make(LESSON).updates[0].losses((images, labels))["soft_targets"]
    )


def test_the_loss_is_in_float32_under_autocast(make, teacher):
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6)
    one = make()
    teacher.eval()
    one.network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        terms = one.updates[0].losses((images, labels))
    assert terms["correlation"].dtype == terms["soft_targets"].dtype == torch.float32


KILLS = [("step", after) for after in range(6)] + [("validation", 0), ("end", 0)]


@pytest.mark.parametrize("batches", [None, ClassUniform], ids=["shuffled", "by class"])
@pytest.mark.parametrize(("where", "after"), KILLS, ids=str)
def test_killed_it_ends_in_the_same_bits(where, after, batches, engine, make, tmp_path, kill):
    engine.devices = replace(engine.devices, checkpoint_minutes=0)
    order = batches_of(engine, 0)
    assert len(order) == STEPS

    def run(folder):
        folder.mkdir(exist_ok=True)
        engine.step, engine.loggers = 4, [RunCSVLogger(folder)]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            one = make(LESSON, nn.Linear(54, 5))
        accuracy = engine.train(one, KEY, folder / "fit", batches)
        engine.loggers[0].save()
        return one, accuracy, (folder / "metrics.csv").read_text()

    wanted = run(tmp_path / "whole")
    kill(where, after)
    with pytest.raises(BaseException, match=r"^$"):
        run(tmp_path / "killed")
    torch.manual_seed(99)
    found = run(tmp_path / "killed")
    assert equal(found[0].network, wanted[0].network)
    assert equal(found[0].projection, wanted[0].projection)
    assert found[1:] == wanted[1:]
