"""``method=metaprune``: what it leaves, that it goes on in the same bits, where it may start."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import thinet
from tests import warm
from tests.search.test_costs import microseconds, table_for
from thinet.artifacts.store import dump_state
from thinet.base.errors import ThinetError
from thinet.base.records import from_json, to_json
from thinet.base.seeding import derive_seed
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.metrics import read_table, write_table
from thinet.models.small_vgg import vgg_small
from thinet.report.sections.search import SearchDetails
from thinet.run.result import MODEL
from thinet.search.front import next_on_front
from thinet.search.hypernet import PruningNet
from thinet.search.judging import ERRORS, judge_all
from thinet.search.objective import AnyWidths
from thinet.search.settings import Making
from thinet.search.stored import ORIGIN, WEIGHTS
from thinet.search.work import TABLE
from thinet.surgery import trace
from thinet.widths.space import Space

ROOT = Path(thinet.__file__).parents[1]
SEARCH = (
    "method=metaprune", "model.build.widths=[8,12]", "proxy.build.hidden=4", "proxy.epochs=2",
    "search.generations=2", "search.population=4", "search.parents=3", "search.mutations=2",
    "search.crossovers=2", "search.images=40", "search.calibration=20", "search.batch_size=16",
    "search.tolerance=0.2",
)  # fmt: skip
PROXIES = ("hypernet", "shared", "prune")


def search_of(proxy: str) -> list[str]:
    """The tiny search with one of the proxies."""
    lacks = {"hypernet": "?", "shared": "proxy.build.hidden", "prune": "proxy."}[proxy]
    return [*(one for one in SEARCH if not one.startswith(lacks)), f"proxy={proxy}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a finished search is compared with, made once a proxy."""
    return {}, tmp_path_factory


@pytest.fixture
def searched(make_run, finished):
    known, factory = finished

    def find(proxy="hypernet"):
        if proxy not in known:
            run = make_run(*search_of(proxy), folder=factory.mktemp(proxy) / "run")
            known[proxy] = (run.run(), run.folder)
        return known[proxy]

    return find


@pytest.mark.parametrize("proxy", PROXIES)
def test_what_it_leaves(searched, proxy):
    outcome, _ = searched(proxy)
    found = outcome.details["search"]
    assert isinstance(found, SearchDetails)
    assert (found.proxy, found.kind, found.generations) == (proxy, "flops", 2)
    assert found.target == "flops:0.5"
    assert [one.generation for one in found.candidates] == 4 * [0] + 4 * [1]
    assert len({one.genes for one in found.candidates}) == 8
    assert all(0.4 <= one.cost <= 0.5 for one in (*found.candidates, found.uniform))
    assert found.candidates[found.best].error == min(one.error for one in found.candidates)
    assert (found.images, found.calibration, found.epochs) == (40, 20, 1)
    assert [one.name for one in found.trained] == ["found", "uniform"]
    assert outcome.model == found.trained[0].measurement
    assert (outcome.reference.top1 is None) == (proxy != "prune")
    assert (found.hypernet_parameters > outcome.reference.params) == (proxy == "hypernet")
    assert (found.hypernet_parameters == 0) == ("proxy" not in found.seconds) == (proxy == "prune")
    assert {"search", "training"} <= set(found.seconds)


def test_the_networks_have_the_widths_that_it_tells(searched):
    outcome, folder = searched()
    found = outcome.details["search"]
    for name, field, one in (("", "found", 0), ("uniform", "uniform", 1)):
        network = thinet.load(folder / (name or MODEL))
        for row in found.widths:
            for layer in row.layers:
                assert network.get_submodule(layer).out_channels == getattr(row, field)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, 8, 8))
        measured = found.trained[one].measurement
        assert counter.get_total_flops() == measured.flops
        share = measured.flops / outcome.reference.flops
        expected = found.candidates[found.best].flops if one == 0 else found.uniform.flops
        assert share == pytest.approx(expected)


@pytest.mark.parametrize("proxy", PROXIES)
def test_it_goes_on_in_the_same_bits(searched, make_run, tmp_path, monkeypatch, proxy):
    """Interrupted in the hypernetwork, within a generation, between steps, and in a training."""
    whole, folder = searched(proxy)
    other = make_run(*search_of(proxy), folder=tmp_path / "again")
    for place in range(proxy == "prune", 4):
        with monkeypatch.context() as patch:
            interrupt(patch, place)
            with pytest.raises(StoppedError):
                other.run()
        other = make_run(*search_of(proxy), folder=other.folder)
    outcome = other.run()
    found, wanted = (one.details["search"] for one in (outcome, whole))
    assert found.candidates == wanted.candidates
    assert (found.uniform, found.best, found.widths) == (wanted.uniform, wanted.best, wanted.widths)
    for one in (MODEL, "uniform"):
        assert dump_state(thinet.load(other.folder / one)) == dump_state(thinet.load(folder / one))
    made = [
        (one / WEIGHTS).read_bytes() for one in (other.folder, folder) if (one / WEIGHTS).exists()
    ]
    assert len(made) == (0 if proxy == "prune" else 2)
    assert len(set(made)) <= 1


class StoppedError(Exception):
    """In the place of a kill."""


def interrupt(patch, place):
    """Stop at one of four places."""

    def stop(*args, **more):
        raise StoppedError

    if place == 0:
        patch.setattr("thinet.search.work.save_proxy", stop)
    elif place == 1:
        count, real = [], __import__("thinet.search.judging").search.judging.write_json_atomic

        def write(path, content):
            real(path, content)
            count.append(path)
            if len(count) == 3:
                raise StoppedError

        patch.setattr("thinet.search.judging.write_json_atomic", write)
    elif place == 2:
        patch.setattr("thinet.search.work.judge_all", stop)
    else:
        patch.setattr("thinet.search.ending.save", stop)


def test_errors_of_other_candidates_are_not_taken(tmp_path):
    engine = SimpleNamespace(rank=0, world=1, decide=lambda find: find(), gather=lambda one: [one])
    judged = []

    def judge(genes):
        judged.append(genes)
        return float(len(judged))

    first = [(1, 2), (3, 4)]
    assert list(judge_all(engine, judge, first, tmp_path)) == [1, 2]
    assert list(judge_all(engine, judge, [*first, (5, 6)], tmp_path)) == [1, 2, 3]
    assert list(judge_all(engine, judge, [(3, 4), (1, 2)], tmp_path)) == [4, 5]


def test_what_one_process_cannot_judge_ends_all(tmp_path):
    wrong = ThinetError("cannot be judged.")
    engine = SimpleNamespace(rank=0, world=2, decide=lambda find: find(),
                             gather=lambda one: [one, wrong])  # fmt: skip
    with pytest.raises(ThinetError, match="cannot be judged"):
        list(judge_all(engine, lambda genes: 0.5, [(1,), (2,)], tmp_path))


def test_errors_of_a_generation_are_not_found_again(make_run, tmp_path, monkeypatch):
    run = make_run(*SEARCH, "method.train=false", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(StoppedError):
            run.run()
    (kept,) = (tmp_path / "run" / "steps").rglob(ERRORS)
    assert len(json.loads(kept.read_text())["errors"]) == 3
    judged = []
    real = __import__("thinet.search.proxies").search.proxies.judge

    def count(net, genes, **more):
        judged.append(genes)
        return real(net, genes, **more)

    monkeypatch.setattr("thinet.search.proxies.judge", count)
    run = make_run(*SEARCH, "method.train=false", folder=run.folder)
    outcome = run.run()
    found = outcome.details["search"]
    assert judged == [*(one.genes for one in found.candidates[3:]), found.uniform.genes]
    assert outcome.model is None
    assert found.trained == ()


def test_it_starts_at_the_search_of_another_budget(searched, make_run, tmp_path, monkeypatch):
    outcome, folder = searched()

    def never(*args, **more):
        raise AssertionError("it was trained before")

    monkeypatch.setattr("thinet.search.proxies.Hypernet.train", never)
    own = ["method.start=search", f"method.of={folder}"]
    same = make_run(*SEARCH, *own, "method.train=false", folder=tmp_path / "a").run()
    assert same.details["search"].candidates == outcome.details["search"].candidates
    other = make_run(*SEARCH, *own, "target=flops:0.3", folder=tmp_path / "b").run()
    assert all(0.24 <= one.cost <= 0.3 for one in other.details["search"].candidates)
    assert other.model.flops <= 0.3 * other.reference.flops


@pytest.fixture
def written(searched, tmp_path):
    """The folder of a finished search, as other runs are given it."""
    outcome, _ = searched()
    folder = tmp_path / "searched"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    details = {"details": {"search": to_json(outcome.details["search"])}}
    (folder / "result.json").write_text(json.dumps(details))
    return folder


@pytest.mark.parametrize("method", ["scratch", "prune"])
def test_other_methods_take_its_widths(searched, written, make_run, tmp_path, method):
    outcome, _ = searched()
    run = make_run(f"method={method}", "model.build.widths=[8,12]", f"ratio=@{written}",
                   "layers=all", "schedule=oneshot", folder=tmp_path / "run")  # fmt: skip
    run.run()
    network = thinet.load(run.folder / MODEL)
    for row in outcome.details["search"].widths:
        for layer in row.layers:
            assert network.get_submodule(layer).out_channels == row.found


def test_it_starts_at_the_training(searched, make_run, tmp_path, monkeypatch):
    outcome, _ = searched()
    monkeypatch.setattr("thinet.search.work.judge_all", None)
    (tmp_path / "a").mkdir()
    for name in ("state.json", "result.json"):
        (tmp_path / "a" / name).write_text("{}")
    details = {
        "details": {"search": json.loads(json.dumps(outcome.details["search"], default=vars))}
    }
    (tmp_path / "a" / "result.json").write_text(json.dumps(details))
    own = ["method.start=training", f"method.of={tmp_path / 'a'}"]
    again = make_run(
        *SEARCH, *own, "search.images=60", "search.generations=5", folder=tmp_path / "b"
    ).run()
    found, wanted = again.details["search"], outcome.details["search"]
    assert found.uniform == wanted.uniform
    assert (found.images, found.generations, found.hypernet_parameters) == (
        wanted.images, wanted.generations, wanted.hypernet_parameters
    )  # fmt: skip
    assert again.details["search"].widths == outcome.details["search"].widths
    assert again.model.top1 == outcome.model.top1
    for one, other in zip(again.details["search"].trained, outcome.details["search"].trained,
                          strict=True):  # fmt: skip
        assert (one.name, one.measurement.top1) == (other.name, other.measurement.top1)
    with pytest.raises(ThinetError, match=r"none of the 8 candidates costs between 8.0 and 10.0 %"):
        make_run(*SEARCH, *own, "target=flops:0.1", folder=tmp_path / "c").run()
    with pytest.raises(ThinetError, match="searched other layers or scales"):
        make_run(*SEARCH, *own, "search.scales=[50,75,100]", folder=tmp_path / "d").run()


@pytest.mark.parametrize(("override", "said"), [
    ("proxy.build.hidden=5", "settings"), ("search.scales=[20,40,60,80,100]", "scales"),
    ("layers=[features.0]", "groups of layers"), ("seed=1", ""),
])  # fmt: skip
def test_what_was_trained_for_something_else_is_refused(
    searched, make_run, tmp_path, override, said
):
    _, folder = searched()
    run = make_run(*SEARCH, "method.start=search", f"method.of={folder}", override,
                   "target=flops:0.8", folder=tmp_path / "run")  # fmt: skip
    if said:
        with pytest.raises(ThinetError, match=f"judges other {said} than this run"):
            run.run()
    else:
        run.run()


def test_a_damaged_proxy_is_refused(searched, make_run, tmp_path):
    _, folder = searched()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    own = ["method.start=search", f"method.of={copy}", "method.train=false"]
    (copy / ORIGIN).write_text("{}")
    with pytest.raises(ThinetError, match="is damaged"):
        make_run(*SEARCH, *own, folder=tmp_path / "a").run()
    (copy / ORIGIN).unlink()
    with pytest.raises(ThinetError, match="holds nothing that judges widths"):
        make_run(*SEARCH, *own, folder=tmp_path / "b").run()


def test_too_few_validation_images_are_refused(make_run, tmp_path):
    run = make_run(*SEARCH, "search.images=20", folder=tmp_path / "run")
    with pytest.raises(ThinetError, match=r"20 validation images.*standard error of up to 11"):
        run.run()


def test_all_widths_are_trained_alike(make_run, tmp_path):
    """Where the budget leaves one choice, found and uniform are one network, to the bit."""
    own = ["layers=[features.0]", "search.scales=[50,100]", "target=flops:0.9",
           "search.tolerance=0.9"]  # fmt: skip
    run = make_run(*SEARCH, *own, folder=tmp_path / "run")
    outcome = run.run()
    (one,) = outcome.details["search"].candidates
    assert one.genes == outcome.details["search"].uniform.genes == (0,)
    found, other = (thinet.load(run.folder / name) for name in (MODEL, "uniform"))
    assert dump_state(found) == dump_state(other)


def test_two_processes_judge_as_one_does(searched, tiny, tmp_path):
    """Given what judges, the same candidates and the same errors, to the bit."""
    outcome, folder = searched()
    usual = [one for one in tiny if one != "trainer=cpu"]
    done = warm.run(
        [
            sys.executable, str(ROOT / "run.py"), *usual, *SEARCH, "trainer=ddp_cpu",
            "trainer.devices=2", "method.start=search", f"method.of={folder}",
            f"paths.outputs={tmp_path}", f"paths.cache={tmp_path / 'cache'}",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, cwd=tmp_path,
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("*/result.json")
    result = json.loads(path.read_text())
    found = from_json(SearchDetails, result["details"]["search"])
    wanted = outcome.details["search"]
    assert found.candidates == wanted.candidates
    assert (found.uniform, found.best, found.widths) == (wanted.uniform, wanted.best, wanted.widths)
    digests = result["run"]["weights_by_process"]
    assert len(digests) == 2
    assert digests[0] == digests[1]


def test_a_latency_is_a_budget_by_the_runs_own_table(make_run, tmp_path, monkeypatch):
    own = [*SEARCH, "target=latency:0.5", "method.train=false"]
    spaces = []

    def measured(folder, network, graph, widths, shape, tell):
        """By a machine on which each channel takes its time, see there."""
        spaces.append(Space.of(graph, list(widths)))
        return table_for(network, spaces[0])

    with monkeypatch.context() as patch:
        patch.setattr("thinet.search.work.kept_table", measured)
        found = make_run(*own, folder=tmp_path / "run").run().details["search"]
    assert found.kind == "latency"
    full = microseconds(spaces[0], spaces[0].top)
    for one in (*found.candidates, found.uniform):
        assert one.cost == pytest.approx(microseconds(spaces[0], one.genes) / full)
        assert 0.4 <= one.cost <= 0.5
    cut = make_run(*own[:-1], folder=tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr("thinet.search.work.kept_table", measured)
        interrupt(patch, 3)
        with pytest.raises(StoppedError):
            cut.run()
    monkeypatch.setattr("thinet.search.work.kept_table", None)  # it is not measured again
    again = make_run(*own[:-1], folder=tmp_path / "cut").run()
    assert again.details["search"].candidates == found.candidates
    table = tmp_path / "run" / TABLE
    given = make_run(*own, f"method.table={table}", folder=tmp_path / "given").run()
    assert given.details["search"].candidates == found.candidates
    known = read_table(table)
    other = replace(known, conditions=replace(known.conditions, threads=99))
    write_table(tmp_path / "other.json", other)
    with pytest.raises(ThinetError, match=r"method.table=.*threads.*method.table=null"):
        make_run(*own, f"method.table={tmp_path / 'other.json'}", folder=tmp_path / "b").run()


def test_a_front_is_searched_and_goes_on(make_run, tmp_path, monkeypatch):
    own = [*(one for one in SEARCH if "tolerance" not in one), "search=pareto",
           "target=flops:0.8", "method.train=false"]  # fmt: skip
    whole = make_run(*own, folder=tmp_path / "whole").run().details["search"]
    places = [whole.candidates[place] for place in whole.front]
    for one in whole.candidates:
        beaten = any(
            other.error <= one.error and other.cost <= one.cost
            and (other.error, other.cost) != (one.error, one.cost)
            for other in whole.candidates
        )  # fmt: skip
        assert beaten == (one not in places)
    assert all(0.2 <= one.cost <= 0.8 for one in whole.candidates)
    first = make_run(*own, folder=tmp_path / "plan")
    front = first.method.evolution
    seed = derive_seed(first.setup.seed, "search")
    wanted = next_on_front(front, first.plan.problem, {}, 0, seed)
    assert [one.genes for one in whole.candidates[: len(wanted)]] == wanted
    run = make_run(*own, folder=tmp_path / "again")
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(StoppedError):
            run.run()
    again = make_run(*own, folder=tmp_path / "again").run().details["search"]
    assert again.candidates == whole.candidates
    assert again.front == whole.front


def test_every_batch_has_widths_of_its_own_and_the_same_after_a_kill():
    network = vgg_small(10, 8, widths=(8, 12))
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    space = Space.of(graph, graph.prunable(summed=True))
    net = PruningNet(network, graph, space, Making(hidden=2))
    seen = []
    net.forward = lambda images, genes: (seen.append(genes), torch.zeros(2, 10))[1]
    batch = (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    for step in (0, 1, 2, 1):
        objective = AnyWidths(net, [Phase(1, 0.1)], Training(torch.optim.SGD), seed=3)
        objective.begin_batch(step)
        (update,) = objective.updates
        assert float(update.loss(batch)["cross_entropy"]) == pytest.approx(math.log(10))
    assert len(set(seen)) == 3
    assert seen[1] == seen[3]
