"""A finished run as the beginning of another."""

from __future__ import annotations

import pytest
import torch

import thinet
from thinet.artifacts.store import layer_widths, read_spec


@pytest.fixture
def first(make_run, tmp_path):
    run = make_run("keep_steps=true", folder=tmp_path / "first")
    return run, run.run()


def test_pruning_goes_on_where_another_run_ended(first, make_run, tmp_path):
    run, before = first
    again = make_run(f"model.weights={run.folder}", folder=tmp_path / "second")
    assert again.plan.before.flops == before.model.flops
    after = again.run()
    assert after.reference.top1 == before.model.top1
    assert after.reference.flops == before.model.flops
    assert after.model.flops < before.model.flops

    kept = read_spec(again.folder / "model").keep
    for layer, filters in read_spec(run.folder / "model").keep.items():
        own = {row.layer: row.kept for row in after.details["pruning"].layers}[layer]
        assert kept[layer] == [filters[k] for k in own]
    names = (run.setup.name, again.setup.name)
    assert read_spec(again.folder / "model").lineage == names
    assert read_spec(run.setup.source.cache).lineage == ()
    network = thinet.load(again.folder / "model")
    assert thinet.cost(network, (3, 8, 8)).flops == after.model.flops


def test_other_weights_in_the_same_folder_are_another_run(first, compose_tiny):
    from thinet.run.identity import fingerprint

    run, _ = first
    overrides = [f"model.weights={run.folder}"]
    found = fingerprint(compose_tiny(*overrides))
    path = run.folder / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    assert fingerprint(compose_tiny(*overrides)) != found


def test_it_can_be_trained_on(first, make_run, tmp_path):
    run, before = first
    more = make_run(
        "method=train", f"model.weights={run.folder / 'model'}", "baseline.train=always",
        folder=tmp_path / "trained",
    )  # fmt: skip
    found = more.run()
    assert found.reference.flops == before.model.flops
    slim, trained = thinet.load(run.folder / "model"), thinet.load(more.folder / "model")
    assert layer_widths(slim) == layer_widths(trained)
    assert not torch.equal(slim.features[0].weight, trained.features[0].weight)
    assert read_spec(more.folder / "model").keep == read_spec(run.folder / "model").keep
