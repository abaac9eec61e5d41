"""The control: the slim network from random weights."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import convnext_tiny, mobilenet_v2

import thinet
from thinet.artifacts.store import layer_widths, read_spec
from thinet.base.errors import ThinetError
from thinet.engine.checkpoints import StageCheckpoint
from thinet.models.small_vgg import vgg_small
from thinet.models.vgg import vgg16_gap
from thinet.pruning.method import prune
from thinet.pruning.scratch import check, cut_fresh_, scratch, training_phase
from thinet.surgery import trace


def start(run):
    run.job.data.check()
    return scratch(run)


def test_widths_are_those_that_pruning_leaves(make_run, tmp_path):
    found = start(make_run("method=scratch", "ratio=0.5"))
    pruned = make_run("ratio=0.5", folder=tmp_path / "pruned")
    pruned.job.data.check()
    wanted = prune(pruned)
    assert found["slim"]["flops"] == wanted["slim"]["flops"]
    assert found["baseline"]["flops"] == wanted["baseline"]["flops"]
    assert found["baseline"]["top1"] is None
    assert 0 <= found["slim"]["top1"] <= 1
    assert [row["filters_after"] for row in found["layers"]] == [
        row["filters_after"] for row in wanted["layers"]
    ]
    network = thinet.load(tmp_path / "run" / "model")
    assert layer_widths(network) == layer_widths(thinet.load(tmp_path / "pruned" / "model"))
    assert read_spec(tmp_path / "run" / "model").metrics["top1"] == found["slim"]["top1"]


@pytest.mark.parametrize(("asked", "epochs"), [("null", 1 + 3 * 1), ("7", 7)])
def test_it_gets_as_many_epochs_as_pruning_takes(asked, epochs, make_run):
    run = make_run("method=scratch", f"method.epochs={asked}")
    assert len(run.plan.stages) == 3
    assert training_phase(run).epochs == epochs
    assert training_phase(run).lr == run.job.baseline.phase.lr


def test_a_killed_training_goes_on_to_the_same_weights(make_run, tmp_path, monkeypatch):
    whole = start(make_run("method=scratch", folder=tmp_path / "whole"))
    original, epochs = StageCheckpoint.on_train_epoch_end, []

    def die_after_two(self, *args):
        original(self, *args)
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(StageCheckpoint, "on_train_epoch_end", die_after_two)
    with pytest.raises(KeyboardInterrupt):
        start(make_run("method=scratch", folder=tmp_path / "killed"))
    again = start(make_run("method=scratch", folder=tmp_path / "killed"))
    assert len(epochs) == 4
    assert again["weights_by_process"] == whole["weights_by_process"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["target=flops:0.5", "allocation=error"], "ratio=@"),
        (["target=latency:0.5"], "ratio=@"),
        (["model.weights={folder}"], "model.weights=none"),
    ],
)
def test_what_needs_trained_weights_is_refused(overrides, words, compose_tiny, tmp_path):
    from thinet.app.config import build
    from thinet.app.config import check as check_config

    thinet.save(vgg_small(10, 8), tmp_path / "saved")
    filled = [text.format(folder=tmp_path / "saved") for text in overrides]
    job = build(check_config(compose_tiny("method=scratch", *filled)))
    with pytest.raises(ThinetError, match=words):
        check(job)


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
