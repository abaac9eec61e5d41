"""The control: the slim network from random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models import convnext_tiny, mobilenet_v2

import thinet
from thinet.artifacts.store import layer_widths, read_spec
from thinet.base.errors import ThinetError
from thinet.engine.checkpoints import StageCheckpoint
from thinet.engine.engine import Engine
from thinet.models.small_vgg import vgg_small
from thinet.models.vgg import vgg16_gap
from thinet.run.state import RunState
from thinet.surgery import trace
from thinet.training.fresh import cut_fresh_


def test_widths_are_those_that_pruning_leaves(make_run, tmp_path):
    run = make_run("method=scratch", "ratio=0.5")
    found = run.run()
    wanted = make_run("ratio=0.5", folder=tmp_path / "pruned").run()
    assert found.model.flops == wanted.model.flops
    assert found.reference.flops == wanted.reference.flops
    assert found.reference.top1 is None
    assert 0 <= found.model.top1 <= 1
    ours, theirs = (one.details["pruning"] for one in (found, wanted))
    assert [row.filters_after for row in ours.layers] == [
        row.filters_after for row in theirs.layers
    ]
    assert [len(row.kept) for row in ours.layers] == [row.filters_after for row in ours.layers]
    assert ours.before_finetuning is None
    (step,) = run.state.steps
    assert (step.name, step.epochs) == ("scratch", 4)
    assert step.figures["top1"] == found.model.val_top1
    network = thinet.load(tmp_path / "run" / "model")
    assert layer_widths(network) == layer_widths(thinet.load(tmp_path / "pruned" / "model"))
    assert read_spec(tmp_path / "run" / "model").metrics == found.model.figures()


@pytest.mark.parametrize(("asked", "epochs"), [("null", 1 + 3 * 1), ("7", 7)])
def test_it_gets_as_many_epochs_as_pruning_takes(asked, epochs, make_run):
    run = make_run("method=scratch", f"method.epochs={asked}")
    assert len(run.plan.stages) == 3
    phase = run.method.phase(run.setup, run.plan)
    assert phase.epochs == epochs
    assert phase.lr == run.setup.source.phase.lr


def test_a_killed_training_goes_on_to_the_same_weights(make_run, tmp_path, monkeypatch):
    whole = make_run("method=scratch", folder=tmp_path / "whole").run()
    original, epochs = StageCheckpoint.on_train_epoch_end, []

    def die_after_two(self, *args):
        original(self, *args)
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(StageCheckpoint, "on_train_epoch_end", die_after_two)
    with pytest.raises(KeyboardInterrupt):
        make_run("method=scratch", folder=tmp_path / "killed").run()
    again = make_run("method=scratch", folder=tmp_path / "killed").run()
    assert len(epochs) == 4
    assert again.weights_by_process == whole.weights_by_process


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["target=flops:0.5", "allocation=error"], "ratio=@"),
        (["target=latency:0.5"], "ratio=@"),
        (["model.weights={folder}"], "model.weights=none"),
    ],
)
def test_what_needs_trained_weights_is_refused(overrides, words, compose_tiny, plan_of, tmp_path):
    thinet.save(vgg_small(10, 8), tmp_path / "saved")
    filled = [text.format(folder=tmp_path / "saved") for text in overrides]
    with pytest.raises(ThinetError, match=words):
        plan_of(compose_tiny("method=scratch", *filled))


def test_a_kill_after_its_only_step_trains_nothing_again(make_run, tmp_path, monkeypatch):
    whole = make_run("method=scratch", folder=tmp_path / "whole").run()
    original = RunState.save

    def die(self, folder):
        original(self, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", die)
        with pytest.raises(KeyboardInterrupt):
            make_run("method=scratch", folder=tmp_path / "killed").run()
    monkeypatch.setattr(Engine, "fit", None)
    again = make_run("method=scratch", folder=tmp_path / "killed").run()
    assert again.weights_by_process == whole.weights_by_process
    assert replace(again.model, latency_ms=0) == replace(whole.model, latency_ms=0)


@torch.no_grad()
def last_features(network, images):
    return network.features.eval()(images).std()


def test_outputs_keep_their_size():
    """Cut without a correction they would shrink with every layer."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    full = vgg16_gap(10, 32, width=0.25)
    before = last_features(full, images)
    graph = trace(full, images[:1])
    counts = {name: graph.groups[name].units // 4 for name in graph.prunable()}
    weights = full.features[2].weight.clone()
    cut_fresh_(full, counts, images[:1])
    assert full.features[2].weight.shape == (4, 4, 3, 3)
    torch.testing.assert_close(full.features[2].weight, weights[:4, :4] * 2)  # 4 times fewer inputs
    assert 0.5 < last_features(full, images) / before < 2


@pytest.mark.parametrize("make", [mobilenet_v2, convnext_tiny])
def test_any_network_can_be_cut_fresh(make):
    network = make(weights=None, num_classes=10)
    image = torch.randn(1, 3, 64, 64)
    graph = trace(network, image)
    counts = {name: graph.groups[name].units // 2 for name in graph.prunable()}
    cut_fresh_(network, counts, image)
    assert network.eval()(image).isfinite().all()
