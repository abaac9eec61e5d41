"""Where the full network comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thinet.artifacts.store import load, read_spec, save
from thinet.base.errors import ThinetError
from thinet.base.files import read_json
from thinet.base.records import from_json
from thinet.engine.engine import Engine
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.run.state import RunState
from thinet.training.measurement import ACCURACIES, measure_baseline
from thinet.training.source import build_network, network_spec, prepare_network


@pytest.fixture
def fits(monkeypatch):
    """The keys of everything that is trained."""
    keys, original = [], Engine.fit

    def fit(self, network, phases, training, key, folder, **more):
        keys.append(key)
        return original(self, network, phases, training, key, folder, **more)

    monkeypatch.setattr(Engine, "fit", fit)
    return keys


def prepare(run):
    run.setup.data.check()
    return prepare_network(run.setup, run.engine, run.folder)


def equal(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_it_is_trained_once_for_all_points_of_a_sweep(make_run, fits, tmp_path):
    first = prepare(make_run())
    second = prepare(make_run("criterion=random", "ratio=0.25", folder=tmp_path / "other"))
    assert fits == ["baseline"]
    assert equal(first, second)
    prepare(make_run("baseline.lr=0.3", folder=tmp_path / "third"))
    assert fits == ["baseline", "baseline"]


def test_a_damaged_cache_is_trained_again(make_run, fits):
    run = make_run()
    first = prepare(run)
    (run.setup.source.cache / "model.safetensors").write_bytes(b"rubbish")
    assert equal(prepare(make_run()), first)
    assert fits == ["baseline", "baseline"]
    assert equal(load(run.setup.source.cache), first)


def test_the_cache_says_what_it_holds(make_run):
    run = make_run()
    prepare(run)
    spec = read_spec(run.setup.source.cache)
    assert spec.builder.target == "thinet.models.small_vgg.vgg_small"
    assert spec.builder.arguments == {"widths": [4, 8], "num_classes": 10, "image_size": 8}
    assert not (run.folder / "steps" / "baseline").exists()


def test_initial_weights_follow_the_seed(make_run, tmp_path):
    run = make_run()
    state = torch.get_rng_state()
    network = build_network(run.setup)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert equal(network, build_network(make_run().setup))
    assert not equal(network, build_network(make_run("seed=1", folder=tmp_path / "b").setup))


@pytest.fixture
def weights(make_run, tmp_path):
    run = make_run("seed=5", folder=tmp_path / "other")
    run.setup.data.check()
    network = build_network(run.setup)
    return save(network, tmp_path / "w", network_spec(run.setup)) / "model.safetensors", network


def test_weights_from_a_file_are_not_trained(make_run, fits, weights):
    path, network = weights
    assert equal(prepare(make_run(f"model.weights={path}")), network)
    assert fits == []


def test_always_trains_from_the_file(make_run, fits, weights):
    path, network = weights
    run = make_run(f"model.weights={path}", "baseline.train=always")
    found = prepare(run)
    assert fits == ["baseline"]
    assert not equal(found, network)
    assert equal(load(run.setup.source.cache), found)


def test_never_needs_weights(make_run, fits):
    with pytest.raises(ThinetError, match=r"baseline\.train=auto"):
        prepare(make_run("baseline.train=never"))
    assert fits == []


def test_no_epochs_means_untrained(make_run, fits):
    run = make_run("baseline.epochs=0")
    assert equal(prepare(run), build_network(run.setup))
    assert fits == []
    assert not run.setup.source.cache.exists()


def test_the_train_method(make_run, fits):
    run = make_run("method=train")
    found = run.run()
    assert fits == ["baseline"]
    assert (found.model, found.details, found.reference_is) == (None, {}, "baseline")
    assert run.state.steps == []
    network = load(run.folder / "model")
    again = run.engine.evaluate(network, "test")
    assert (again.top1, again.top5) == (found.reference.top1, found.reference.top5)
    assert read_spec(run.folder / "model").metrics == found.reference.figures()
    assert from_json(RunState, read_json(run.folder / "state.json")).reference == found.reference
    assert len(found.weights_by_process) == 1


@pytest.fixture
def evaluated(monkeypatch):
    """The splits of everything that is evaluated."""
    splits, original = [], Engine.evaluate

    def evaluate(self, network, split):
        splits.append(split)
        return original(self, network, split)

    monkeypatch.setattr(Engine, "evaluate", evaluate)
    return splits


def test_figures_are_shared_while_images_and_weights_are_the_same(
    make_run, fits, evaluated, monkeypatch
):
    run = make_run()
    network = prepare(run)
    first = measure_baseline(run.setup, run.engine, network)
    assert evaluated == ["test", "val"]
    assert (first.top1, first.val_top1) == (
        run.engine.evaluate(network, "test").top1, run.engine.evaluate(network, "val").top1
    )  # fmt: skip
    assert first.top1 != first.val_top1
    evaluated.clear()
    again = measure_baseline(run.setup, run.engine, prepare(make_run()))
    assert replace(again, latency_ms=0) == replace(first, latency_ms=0)
    assert (fits, evaluated) == (["baseline"], [])

    # An image more or less: neither the weights nor their figures are those of these images.
    monkeypatch.setattr(type(run.setup.data), "identity", lambda _: {"train": "others"})
    measure_baseline(run.setup, run.engine, network)
    assert evaluated == ["test", "val"]
    prepare(make_run())
    assert fits == ["baseline", "baseline"]


def test_two_evaluations_share_weights_but_no_figures(make_run, fits, evaluated):
    run = make_run()
    first = measure_baseline(run.setup, run.engine, prepare(run))
    assert (first.top10, first.mean_ap) == (None, None)
    for splits in (["test", "val"], []):
        evaluated.clear()
        other = make_run("evaluate=retrieval")
        found = measure_baseline(other.setup, other.engine, prepare(other))
        assert evaluated == splits
        assert found.val_top1 == first.val_top1
        assert found.top1 != first.top1
        assert found.top10 is not None
        assert found.mean_ap is not None
    again = measure_baseline(run.setup, run.engine, prepare(run))
    assert (fits, evaluated) == (["baseline"], [])
    assert replace(again, latency_ms=0) == replace(first, latency_ms=0)
    (run.setup.source.cache / "model.safetensors").write_bytes(b"rubbish")
    prepare(make_run())
    left = [path.name for path in run.setup.source.cache.iterdir()]
    assert not {"accuracy.json", "retrieval.json"} & set(left)


def test_figures_go_with_the_weights_they_are_of(make_run, fits):
    run = make_run()
    measure_baseline(run.setup, run.engine, prepare(run))
    assert (run.setup.source.cache / "accuracy.json").exists()
    (run.setup.source.cache / "model.safetensors").write_bytes(b"rubbish")
    prepare(make_run())
    assert len(fits) == 2
    assert not (run.setup.source.cache / "accuracy.json").exists()


def test_all_processes_go_on_from_the_first_ones_step(make_run):
    run = make_run()
    run.state.step, run.engine.step = 7, 0
    run.session.begin()
    assert run.engine.step == 7


def test_time_is_counted_once(make_run, monkeypatch):
    run = make_run()
    run.session.counted = 100.0
    for now, seconds in ((103.0, 3.0), (103.0, 3.0), (110.0, 10.0)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        run.session.count_time()
        assert run.state.seconds == seconds


@pytest.mark.parametrize("finished_by_another", [False, True])
def test_a_kill_after_the_cached_baseline_loses_no_row(
    make_run, fits, tmp_path, finished_by_another
):
    """Between the cache and ``state.json``: the next process has the rows, but no state."""

    def start():
        run = make_run("schedule=oneshot", "finetune.final.epochs=1")
        run.engine.loggers.append(RunCSVLogger(run.folder))
        return run

    def rows():
        return (tmp_path / "run" / "metrics.csv").read_text().splitlines()

    killed = start()
    prepare(killed)  # and there it ends
    killed.engine.loggers[0].save()
    before, steps = rows(), killed.engine.step
    assert steps > 0
    assert len(before) > 1
    if finished_by_another:  # from the checkpoint beside the cache, after these rows
        before = before[:-1]
        (tmp_path / "run" / "metrics.csv").write_text("\n".join(before) + "\n")
    again = start()
    network = prepare(again)
    assert fits == ["baseline"]
    assert again.engine.step == steps
    last = again.method.finetuning
    again.engine.fit(network, [last.final], last.training, "final", tmp_path / "fit")
    again.engine.loggers[0].save()
    table = [dict(zip(rows()[0].split(","), row.split(","), strict=True)) for row in rows()[1:]]
    first = [row for row in table if float(row["step"]) <= steps]
    assert len(first) == len(before) - 1
    assert max(float(row["step"]) for row in table) > steps


def test_a_baseline_of_another_run_has_no_steps_here(make_run, fits, tmp_path):
    prepare(make_run())
    other = make_run("criterion=random", folder=tmp_path / "other")
    other.engine.loggers.append(RunCSVLogger(other.folder))
    prepare(other)
    assert fits == ["baseline"]
    assert other.engine.step == 0


@pytest.mark.parametrize("content", ["[]", "{", '{"top1": "x"}', '{"top1": 0.5, "foo": 1}'])
def test_accuracies_that_cannot_be_read_are_measured_again(content, make_run):
    run = make_run()
    network = prepare(run)
    before = measure_baseline(run.setup, run.engine, network)
    path = run.setup.source.cache / ACCURACIES[run.setup.evaluate]
    path.write_text(content)
    again = measure_baseline(run.setup, run.engine, network)
    assert (again.top1, again.val_top5) == (before.top1, before.val_top5)
    assert "data" in path.read_text(), "and kept again"
