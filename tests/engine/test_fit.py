"""Engine.fit: what it optimizes, how it resumes, what it refuses."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.engine.module import Learner
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.surgery import remove_, trace

PHASES = (Phase(1, 0.05), Phase(2, 0.1, "cosine", warmup=0.5))
KEY = "stage 1"


class RecordingSGD(torch.optim.SGD):
    """Notes learning rate, gradients and parameters of every step."""

    def __init__(self, parameters, log, **settings):
        super().__init__(parameters, **settings)
        self.log = log

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        loss = closure()
        self.log.append(
            {
                "lr": self.param_groups[0]["lr"],
                "grads": [p.grad.clone() for p in parameters],
                "ids": {id(p) for p in parameters},
            }
        )
        super().step()
        return loss


def recording(log, **more):
    return Training(partial(RecordingSGD, log=log, lr=1.0, weight_decay=1e-2), **more)


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


WHOLE = {}


@pytest.fixture
def uninterrupted(engine, training, make_network, tmp_path):
    """Weights, accuracy and steps of a fit that nobody disturbs; made once."""
    if not WHOLE:
        network = make_network()
        accuracy = engine.fit(network, PHASES, training, KEY, tmp_path / "whole")
        WHOLE["found"] = network.state_dict(), accuracy, engine.step
        engine.step = 0
    return WHOLE["found"]


# 9 steps of three epochs: at once, within each epoch, at the first step of one, between, at the end
KILLS = [
    ("step", 0), ("step", 2), ("step", 3), ("step", 5), ("step", 8),
    ("validation", 0), ("validation", 2), ("end", 0),
]  # fmt: skip


@pytest.mark.parametrize(("where", "after"), KILLS, ids=lambda value: str(value))
def test_a_killed_fit_called_again_ends_in_the_same_bits(
    where, after, engine, training, make_network, tmp_path, kill, uninterrupted
):
    wanted, accuracy, steps = uninterrupted
    kill(where, after)
    with pytest.raises(BaseException, match=r"^$"):
        engine.fit(make_network(), PHASES, training, KEY, tmp_path / "fit")
    assert engine.step == 0
    torch.manual_seed(99)  # a new process draws other numbers
    network = make_network()
    assert engine.fit(network, PHASES, training, KEY, tmp_path / "fit") == accuracy
    assert equal(network.state_dict(), wanted)
    assert engine.step == steps == 9


def test_two_kills_in_one_fit(engine, training, make_network, tmp_path, kill, uninterrupted):
    network = make_network()
    for after in (4, 3):
        kill("step", after)
        with pytest.raises(BaseException, match=r"^$"):
            engine.fit(make_network(), PHASES, training, KEY, tmp_path / "fit")
    engine.fit(network, PHASES, training, KEY, tmp_path / "fit")
    assert equal(network.state_dict(), uninterrupted[0])


def test_a_resumed_fit_does_not_repeat_finished_epochs(
    engine, make_network, tmp_path, kill, training
):
    kill("step", 7)
    with pytest.raises(BaseException, match=r"^$"):
        engine.fit(make_network(), PHASES, training, KEY, tmp_path)
    log = []
    engine.fit(make_network(), PHASES, recording(log), KEY, tmp_path)
    assert len(log) == 3


def test_order_dropout_and_augmentation_differ_between_stages(
    engine, training, make_network, tmp_path, uninterrupted
):
    network = make_network()
    engine.fit(network, PHASES, training, "stage 2", tmp_path / "other")
    assert not equal(network.state_dict(), uninterrupted[0])


def test_augmentation_is_on(engine, training, make_network, tmp_path, uninterrupted):
    engine.data = type(engine.data)(image_size=8, batch_size=32, crop="none", seed=3)
    engine.data.check()
    network = make_network()
    engine.fit(network, PHASES, training, KEY, tmp_path / "other")
    assert not equal(network.state_dict(), uninterrupted[0])


def test_the_learning_rate_follows_the_phases_step_by_step(engine, make_network, tmp_path):
    log = []
    engine.fit(make_network(), PHASES, recording(log), KEY, tmp_path)
    wanted = [0.05] * 3
    for step in range(6):
        epoch = step / 3
        if epoch < 0.5:
            wanted.append(0.1 * (epoch + 1e-3) / (0.5 + 1e-3))
        else:
            wanted.append(0.1 * 0.5 * (1 + math.cos(math.pi * (epoch - 0.5) / 1.5)))
    assert [row["lr"] for row in log] == pytest.approx(wanted, rel=1e-6)


def test_the_optimizer_holds_the_parameters_that_surgery_made(engine, make_network, tmp_path):
    network = make_network()
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    engine.fit(network, [Phase(1, 0.1)], recording([]), "before", tmp_path / "before")
    remove_(network, graph, {"0": [1, 4, 5]})
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    log = []
    engine.fit(network, [Phase(1, 0.1)], recording(log), "after", tmp_path / "after")
    assert log[0]["ids"] == {id(p) for p in network.parameters()}
    assert network[0].weight.shape == (3, 3, 3, 3)
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} was not trained"


def test_frozen_parameters_stay(engine, training, make_network, tmp_path):
    network = make_network()
    network[0].weight.requires_grad_(False)
    frozen = network[0].weight.clone()
    engine.fit(network, [Phase(1, 0.1)], training, KEY, tmp_path)
    assert torch.equal(network[0].weight, frozen)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_gradient_clipping(clip, engine, make_network, tmp_path):
    log = []
    engine.fit(make_network(), [Phase(1, 1e-4)], recording(log, clip_norm=clip), KEY, tmp_path)
    norms = [
        torch.linalg.vector_norm(torch.cat([g.flatten() for g in row["grads"]])) for row in log
    ]
    if clip is None:
        assert min(norms) > 0.06, "the limit of the other case would have no effect"
    else:
        assert max(norms) <= clip * 1.0001
        assert min(norms) > clip * 0.99


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy_with_smoothed_labels(smoothing, engine, make_network, tmp_path):
    network = make_network()
    network[3].p = 0.0
    twin = copy.deepcopy(network)
    log = []
    engine.fit(network, [Phase(1, 0.1)], recording(log, label_smoothing=smoothing), KEY, tmp_path)

    engine.data.trainer = None
    engine.data.stage_key = KEY
    images, labels = next(iter(engine.data.train_dataloader()))
    logs = torch.log_softmax(twin.train()(images), 1)
    own = -logs[torch.arange(len(labels)), labels]
    loss = ((1 - smoothing) * own - smoothing * logs.mean(1)).mean()
    wanted = torch.autograd.grad(loss, list(twin.parameters()))
    # the decay is added inside step(), after the gradients were noted
    for got, expected in zip(log[0]["grads"], wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_the_accuracy_is_that_of_the_trained_network(engine, training, make_network, tmp_path):
    network = make_network()
    assert engine.fit(network, PHASES, training, KEY, tmp_path) == engine.evaluate(network, "val")
    assert next(network.parameters()).device.type == "cpu"


def test_steps_add_up_over_stages(engine, training, make_network, tmp_path):
    network = make_network()
    engine.fit(network, PHASES, training, KEY, tmp_path / "a")
    engine.fit(network, [Phase(2, 0.1)], training, KEY, tmp_path / "b")
    assert engine.step == 9 + 6


def test_a_whole_epoch_sees_every_image_once(engine, make_network, tmp_path):
    from dataclasses import replace

    engine.devices = replace(engine.devices, max_steps_per_epoch=None)
    engine.fit(make_network(), [Phase(1, 0.01)], recording(log := []), KEY, tmp_path)
    images = 1797 - 359 - len(engine.data._val)
    assert len(log) == math.ceil(images / 32) == engine.step


def test_divergence_is_reported_and_not_saved(engine, make_network, tmp_path):
    with pytest.raises(ThinetError, match=r"training diverged.* type smaller learning rates"):
        engine.fit(make_network(), [Phase(3, 1e30)], recording([]), KEY, tmp_path)
    assert not list(tmp_path.glob("*.ckpt"))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _foreign(path):
    torch.save({"model": torch.zeros(3)}, path)


class Code:
    def __reduce__(self):
        return (print, ("executed",))


DAMAGES = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "foreign": _foreign,
    "code": lambda path: torch.save(Code(), path),
    "list": lambda path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported(
    damage, engine, training, make_network, tmp_path, kill, capsys
):
    kill("step", 4)
    with pytest.raises(BaseException, match=r"^$"):
        engine.fit(make_network(), PHASES, training, KEY, tmp_path)
    DAMAGES[damage](tmp_path / "last.ckpt")
    with pytest.raises(ThinetError, match=r"last\.ckpt is damaged .*delete it"):
        engine.fit(make_network(), PHASES, training, KEY, tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_a_checkpoint_of_another_network_is_refused(engine, training, make_network, tmp_path, kill):
    kill("step", 4)
    with pytest.raises(BaseException, match=r"^$"):
        engine.fit(make_network(), PHASES, training, KEY, tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(ThinetError, match="another architecture"):
        engine.fit(other, PHASES, training, KEY, tmp_path)


def test_a_slim_checkpoint_resumes_in_a_network_of_full_width(
    engine, training, make_network, tmp_path, kill
):
    def slim():
        network = make_network()
        return remove_(network, trace(network, torch.zeros(1, 3, 8, 8)), {"0": [0, 2]})

    wanted = slim()
    engine.fit(wanted, PHASES, training, KEY, tmp_path / "whole")
    kill("step", 4)
    with pytest.raises(BaseException, match=r"^$"):
        engine.fit(slim(), PHASES, training, KEY, tmp_path / "fit")
    content = torch.load(tmp_path / "fit" / "last.ckpt", weights_only=True)
    assert content["state_dict"]["network.0.weight"].shape == (2, 3, 3, 3)
    full = make_network()
    engine.fit(full, PHASES, training, KEY, tmp_path / "fit")
    assert equal(full.state_dict(), wanted.state_dict())
    assert full[0].out_channels == full[1].num_features == 2
    assert full[5].in_features == 18


def test_ctrl_c_arrives_as_keyboard_interrupt(
    engine, training, make_network, tmp_path, monkeypatch
):
    import signal

    def interrupted(*_):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Learner, "training_step", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.fit(make_network(), PHASES, training, KEY, tmp_path)
        monkeypatch.setattr(Learner, "validation_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.evaluate(make_network(), "val")
    finally:
        signal.signal(signal.SIGINT, handler)


def test_clear_removes_the_checkpoint(engine, training, make_network, tmp_path):
    engine.fit(make_network(), [Phase(1, 0.1)], training, KEY, tmp_path / "fit")
    assert (tmp_path / "fit" / "last.ckpt").exists()
    engine.clear(tmp_path / "fit")
    assert not (tmp_path / "fit").exists()


def test_calibration_images_are_plain_and_ordered(engine):
    engine.data.setup()
    calibration = engine.calibration(7)
    wanted = [engine.data.calibration()[i] for i in range(100)]
    assert len(calibration.images) == 100
    assert all(torch.equal(a, b) for a, (b, _) in zip(calibration.images, wanted, strict=True))
    assert calibration.labels.tolist() == [label for _, label in wanted]


def test_the_classifier_learns_as_much_faster_as_was_asked_for(engine, make_network, tmp_path):
    rates, log = [], []

    class Apart(RecordingSGD):
        def step(self, closure=None):
            rates.append(
                [(len(g["params"]), g["lr"], g["weight_decay"]) for g in self.param_groups]
            )
            return super().step(closure)

    training = Training(partial(Apart, log=log, lr=1.0, weight_decay=1e-2), head_factor=10.0)
    engine.fit(make_network(), [Phase(1, 0.05)], training, KEY, tmp_path)
    assert rates == [[(4, 0.05, 1e-2), (2, pytest.approx(0.5), pytest.approx(0.1))]] * 3


def test_every_batch_draws_its_own_numbers_and_every_stage_others(
    engine, training, make_network, tmp_path, monkeypatch
):
    seeds, original = [], Learner.training_step

    def step(self, *args):
        seeds.append(torch.initial_seed())
        return original(self, *args)

    monkeypatch.setattr(Learner, "training_step", step)
    for stage in ("a", "b"):
        engine.fit(make_network(), PHASES, training, stage, tmp_path / stage)
    assert len(set(seeds)) == len(seeds) == 18
