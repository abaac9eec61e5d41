"""What an objective trains, against loops written by hand; and that a kill changes nothing."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinet.base.errors import DivergedError, ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.sampler import EpochBatches
from thinet.datasets.steps import Step, Steps
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.objective import Objective, Supervised, Update
from thinet.engine.phases import Phase, learning_rate
from thinet.engine.settings import Training

PHASES = (Phase(1, 0.05), Phase(1, 0.1, "cosine", warmup=0.5))
KEY = "stage 1"
STEPS = 3  # an epoch, as the engine's fixture has them
ADAM = Training(partial(torch.optim.Adam, lr=1.0), clip_norm=0.5)
NOISE = 4


def equal(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def make_generator():
    """Noise to images; BatchNorm and dropout hold what a resumed run must restore."""

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return nn.Sequential(
                nn.Linear(NOISE, 3 * 8 * 8), nn.BatchNorm1d(3 * 8 * 8), nn.Dropout(0.2),
                nn.Tanh(), nn.Unflatten(1, (3, 8, 8)),
            )  # fmt: skip

    return make


@dataclass(frozen=True, eq=False)
class Distilled(Objective):
    """A student learns from labels and from a teacher: several terms, one update."""

    network: nn.Module
    teacher: nn.Module
    training: Training
    phases: Sequence[Phase] = PHASES

    @property
    def frozen(self):
        return (self.teacher,)

    @property
    def updates(self):
        weights = {"hard": 0.3, "soft": 0.7}
        return (Update((self.network,), self.loss, weights, self.phases, self.training),)

    def loss(self, batch):
        images, labels = batch
        assert not any(module.training for module in self.teacher.modules())
        assert self.network.training
        with torch.no_grad():
            wanted = self.teacher(images).softmax(1)
        return {
            "hard": F.cross_entropy(self.network(images), labels),
            "soft": F.cross_entropy(self.network(images), wanted),
        }


@dataclass(frozen=True, eq=False)
class DataFree(Objective):
    """A generator makes images on which a student agrees with its teacher: alternate updates."""

    network: nn.Module
    teacher: nn.Module
    generator: nn.Module
    training: Training
    phases: Sequence[Phase] = PHASES
    others: Sequence[Phase] = PHASES
    seen: list[Any] = field(default_factory=list)

    @property
    def frozen(self):
        return (self.teacher,)

    @property
    def parts(self):
        return {"generator": self.generator}

    @property
    def updates(self):
        return (
            Update(
                (self.generator,), self.generate, {"sure": 1.0, "apart": 0.1}, self.others, ADAM,
                "images",
            ),
            Update((self.network,), self.learn, {"agree": 1.0}, self.phases, self.training),
        )  # fmt: skip

    def images(self):
        device = next(self.generator.parameters()).device
        return self.generator(torch.randn(8, NOISE).to(device))

    def generate(self, batch):
        assert not any(parameter.requires_grad for parameter in self.network.parameters())
        images = self.images()
        said = self.teacher(images)
        return {
            "sure": F.cross_entropy(said, said.argmax(1)),
            "apart": -(said - self.network(images)).abs().mean(),
        }

    def learn(self, batch):
        self.seen.append(batch if isinstance(batch, Step) else batch[1].tolist())
        images = self.images().detach()
        return {"agree": F.mse_loss(self.network(images), self.teacher(images))}


@pytest.fixture
def teacher(make_network):
    torch.manual_seed(5)
    network = make_network(8)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.train()


@pytest.fixture
def data_free(make_network, make_generator, teacher, training):
    """``data_free()``: an objective of new networks and the one teacher."""
    return lambda **more: DataFree(make_network(), teacher, make_generator(), training, **more)


def begin(epoch, step, seed=3):
    torch.manual_seed(derive_seed(derive_seed(seed, KEY), "batch", epoch, step, 0))


def batches_of(engine, epoch):
    engine.data.trainer, engine.data.stage_key = None, KEY
    loader = engine.data.train_dataloader()
    loader.order.set_epoch(epoch)
    return [batch for batch, _ in zip(loader, range(STEPS), strict=False)]


def step_of(optimizer, parameters, loss, rate, clip):
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def by_hand(engine, network, loss, training):
    """Plain training of PHASES: ``loss(images, labels)``."""
    network.train()
    parameters = list(network.parameters())
    optimizer, rate = training.make_optimizer(parameters), learning_rate(PHASES)
    for epoch in range(2):
        for step, (images, labels) in enumerate(batches_of(engine, epoch)):
            begin(epoch, step)
            now = rate((STEPS * epoch + step) / STEPS)
            step_of(optimizer, parameters, loss(images, labels), now, training.clip_norm)
    return network


def test_one_update_is_a_plain_loop(engine, training, make_network, tmp_path):
    network, twin = make_network(), make_network()
    accuracy = engine.fit(network, PHASES, training, KEY, tmp_path / "a")
    by_hand(
        engine, twin, lambda images, labels: F.cross_entropy(
            twin(images), labels, label_smoothing=training.label_smoothing
        ), training,
    )  # fmt: skip
    assert equal(network, twin)
    again = make_network()
    found = engine.train(Supervised(again, PHASES, training), KEY, tmp_path / "b")
    assert found == accuracy
    assert equal(again, network)
    assert engine.step == 4 * STEPS


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_terms_are_weighted_summed_and_logged(engine, training, make_network, teacher, tmp_path):
    network, twin = make_network(), make_network()
    before = copy.deepcopy(teacher)
    engine.loggers = [RunCSVLogger(tmp_path)]
    engine.train(Distilled(network, teacher, training), KEY, tmp_path / "fit")
    rows = [row for row in rows_of(tmp_path) if row["train/loss"]]
    calm, seen = copy.deepcopy(before).eval(), []

    def loss(images, labels):
        hard = F.cross_entropy(twin(images), labels)
        soft = F.cross_entropy(twin(images), calm(images).detach().softmax(1))
        seen.append([hard.item(), soft.item()])
        return 0.3 * hard + 0.7 * soft

    by_hand(engine, twin, loss, training)
    assert equal(network, twin)
    assert len(rows) == 2
    for epoch, row in enumerate(rows):
        means = torch.tensor(seen[STEPS * epoch : STEPS * (epoch + 1)]).mean(0).tolist()
        assert [float(row["train/hard"]), float(row["train/soft"])] == pytest.approx(means, 1e-4)
        assert float(row["train/loss"]) == pytest.approx(0.3 * means[0] + 0.7 * means[1], 1e-4)
    assert equal(teacher, before)


def test_a_single_term_is_not_logged_twice(engine, training, make_network, tmp_path):
    engine.devices = replace(engine.devices, max_steps_per_epoch=10)  # rates are logged every ten
    engine.loggers = [RunCSVLogger(tmp_path)]
    engine.fit(make_network(), PHASES, training, KEY, tmp_path / "fit")
    engine.loggers[0].save()
    (keys,) = {tuple(sorted(row)) for row in rows_of(tmp_path)}
    assert {key for key in keys if key.startswith("train/")} == {"train/loss", "train/lr"}


def test_the_teacher_rests_and_is_in_no_checkpoint(
    engine, training, make_network, teacher, tmp_path
):
    before = copy.deepcopy(teacher)
    teacher[0].weight.requires_grad_(False)
    teacher[3].eval()
    engine.train(Distilled(make_network(), teacher, training), KEY, tmp_path)
    assert equal(teacher, before)
    needs = {name: parameter.requires_grad for name, parameter in teacher.named_parameters()}
    assert [name for name, need in needs.items() if not need] == ["0.weight"]
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.training
    assert not teacher[3].training, "each module's own mode is given back"
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in content["state_dict"]} == {"network"}
    assert len(content["state_dict"]) == len(make_network().state_dict())


def alternate_by_hand(engine, objective):
    """Both updates of :class:`DataFree` in turn."""
    generator, network = objective.generator.train(), objective.network.train()
    teacher = copy.deepcopy(objective.teacher).eval()
    own, others = list(network.parameters()), list(generator.parameters())
    first = ADAM.make_optimizer(others)
    second, rate = objective.training.make_optimizer(own), learning_rate(PHASES)
    for epoch in range(2):
        for step in range(STEPS):
            begin(epoch, step)
            now = rate((STEPS * epoch + step) / STEPS)
            images = generator(torch.randn(8, NOISE))
            said = teacher(images)
            sure = F.cross_entropy(said, said.argmax(1))
            apart = -(said - network(images)).abs().mean()
            step_of(first, others, sure + 0.1 * apart, now, ADAM.clip_norm)
            images = generator(torch.randn(8, NOISE)).detach()
            loss = F.mse_loss(network(images), teacher(images))
            step_of(second, own, loss, now, objective.training.clip_norm)
    return objective


@pytest.mark.parametrize("batches", [None, Steps(STEPS)], ids=["beside images", "without images"])
def test_alternate_updates_are_a_loop_of_both(batches, engine, data_free, tmp_path):
    objective = data_free()
    engine.loggers = [RunCSVLogger(tmp_path)]
    accuracy = engine.train(objective, KEY, tmp_path / "fit", batches)
    twin = alternate_by_hand(engine, data_free())
    assert equal(objective.network, twin.network)
    assert equal(objective.generator, twin.generator)
    assert accuracy == engine.evaluate(objective.network, "val")
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert engine.step == 2 * STEPS
    rows = rows_of(tmp_path)
    found = {key: [int(row["step"]) for row in rows if row.get(key)] for key in rows[0]}
    for key in ("train/loss", "train/images", "train/sure", "train/apart", "val/top1"):
        assert found[key] == [STEPS, 2 * STEPS], key
    assert {key for key in found if key.startswith("train/lr")} <= {
        "train/lr_loss", "train/lr_images"
    }  # fmt: skip
    content = torch.load(tmp_path / "fit" / "last.ckpt", weights_only=True)
    names = {name.rpartition(".")[0].rstrip("0123456789") for name in content["state_dict"]}
    assert names == {"network.", "parts.generator."}


def test_an_update_made_several_times_is_logged_once(engine, data_free, tmp_path, monkeypatch):
    """Steps are those of batches, rates follow them, and watchers are told what was logged."""
    told: list[tuple[int, dict[str, float]]] = []
    made: list[dict[str, float]] = []
    losses = Update.losses

    @dataclass(frozen=True, eq=False)
    class Several(DataFree):
        @property
        def updates(self):
            first, second = super().updates
            return replace(first, times=2), replace(second, times=3)

        def after_epoch(self, epoch, figures):
            told.append((epoch, dict(figures)))

    def note(self, batch):
        found = losses(self, batch)
        made.append({name: float(loss.detach()) for name, loss in found.items()})
        return found

    monkeypatch.setattr(Update, "losses", note)
    engine.step, engine.loggers = 4, [RunCSVLogger(tmp_path)]
    one = data_free()
    engine.train(Several(one.network, one.teacher, one.generator, one.training), KEY, tmp_path)
    assert engine.step == 4 + 2 * STEPS
    assert [sorted(one) for one in made[:5]] == 2 * [["apart", "images", "sure"]] + 3 * [["loss"]]
    assert len(made) == 2 * STEPS * (2 + 3)
    rows = [row for row in rows_of(tmp_path) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [4 + STEPS, 4 + 2 * STEPS]
    assert [epoch for epoch, _ in told] == [0, 1]
    for epoch, (row, (_, figures)) in enumerate(zip(rows, told, strict=True)):
        turns = made[5 * STEPS * epoch : 5 * STEPS * (epoch + 1)]
        for name, last in (("images", 1), ("sure", 1), ("loss", 4)):
            mean = sum(turn[name] for turn in turns[last::5]) / STEPS
            assert figures[f"train/{name}"] == pytest.approx(mean, rel=1e-5)
            assert float(row[f"train/{name}"]) == pytest.approx(mean, rel=1e-4)
        assert 0 <= figures["val/top1"] <= 1


KILLS = [("step", after) for after in range(6)] + [("validation", 0), ("validation", 1), ("end", 0)]


@pytest.mark.parametrize(("where", "after"), KILLS, ids=str)
def test_killed_alternate_updates_end_in_the_same_bits(
    where, after, engine, data_free, tmp_path, kill
):
    engine.devices = replace(engine.devices, checkpoint_minutes=0)
    batches = Steps(STEPS) if after % 2 else None

    def run(folder):
        folder.mkdir(exist_ok=True)
        engine.step, engine.loggers = 4, [RunCSVLogger(folder)]
        objective = data_free()
        accuracy = engine.train(objective, KEY, folder / "fit", batches)
        engine.loggers[0].save()
        return objective, accuracy, (folder / "metrics.csv").read_text()

    wanted = run(tmp_path / "whole")
    kill(where, after)
    with pytest.raises(BaseException, match=r"^$"):
        run(tmp_path / "killed")
    torch.manual_seed(99)
    found = run(tmp_path / "killed")
    assert equal(found[0].network, wanted[0].network)
    assert equal(found[0].generator, wanted[0].generator)
    assert found[1:] == wanted[1:]
    whole, rest = wanted[0].seen, found[0].seen
    assert len(whole) == 2 * STEPS
    assert rest == whole[len(whole) - len(rest) :], "other batches than without the kill"
    assert where != "step" or len(rest) == len(whole) - after, "steps were repeated"
    assert engine.step == 4 + 2 * STEPS


def test_a_teacher_given_again_teaches_on(engine, training, make_network, teacher, tmp_path, kill):
    engine.devices = replace(engine.devices, checkpoint_minutes=0)
    whole, half, network = make_network(), make_network(), make_network()
    engine.train(Distilled(whole, teacher, training), KEY, tmp_path / "whole")
    kill("step", 4)
    with pytest.raises(BaseException, match=r"^$"):
        engine.train(Distilled(half, copy.deepcopy(teacher), training), KEY, tmp_path / "fit")
    engine.train(Distilled(network, copy.deepcopy(teacher), training), KEY, tmp_path / "fit")
    assert equal(network, whole)


class OfEachClass(EpochBatches):
    """Two classes a batch, six images of each, drawn anew for each batch."""

    def batches(self, random: torch.Generator) -> list[list[int]]:
        labels = torch.tensor(self.labels)
        found = []
        for _ in range(5):
            batch = []
            for one in torch.randperm(10, generator=random)[:2]:
                (own,) = torch.where(labels == one)
                batch += own[torch.randperm(len(own), generator=random)[:6]].tolist()
            found.append(batch)
        return found


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_ones_own_go_on_within_an_epoch(
    workers, engine, training, make_network, tmp_path, kill
):
    engine.devices = replace(engine.devices, checkpoint_minutes=0, max_steps_per_epoch=4)
    engine.data.num_workers = workers
    seen = []

    @dataclass(frozen=True, eq=False)
    class Watching(Supervised):
        def _loss(self, batch):
            seen.append((batch[0].clone(), batch[1].tolist()))
            return super()._loss(batch)

    def run(folder):
        network = make_network()
        engine.train(Watching(network, PHASES, training), KEY, tmp_path / folder, OfEachClass)
        return network

    whole = run("whole")
    wanted, before = list(seen), engine.step
    assert before == 2 * 4
    assert all(len(labels) == 12 and len(set(labels)) == 2 for _, labels in wanted)
    assert len({tuple(labels) for _, labels in wanted}) > 1, "every batch has the same classes"
    seen.clear()
    kill("step", 5)
    with pytest.raises(BaseException, match=r"^$"):
        run("killed")
    assert equal(run("killed"), whole)
    assert [labels for _, labels in seen] == [labels for _, labels in wanted], "none twice"
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(seen, wanted, strict=True))
    assert engine.data.batches is None, "the next training has shuffled images again"


def test_an_epoch_of_steps_has_as_many_as_were_asked_for(engine, data_free, tmp_path):
    engine.devices = replace(engine.devices, max_steps_per_epoch=None)
    engine.train(data_free(), KEY, tmp_path, Steps(7))
    assert engine.step == 2 * 7


def test_each_update_may_have_its_own_course(engine, data_free, tmp_path):
    still = [Phase(2, 1e-30)]
    objective = data_free(others=still)
    engine.train(objective, KEY, tmp_path / "a", Steps(2))
    before = data_free()
    for own, old in zip(
        objective.generator.parameters(), before.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(own, old, rtol=0, atol=1e-20)
    assert not torch.equal(objective.network[0].weight, before.network[0].weight)
    with pytest.raises(ThinetError, match="1 for images, 2 for loss"):
        engine.train(data_free(others=[Phase(1, 0.1)]), KEY, tmp_path / "b", Steps(2))


@dataclass(frozen=True, eq=False)
class Diverging(DataFree):
    """A term that is lost."""

    which: str = "apart"

    def generate(self, batch):
        found = super().generate(batch)
        return {**found, self.which: found[self.which] * math.inf} if self.which in found else found

    def learn(self, batch):
        found = super().learn(batch)
        return {**found, self.which: found[self.which] * math.nan} if self.which in found else found


@pytest.mark.parametrize(("which", "said"), [("apart", " images"), ("agree", "")])
@pytest.mark.parametrize("look", [1, 50], ids=["within the epoch", "at its end"])
def test_every_loss_that_diverges_is_reported(
    which, said, look, engine, make_network, make_generator, teacher, training, tmp_path,
    monkeypatch,
):  # fmt: skip
    monkeypatch.setattr("thinet.engine.module.LOOK_AT_LOSS", look)
    objective = Diverging(make_network(), teacher, make_generator(), training, which=which)
    with pytest.raises(DivergedError, match=f"the loss{said} of epoch 1 is not finite"):
        engine.train(objective, KEY, tmp_path, Steps(1))
    assert not list(tmp_path.glob("*.ckpt"))


@dataclass(frozen=True, eq=False)
class Given(Objective):
    """Whatever updates a test gives."""

    network: nn.Module
    given: Sequence[Update]
    teachers: Sequence[nn.Module] = ()

    @property
    def updates(self):
        return self.given

    @property
    def frozen(self):
        return self.teachers


def test_objectives_that_contradict_themselves_are_refused(
    engine, training, make_network, tmp_path
):
    network = make_network()
    own = Update((network,), lambda batch: {"b": torch.zeros(())}, {"a": 1.0}, PHASES, training)
    other = replace(own, modules=(make_network(),), name="other")
    wrong = {
        "names of their own": Given(network, [own, own]),
        "names": Given(network, []),
        "must belong": Given(network, [own, other]),
        "must not belong": Given(network, [own], [network[0]]),
        r"terms \['b'\] of update loss: \['a'\]": Given(network, [own]),
        "made once for every batch": Given(network, [replace(own, times=2)]),
    }
    for said, objective in wrong.items():
        with pytest.raises(ValueError, match=said):
            engine.train(objective, KEY, tmp_path)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision, request, engine, data_free, make_network, training, tmp_path):
    """Gradients of each update have their true scale when they are clipped."""
    if precision == "16-mixed":
        request.getfixturevalue("gpu")
        engine.devices = replace(engine.devices, accelerator="gpu")
    engine.devices = replace(engine.devices, precision=precision)
    norms, clip = [], nn.utils.clip_grad_norm_

    def note(parameters, *args, **settings):
        parameters = list(parameters)
        norms.append(clip(parameters, *args, **settings))
        return norms[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", note)
        objective = data_free()
        engine.train(objective, KEY, tmp_path, Steps(STEPS))
    assert len(norms) == 2 * 2 * STEPS
    finite = [float(norm) for norm in norms if math.isfinite(norm)]
    assert len(finite) >= len(norms) - 1, "the first scale may have been too large"
    assert all(0 < norm < 100 for norm in finite), norms
    twin = data_free()
    for network, old in (
        (objective.network, twin.network), (objective.generator, twin.generator)
    ):  # fmt: skip
        state = network.state_dict()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
        assert not equal(network, old)
        assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["as on the CPU", "as without a kill"])
def test_killed_on_a_gpu(dropout, engine, data_free, tmp_path, request, kill):
    """A GPU draws other numbers for its dropout."""
    engine.devices = replace(engine.devices, checkpoint_minutes=0)
    places: list[str] = []

    @dataclass(frozen=True, eq=False)
    class Placed(DataFree):
        def learn(self, batch: Step) -> dict[str, Tensor]:
            assert isinstance(batch, Step)
            places.extend(p.device.type for p in self.teacher.parameters())
            return super().learn(batch)

    def run(folder):
        new = data_free()
        new.network[3].p = new.generator[2].p = dropout
        objective = Placed(new.network, new.teacher, new.generator, new.training)
        engine.train(objective, KEY, tmp_path / folder, Steps(STEPS))
        return objective

    wanted = run("cpu") if not dropout else None
    request.getfixturevalue("gpu")
    engine.devices = replace(engine.devices, accelerator="gpu")
    if wanted is None:
        wanted = run("whole")
    places.clear()
    kill("step", 4)
    with pytest.raises(BaseException, match=r"^$"):
        run("gpu")
    found = run("gpu")
    assert set(places) == {"cuda"}
    assert not any(p.is_cuda for p in [*found.teacher.parameters(), *found.generator.parameters()])
    for own, theirs in ((found.network, wanted.network), (found.generator, wanted.generator)):
        for name, tensor in own.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)
