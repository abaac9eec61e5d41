"""A generator and a student in turn, against a loop written by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.synthesis.parts import (
    EPOCHS,
    EVERYTHING,
    FIRST,
    PHASE,
    SECOND,
    calm,
    equal,
)
from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.steps import Step, Steps
from thinet.engine.distilled import Pupil
from thinet.engine.module import Learner
from thinet.engine.objective import LOSS
from thinet.engine.phases import learning_rate
from thinet.losses import (
    activation,
    batchnorm_statistics,
    discrepancy,
    information_entropy,
    one_hot,
    soft_targets,
)
from thinet.synthesis.critic import Critic, mean_classes
from thinet.synthesis.memory import ImagePool, average_of
from thinet.synthesis.noise import Noise
from thinet.synthesis.objective import MEMORIES, DataFree, Imagining, Unlabelled
from thinet.synthesis.settings import Losses
from thinet.synthesis.statistics import watching
from thinet.synthesis.updates import GENERATOR, Batches

KEY, BATCH, COUNT = "stage", 8, 3
NOISE = Noise(11, BATCH)
DECAY, POOL = 0.9, 20


def begin(epoch: int, number: int) -> Step:
    torch.manual_seed(derive_seed(derive_seed(3, KEY), "batch", epoch, number, 0))
    return Step(epoch, number, 0)


def step_of(optimizer, module, loss, turn, epoch, number) -> None:
    parameters = list(module.parameters())
    optimizer.zero_grad()
    loss.backward(inputs=parameters)  # gradients lie in memory as parameters do, so sums are equal
    if turn.training.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, turn.training.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate([PHASE])((COUNT * epoch + number) / COUNT)
    optimizer.step()


@dataclass
class ByHand:
    """The loop, and what it leaves: everything that a training changes."""

    teacher: nn.Module
    generator: nn.Module
    student: nn.Module
    losses: Losses = EVERYTHING
    steps: tuple[int, int] = (1, 1)
    memory: bool = False

    def __post_init__(self) -> None:
        self.teacher = calm(self.teacher)
        self.average: list[torch.Tensor] | None = None
        self.past: list[torch.Tensor] = []

    def run(self) -> ByHand:
        self.optimizers = [
            turn.training.make_optimizer(module.parameters())
            for turn, module in ((FIRST, self.generator), (SECOND, self.student))
        ]
        self.student.train()
        for epoch in range(EPOCHS):
            for number in range(COUNT):
                self.iterate(begin(epoch, number))
        return self

    def iterate(self, step: Step) -> None:
        for draw in range(self.steps[0]):
            images = self.generator(NOISE.draw(step, draw, 5))
            logits = self.teacher(images)
            step_of(self.optimizers[0], self.generator, self.sum(images), FIRST, *step[:2])
        images, logits = images.detach(), logits.detach()
        self.remember()
        for turn in range(self.steps[1]):
            draws = self.steps[0] + turn
            with torch.no_grad():
                if turn:
                    images = self.generator(NOISE.draw(step, draws - 1, 5))
                    logits = self.teacher(images)
                given, taught = images, logits
                if self.memory:
                    given, taught = self.with_past(images, logits, step, draws)
            if not turn and self.memory:
                self.past += list(images.clone())
            said = self.student(given)
            loss = (
                soft_targets(said, taught, self.losses.temperature)
                if self.losses.learn == "kl"
                else discrepancy(taught, said)
            )
            step_of(self.optimizers[1], self.student, loss, SECOND, *step[:2])

    def sum(self, images: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        with watching(self.teacher) as read:
            features = self.teacher[:-1](images)
            logits, statistics = self.teacher[-1](features), read()
        mean, losses = mean_classes(logits), self.losses
        for weight, term in (
            (losses.one_hot, lambda: one_hot(logits)),
            (losses.activation, lambda: activation(features, losses.activation_reduction)),
            (
                losses.entropy,
                lambda: information_entropy(mean, losses.base, losses.entropy_reduction),
            ),
            (losses.batchnorm, lambda: batchnorm_statistics(*statistics)),
            (losses.adversarial, lambda: -discrepancy(logits, self.student(images))),
        ):
            if weight:
                found.append(weight * term())
        return sum(found[1:], found[0])

    def remember(self) -> None:
        now = [parameter.detach().clone() for parameter in self.generator.parameters()]
        if self.average is None:
            self.average = now
        else:
            torch._foreach_lerp_(self.average, now, 1 - DECAY)

    def with_past(self, images, logits, step: Step, draws: int):
        """Every second row is one of the past: of the average and of the pool in turn."""
        averaged = copy.deepcopy(self.generator)
        for parameter, mean in zip(averaged.parameters(), self.average, strict=True):
            parameter.data.copy_(mean)
        old = averaged(NOISE.draw(step, MEMORIES + 2 * draws, 5))[[1, 3, 5, 7]]
        if self.past:
            # The ring: an image's place is its number modulo the size.
            ring = [
                self.past[max(n for n in range(len(self.past)) if n % POOL == place)]
                for place in range(min(POOL, len(self.past)))
            ]
            places = NOISE.places(step, MEMORIES + 2 * draws + 1)[[3, 7]]
            kept = torch.stack([ring[int(place) % len(ring)] for place in places])
            old = torch.cat([old[[0, 2]], kept])
        rest = [0, 2, 4, 6]
        return torch.cat([images[rest], old]), torch.cat([logits[rest], self.teacher(old)])


@pytest.fixture
def data_free(critic, make_student, make_generator):
    """``data_free(losses, steps, memory)``: new networks and the one teacher."""

    def make(losses=EVERYTHING, steps=(1, 1), memory=False, watch=None) -> DataFree:
        generator = make_generator()
        return DataFree(
            make_student(), replace(critic, losses=losses), Batches(generator, NOISE),
            (replace(FIRST, times=steps[0]), replace(SECOND, times=steps[1])),
            average_of(generator, DECAY) if memory else None,
            ImagePool(POOL, (3, 8, 8)) if memory else None, watch=watch,
        )  # fmt: skip

    return make


KINDS = {
    "paper": {"losses": Losses()},
    "every term": {},
    "only one": {"losses": Losses(one_hot=0, activation=0, entropy=0, adversarial=2.0)},
    "turns": {"steps": (2, 3)},
    "memory": {"memory": True},
    "memory and turns": {"memory": True, "steps": (2, 2)},
    "other conventions": {
        "losses": replace(
            EVERYTHING, base=2.72, entropy_reduction="mean", activation_reduction="sum",
            learn="l1",
        )
    },
    "warm": {"losses": replace(EVERYTHING, temperature=4.0)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_loop_to_the_bit(kind, engine, data_free, teacher, tmp_path):
    objective, twin = data_free(**KINDS[kind]), data_free(**KINDS[kind])
    before = copy.deepcopy(teacher)
    engine.train(objective, KEY, tmp_path, Steps(COUNT), validated=False)
    found = ByHand(teacher, twin.batches.generator, twin.network, **KINDS[kind]).run()
    assert equal(objective.batches.generator, found.generator)
    assert equal(objective.network, found.student)
    assert equal(teacher, before)
    if objective.pool is not None:
        assert objective.pool.filled == POOL
        for place, image in enumerate(objective.pool.images):
            newest = max(n for n in range(len(found.past)) if n % POOL == place)
            assert torch.equal(image, found.past[newest])
        for ours, theirs in zip(objective.average.module.parameters(), found.average, strict=True):
            assert torch.equal(ours, theirs)


def test_what_is_logged(engine, data_free, tmp_path):
    seen: list[tuple[int, dict]] = []
    objective = data_free(watch=lambda epoch, figures: seen.append((epoch, dict(figures))))
    engine.train(objective, KEY, tmp_path / "a", Steps(COUNT), validated=False)
    assert [epoch for epoch, _ in seen] == [0, 1]
    weights = EVERYTHING.weights
    assert len(weights) == 5
    for _, figures in seen:
        found = {name.removeprefix("train/"): value for name, value in figures.items()}
        assert {*weights, GENERATOR, LOSS, "agreement"} < found.keys()
        total = sum(weight * found[name] for name, weight in weights.items())
        assert found[GENERATOR] == pytest.approx(total, rel=1e-4)
        assert -1 <= found["entropy"] <= 0
        assert found["activation"] < 0 < found["one_hot"]
        assert not any(name.startswith("val") for name in figures)
    seen.clear()
    only = Losses(one_hot=0, activation=0, entropy=0, adversarial=1.0)
    objective = data_free(only, watch=lambda epoch, figures: seen.append((epoch, dict(figures))))
    engine.train(objective, KEY, tmp_path / "b", Steps(COUNT))
    assert {"train/one_hot", "train/activation", "train/entropy", "val/top1"} < seen[1][1].keys()


def test_no_image_of_the_data_set_is_looked_at(engine, data_free, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("images were loaded")

    for name in ("val_dataloader", "test_dataloader"):
        monkeypatch.setattr(type(engine.data), name, refuse)
    engine.train(data_free(), KEY, tmp_path, Steps(COUNT), validated=False)
    assert engine.step == EPOCHS * COUNT


def test_gradients_stay_apart(engine, data_free, tmp_path, monkeypatch):
    """The generator's losses give the student none, and what the student learns the generator."""
    objective, seen = data_free(steps=(2, 2)), []
    generator, student = objective.batches.generator, objective.network
    hook = Learner.on_before_optimizer_step

    def copied(module):
        return [None if p.grad is None else p.grad.clone() for p in module.parameters()]

    def note(self, optimizer):
        hook(self, optimizer)
        kind = [type(one) for one in self.trainer.optimizers].index(type(optimizer))
        seen.append((kind, copied(generator), copied(student)))

    monkeypatch.setattr(Learner, "on_before_optimizer_step", note)
    engine.train(objective, KEY, tmp_path, Steps(1), validated=False)
    assert [kind for kind, *_ in seen] == [0, 0, 1, 1] * EPOCHS
    still = {1: [None] * len(list(student.parameters()))}
    for kind, *found in seen:
        assert all(bool(torch.isfinite(gradient).all()) for gradient in found[kind])
        assert any(bool(gradient.any()) for gradient in found[kind])
        other = 1 - kind  # as its own last step left it
        for now, before in zip(found[other], still[other], strict=True):
            assert now is before is None or torch.equal(now, before)
        still[kind] = found[kind]


def test_the_teacher_is_the_same_to_the_bit_after_100_steps(engine, data_free, teacher, tmp_path):
    teacher[1].eval()
    teacher[0].bias.requires_grad_(False)
    before = copy.deepcopy(teacher)
    engine.train(data_free(memory=True), KEY, tmp_path, Steps(50), validated=False)
    assert engine.step == 100
    assert equal(teacher, before)
    for own, old in zip(teacher.parameters(), before.parameters(), strict=True):
        assert own.requires_grad == old.requires_grad
        assert own.grad is None
    modes = [module.training for module in teacher.modules()]
    assert modes == [module.training for module in before.modules()]
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    owners = {name.removeprefix("parts.").partition(".")[0] for name in content}
    assert owners == {"network", "generator", "average", "pool"}


def test_the_generator_alone(engine, critic, make_generator, teacher, make_student, tmp_path):
    losses = replace(EVERYTHING, adversarial=0.0)
    generator, twin, before = make_generator(), make_generator(), copy.deepcopy(teacher)
    seen: list[int] = []
    objective = Imagining(
        replace(critic, losses=losses), Batches(generator, NOISE), FIRST,
        lambda epoch, figures: seen.append(epoch),
    )  # fmt: skip
    engine.train(objective, KEY, tmp_path, Steps(COUNT), validated=False)
    loop = ByHand(teacher, twin, make_student(), losses)
    optimizer = FIRST.training.make_optimizer(twin.parameters())
    for epoch in range(EPOCHS):
        for number in range(COUNT):
            loss = loop.sum(twin(NOISE.draw(begin(epoch, number), 0, 5)))
            step_of(optimizer, twin, loss, FIRST, epoch, number)
    assert equal(generator, twin)
    assert equal(teacher, before)
    assert seen == [0, 1]


@pytest.mark.parametrize("place", ["cpu", "gpu"])
@pytest.mark.parametrize("drawer", [True, False], ids=["a generator", "noise"])
def test_learning_from_who_is_not_trained(
    drawer, place, request, engine, teacher, make_generator, make_student, tmp_path
):
    """On a GPU the generator is there too, and back on the CPU in the end."""
    student, twin, generator = make_student(), make_student(), make_generator()
    before, seen = copy.deepcopy(generator), []

    def noise(step: Step) -> torch.Tensor:
        return NOISE.draw(step, 0, 3, 8, 8).to(device)

    device = "cpu"
    if place == "gpu":
        student[-2].p = twin[-2].p = 0.0  # a GPU draws other numbers
        device = request.getfixturevalue("gpu")
        engine.devices = replace(engine.devices, accelerator="gpu")
    draw = Batches(generator, NOISE).fresh if drawer else noise
    objective = Unlabelled(
        student, teacher, draw, [SECOND.phase], SECOND.training, EVERYTHING,
        generator if drawer else None, lambda epoch, figures: seen.append((epoch, dict(figures))),
    )  # fmt: skip
    accuracy = engine.train(objective, KEY, tmp_path, Steps(COUNT))
    rested, optimizer = calm(teacher), SECOND.training.make_optimizer(twin.parameters())
    twin.train()
    for epoch in range(EPOCHS):
        for number in range(COUNT):
            step = begin(epoch, number)
            images = NOISE.draw(step, 0, 3, 8, 8)
            if drawer:
                images = before(NOISE.draw(step, 0, 5)).detach()
            loss = F.kl_div(
                twin(images).log_softmax(1), rested(images).log_softmax(1),
                reduction="batchmean", log_target=True,
            )  # fmt: skip
            step_of(optimizer, twin, loss, SECOND, epoch, number)
    for name, tensor in student.state_dict().items():
        close = 0 if place == "cpu" else 1e-5
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=close, atol=close)
    assert equal(generator, before)
    assert all(one.requires_grad and not one.is_cuda for one in generator.parameters())
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert seen[1][1]["val/top1"] == pytest.approx(accuracy.top1)


@pytest.mark.parametrize(
    ("where", "after"), [("within", 1), ("within", 4), ("after_epoch", 1)], ids=str
)
def test_killed_it_ends_in_the_same_bits(
    where, after, engine, data_free, teacher, tmp_path, monkeypatch
):
    """Also where its last checkpoint lies in the middle of an epoch; watchers are told again."""
    engine.devices = replace(engine.devices, checkpoint_minutes=0)
    kind = {"memory": True, "steps": (2, 2)}
    told: list[tuple[int, dict]] = []

    class KilledError(BaseException):
        pass

    def watch(epoch, figures):
        told.append((epoch, dict(figures)))
        if where == "after_epoch" and len(told) == armed.get("epochs"):
            raise KilledError

    def step(self, batch, index):
        calls.append(batch[:2])
        if where == "within" and len(calls) == armed.get("steps"):
            raise KilledError
        return original(self, batch, index)

    original, calls, armed = Learner.training_step, [], {}
    monkeypatch.setattr(Learner, "training_step", step)

    def run(folder) -> DataFree:
        told.clear()
        calls.clear()
        objective = data_free(**kind, watch=watch)
        engine.step = 0
        engine.train(objective, KEY, folder, Steps(COUNT), validated=False)
        return objective

    whole = run(tmp_path / "whole")
    figures, steps = list(told), list(calls)
    armed.update(steps=after + 1, epochs=after)
    with pytest.raises(KilledError):
        run(tmp_path / "killed")
    armed.clear()
    torch.manual_seed(99)
    found = run(tmp_path / "killed")
    assert calls == steps[-len(calls) :]
    assert len(calls) < len(steps)
    for name, part in {"student": whole.network, **whole.parts}.items():
        assert equal({"student": found.network, **found.parts}[name], part), name
    assert told == figures[-len(told) :]


def test_images_differ_from_turn_to_turn(data_free, critic):
    """New ones and those of the past alike."""
    critic.network.eval()
    for pool in (None, ImagePool(500, (3, 8, 8))):
        objective, seen = replace(data_free(memory=True, steps=(1, 3)), pool=pool), []
        if pool is not None:
            pool.put(torch.rand(400, 3, 8, 8))
        objective.network.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        first, second = objective.updates
        first.losses(Step(0, 0, 0))
        seen.clear()  # the adversarial term looks too
        for _ in range(3):
            second.losses(Step(0, 0, 0))
        rows = torch.cat(seen).flatten(1)
        assert len({tuple(row.tolist()) for row in rows}) == len(rows) == 3 * BATCH


@pytest.mark.parametrize("kind", ["cpu bf16", "gpu", "gpu 16"])
def test_devices_and_precisions(kind, request, engine, data_free, teacher, tmp_path):
    """Losses are in float32; on a GPU the bits of the CPU come out where precision is whole."""
    place, _, half = kind.partition(" ")
    given = {"memory": True, "steps": (1, 2)}
    # Adam would make steps of rounding: the gradient of a bias before a BatchNorm is nothing else.
    turns = (SECOND, replace(SECOND, times=2))
    wanted, objective = (replace(data_free(**given), turns=turns) for _ in range(2))
    wanted.network[-2].p = objective.network[-2].p = 0.0  # a GPU draws other numbers
    if not half:
        engine.train(wanted, KEY, tmp_path / "cpu", Steps(COUNT), validated=False)
    if place == "gpu":
        request.getfixturevalue("gpu")
    engine.devices = replace(
        engine.devices, accelerator=place,
        precision={"": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[half],
    )  # fmt: skip
    seen, judge = [], Critic.judge

    def noted(self, images):
        logits, terms = judge(self, images)
        seen.append((logits.dtype, {term.dtype for term in terms.values()}, images.device.type))
        return logits, terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Critic, "judge", noted)
        engine.train(objective, KEY, tmp_path / "there", Steps(COUNT), validated=False)
    type_of = {"": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[half]
    device = "cuda" if place == "gpu" else "cpu"
    assert set(map(str, seen)) == {str((type_of, {torch.float32}, device))}
    for name, part in {"network": objective.network, **objective.parts}.items():
        theirs = {"network": wanted.network, **wanted.parts}[name].state_dict()
        for key, tensor in part.state_dict().items():
            assert tensor.device.type == "cpu", key
            assert not tensor.is_floating_point() or tensor.dtype == torch.float32
            assert bool(torch.isfinite(tensor).all()), key
            if not half:
                torch.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=1e-5)
    assert not equal(objective.network, data_free().network)
    assert not any(parameter.is_cuda for parameter in teacher.parameters())


def test_a_teacher_that_has_no_logits(engine, critic, data_free, tmp_path):
    class Tuples(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return [self.inner(x)]

    objective = data_free(losses=Losses(activation=0))
    odd = Critic(Pupil(Tuples(critic.network), None), objective.critic.losses)
    with pytest.raises(ThinetError, match="where logits are expected"):
        engine.train(replace(objective, critic=odd), KEY, tmp_path, Steps(COUNT), validated=False)
