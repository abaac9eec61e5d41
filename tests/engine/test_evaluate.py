"""Engine.evaluate against a loop by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from thinet.engine.engine import Engine
from thinet.engine.phases import Phase
from thinet.engine.settings import Accuracy, Devices


def by_hand(network, loader):
    network.eval()
    images = first = five = 0
    with torch.no_grad():
        for batch, labels in loader:
            ranked = network(batch).argsort(1, descending=True)
            images += len(labels)
            first += int((ranked[:, 0] == labels).sum())
            five += int((ranked[:, :5] == labels[:, None]).any(1).sum())
    return first / images, five / images, images


@pytest.mark.parametrize(("split", "wanted_images"), [("val", 145), ("test", 359)])
def test_accuracy_equals_a_loop_by_hand(split, wanted_images, engine, make_network):
    network = make_network()
    engine.data.setup()
    loader = engine.data.val_dataloader() if split == "val" else engine.data.test_dataloader()
    top1, top5, images = by_hand(make_network(), loader)
    found = engine.evaluate(network, split)
    assert images == wanted_images
    assert 0 < top1 < top5 < 1
    assert (found.top1, found.top5) == pytest.approx((top1, top5), abs=1e-6)


def test_evaluation_changes_nothing(engine, make_network):
    network = make_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    engine.evaluate(network, "val")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert engine.step == 0


def test_max_steps_do_not_shorten_evaluation(engine, make_network):
    whole = Engine(engine.data, Devices(accelerator="cpu"), seed=3)
    assert engine.evaluate(make_network(), "test") == whole.evaluate(make_network(), "test")


def test_a_perfect_network_scores_one(engine):
    """Labels drawn into the images come back; the network must see them unscaled and in order."""
    engine.data.setup()
    images = torch.stack([engine.data._test[i][0] for i in range(359)]).flatten(1)
    labels = torch.tensor([engine.data._test[i][1] for i in range(359)])

    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            nearest = torch.cdist(batch.flatten(1), images).argmin(1)
            return nn.functional.one_hot(labels[nearest], 10).float()

    assert engine.evaluate(Memory(), "test") == Accuracy(1.0, 1.0)


def test_fewer_than_five_classes(engine, make_network, monkeypatch):
    monkeypatch.setattr(type(engine.data), "load_parts", _two_classes(type(engine.data).load_parts))
    monkeypatch.setattr(type(engine.data), "check", lambda self: None)
    engine.data.num_classes = 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    found = engine.evaluate(network, "test")
    assert found.top5 == 1.0
    assert 0 <= found.top1 < 1


def _two_classes(load_parts):
    def make(self):
        parts = load_parts(self)
        for images in (parts.train, parts.test):
            images.labels[:] %= 2
        return parts

    return make


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_network_runs_in_the_precision_that_was_asked_for(
    precision, engine, training, make_network, tmp_path
):
    engine.devices = replace(engine.devices, precision=precision, max_steps_per_epoch=1)
    network, seen = make_network(), set()
    network[0].register_forward_hook(lambda _m, _a, out: seen.add((network.training, out.dtype)))
    engine.fit(network, [Phase(1, 0.1)], training, "stage", tmp_path)
    engine.evaluate(network, "test")
    wanted = torch.float32 if precision == "32-true" else torch.bfloat16
    assert seen == {(True, wanted), (False, wanted)}
    assert {value.dtype for value in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_kernels_where_they_were_asked_for(deterministic, engine, make_network):
    engine.devices = replace(engine.devices, deterministic=deterministic)
    network, seen = make_network(), set()
    network[0].register_forward_hook(
        lambda *_: seen.add(torch.are_deterministic_algorithms_enabled())
    )
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        engine.evaluate(network, "val")
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == {deterministic}
