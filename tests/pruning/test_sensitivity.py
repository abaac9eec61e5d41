"""``method=sensitivity``: what it measures, what it suggests, and how it resumes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

import thinet
from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_text_atomic
from thinet.base.records import from_json, to_json
from thinet.engine.subset import SubsetEvaluation
from thinet.pruning import sensitivity as method
from thinet.pruning import suggestion
from thinet.pruning.calibrate import calibrate
from thinet.pruning.group import cut_group_, prune_groups_
from thinet.report.sections.sensitivity import Tried
from thinet.run.result import Measurement
from thinet.run.state import RunState
from thinet.surgery import recalibrate_
from thinet.training.images import OfDataSet
from thinet.training.source import build_network
from thinet.widths.ratio import SUGGESTION, read_ratio

SMALL = ("method=sensitivity", "method.ratios=[0.75,0.5,0.25]", "baseline.epochs=2",
         "trainer.max_steps_per_epoch=6")  # fmt: skip
NAMES = ["features.0", "features.3", "features.7"]


class KilledError(BaseException):
    """Stands for kill -9."""


def cell_of(found, layer, ratio):
    (cell,) = [c for c in found.cells if (c.layer, c.ratio) == (layer, ratio)]
    return cell


def write_files(run, found):
    """What ``ratio=@`` reads of a finished run."""
    lines = [f"{name}: {ratio}\n" for name, ratio in found.suggestion.items()]
    write_text_atomic(run.folder / SUGGESTION, "".join(lines))


def measured(run):
    """What the run found of sensitivity."""
    return run.run().details["sensitivity"]


@pytest.fixture(scope="module")
def whole():
    return {}


@pytest.fixture
def uninterrupted(whole, make_run, tmp_path_factory):
    """What a run that nobody disturbs finds, and the run; made once."""
    if not whole:
        root = tmp_path_factory.mktemp("whole")
        run = make_run(*SMALL, "keep_steps=true", f"paths.cache={root}/cache", folder=root / "run")
        whole["it"] = measured(run), run
    return whole["it"]


def test_every_layer_at_every_ratio_in_order(uninterrupted):
    found, run = uninterrupted
    assert [(c.layer, c.ratio) for c in found.cells] == [
        (name, ratio) for name in NAMES for ratio in (0.75, 0.5, 0.25)
    ]
    assert [c.kept for c in found.cells] == [3, 2, 1, 3, 2, 1, 6, 4, 2]
    assert {c.units for c in found.cells} == {4, 8}
    assert found.recalibrated is True
    assert run.session.progress.cells == sorted(
        found.cells, key=lambda cell: (NAMES.index(cell.layer), -cell.ratio)
    )
    assert [step.name for step in run.state.steps] == NAMES
    saved = from_json(RunState, read_json(run.folder / "state.json"))
    assert from_json(method.Progress, saved.progress) == run.session.progress
    assert from_json(type(found), json.loads(json.dumps(to_json(found)))) == found


def test_a_cell_is_what_pruning_that_layer_alone_gives(uninterrupted, make_run, tmp_path):
    """Against the whole pruning recipe on the same network: another path through the code."""
    found, run = uninterrupted
    images = DataLoader(run.setup.data.calibration(), batch_size=64)
    full = thinet.load(run.folder / "model")
    for layer, ratio in (("features.0", 0.5), ("features.7", 0.25)):
        slim = thinet.prune(
            full, images, ratio={layer: ratio}, layers=[layer],
            sampling=run.method.choosing.sampling,
        ).model.eval()  # fmt: skip
        view = run.setup.data.val_dataloader().dataset
        hits = [
            int(slim(image[None]).argmax()) == label
            for image, label in (view[k] for k in range(len(view)))
        ]
        assert cell_of(found, layer, ratio).top1 == pytest.approx(sum(hits) / len(hits))
    assert found.images == len(hits)


def test_the_full_network_is_the_zero_of_the_divergences(uninterrupted):
    found, _ = uninterrupted
    assert found.full.divergence == 0
    assert all(c.divergence > 0 for c in found.cells)
    for name in NAMES:
        assert cell_of(found, name, 0.75).divergence < cell_of(found, name, 0.25).divergence


def test_test_images_decide_nothing(make_run, monkeypatch, tmp_path):
    run = make_run(*SMALL)
    run.setup.data.setup()
    costs = Measurement(1, 1, 1, 1, 1.0, top1=0.0, val_top1=0.0)
    monkeypatch.setattr(method, "measure_baseline", lambda *_: costs)

    def refuse(self):
        raise AssertionError("the test images were read")

    monkeypatch.setattr(type(run.setup.data), "test_dataloader", refuse)
    run.run()


def test_the_suggestion_meets_the_budget_and_is_read_back(uninterrupted, make_run, tmp_path):
    found, run = uninterrupted
    assert list(found.suggestion) == NAMES
    write_files(run, found)
    ratios = read_ratio(f"@{run.folder}")
    assert ratios == found.suggestion
    for trial in (found.trial.uniform, found.trial.suggestion):
        assert trial.flops <= 0.5 + 1e-9
        assert trial.flops > 0.35, "the budget is spent, but for steps of these narrow layers"
    full = thinet.load(run.folder / "model")
    images = DataLoader(run.setup.data.calibration(), batch_size=64)
    slim = thinet.prune(full, images, ratio=ratios, layers=NAMES)
    assert slim.after.flops / slim.before.flops == pytest.approx(found.trial.suggestion.flops)


@pytest.mark.parametrize("cells", [1, 4, 6])
def test_after_a_kill_the_rest_is_measured_and_nothing_twice(
    cells, make_run, uninterrupted, monkeypatch
):
    wanted, _ = uninterrupted
    passed = []
    original = method._Work._measure_cut

    def measure(work, name, kept, *more):
        if len(passed) == cells:
            raise KilledError
        passed.append((name, kept))
        return original(work, name, kept, *more)

    with monkeypatch.context() as patch:
        patch.setattr(method._Work, "_measure_cut", measure)
        with pytest.raises(KilledError):
            make_run(*SMALL).run()
    first = list(passed)
    passed.clear()
    cells = 99
    monkeypatch.setattr(method._Work, "_measure_cut", measure)
    torch.manual_seed(cells)
    found = measured(make_run(*SMALL))
    assert len(first) + len(passed) == 9
    assert set(first).isdisjoint(passed)
    assert replace(found, folder="") == replace(wanted, folder="")


def test_ratios_that_keep_the_same_filters_are_measured_once(make_run, monkeypatch):
    passed = []
    original = method._Work._measure_cut
    monkeypatch.setattr(
        method._Work, "_measure_cut", lambda *args: passed.append(args[1]) or original(*args)
    )
    found = measured(make_run(*SMALL[:1], "method.ratios=[0.6,0.5]", "layers=[features.0]",
                              "method.budget=flops:0.9"))  # fmt: skip
    assert passed == ["features.0"]
    one, two = found.cells
    assert (one.ratio, two.ratio) == (0.6, 0.5)
    assert replace(one, ratio=0) == replace(two, ratio=0)


def test_the_network_is_left_whole(uninterrupted, make_run):
    _, run = uninterrupted
    saved = thinet.load(run.folder / "model")
    assert [saved.get_submodule(name).out_channels for name in NAMES] == [4, 4, 8]


def test_without_batchnorm_or_recalibration(make_run):
    found = measured(make_run(*SMALL, "reconstruction.recalibrate_bn=never"))
    assert found.recalibrated is False


@pytest.mark.parametrize(
    "more",
    [("criterion=weight_sum", "reconstruction=none"), ("criterion=thinet_refit",),
     ("reconstruction=refit", "reconstruction.build.target=original"), ("layers=all",),
     ("round_to=2",), ("method.budget=params:0.6",)],
)  # fmt: skip
def test_with_any_criterion_reconstruction_and_request(more, make_run):
    found = measured(make_run(*SMALL, "baseline.epochs=0", *more))
    assert len(found.suggestion) * 3 == len(found.cells)


@pytest.mark.parametrize("when", ["after", "each"])
def test_cells_and_trials_draw_and_recalibrate_as_pruning_does(when, make_run, monkeypatch):
    cells, trials, begun, compared = {}, [], [], []

    def note_cell(*args, **more):
        begun.append(copy.deepcopy(args[0].state_dict()))
        records, graph = cut_group_(*args, **more)
        cells[records[0].layer, len(records[0].kept)] = records[0].kept
        return records, graph

    def note_trial(*args, **more):
        trials.append(more["recalibrate"])
        return prune_groups_(*args, **more)

    for name in ("set_reference", "measure"):
        original = getattr(SubsetEvaluation, name)

        def note(self, network, original=original):
            compared.append(copy.deepcopy(network))
            return original(self, network)

        monkeypatch.setattr(SubsetEvaluation, name, note)
    monkeypatch.setattr(method, "cut_group_", note_cell)
    monkeypatch.setattr(suggestion, "prune_groups_", note_trial)
    run = make_run(
        *SMALL, "model.build.widths=[16,16]", "criterion=random", "reconstruction=none",
        f"reconstruction.recalibrate_bn={when}",
    )  # fmt: skip
    run.run()
    assert set(trials) == {when == "each"}
    images = DataLoader(run.setup.data.calibration(), batch_size=64)
    full = thinet.load(run.folder / "model")
    for name in NAMES:
        (record,) = thinet.prune(
            full, images, 0.5, "random", "none", [name], sampling=run.method.choosing.sampling
        ).layers
        assert cells[name, 8] == record.kept
    assert cells[NAMES[0], 8] != cells[NAMES[1], 8]
    # Each cut begins with the network as it was trained ...
    for name, tensor in full.state_dict().items():
        assert all(torch.equal(one[name], tensor) for one in begun), name
    # ... and all that are compared, the full one too, have had their statistics re-estimated.
    images = OfDataSet().begin(run.setup, run.engine, None, False)
    batches = calibrate(run.engine, images, run.method.choosing.sampling, 64).batches
    for network in compared:
        again = copy.deepcopy(network)
        recalibrate_(again, batches())
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.budget=flops:0.001", r"^method\.budget=flops:0\.001 is out of reach"),
        ("method.budget=macs:9G", r"^method\.budget=macs:9G leaves nothing to save, .* macs: "),
        ("layers=[feature.9]", "matches no layer"),
    ],
)
def test_what_makes_no_sense_is_refused_before_long_work(override, expected, make_run):
    with pytest.raises(ThinetError, match=expected):
        make_run(*SMALL, override)


# -- the images


def test_the_probe_takes_turns_between_classes_and_counts_as_the_engine(make_run):
    run = make_run("baseline.epochs=0")
    run.setup.data.setup()
    probe = SubsetEvaluation(run.engine, 20)
    assert probe.images == 20
    labels = [label for _, batch in probe._batches for label in batch.tolist()]
    assert sorted(labels) == sorted([*range(10)] * 2)
    everything = SubsetEvaluation(run.engine, None)
    network = build_network(run.setup)
    everything.set_reference(network)
    measured = everything.measure(network)
    assert measured["divergence"] == 0
    known = run.engine.evaluate(network, "val")
    assert (measured["top1"], measured["top5"]) == pytest.approx((known.top1, known.top5))


@pytest.mark.parametrize("change", [0.05, 1e-4])
def test_the_divergence_is_that_of_the_definition(make_run, change):
    """Small ones too: logits in single precision, all else in double."""
    run = make_run("baseline.epochs=0")
    run.setup.data.setup()
    one, other = build_network(run.setup), build_network(run.setup)
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.add_(change)
    probe = SubsetEvaluation(run.engine, 30)
    probe.set_reference(one)
    found = probe.measure(other)["divergence"]
    images = torch.cat([batch for batch, _ in probe._batches])
    p, q = (net.eval()(images).double().softmax(1).detach() for net in (one, other))
    wanted = float((p * (p / q).log()).sum(1).mean())
    assert wanted < 1e-7 or change > 1e-3
    # Batches of other sizes round the logits in another way.
    assert found == pytest.approx(wanted, rel=1e-5 if change > 1e-3 else 0.05)
    assert found > 0


def test_few_or_many_images_in_memory_give_the_same(make_run, monkeypatch):
    run = make_run("baseline.epochs=0")
    run.setup.data.setup()
    one, other = build_network(run.setup), copy.deepcopy(build_network(run.setup))
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    found = []
    for memory in (0, 2**30):
        monkeypatch.setattr("thinet.engine.repeated.MEMORY", memory)
        probe = SubsetEvaluation(run.engine, 30)
        probe.set_reference(one)
        found.append(probe.measure(other))
        assert (probe._batches._kept is None) == (memory == 0)
    assert found[0] == found[1]


def test_a_suggestion_fed_back_prunes_as_its_trial_did(uninterrupted, make_run, tmp_path):
    found, run = uninterrupted
    write_files(run, found)
    again = make_run(
        f"model.weights={run.folder / 'model' / 'model.safetensors'}", f"ratio=@{run.folder}",
        "schedule=oneshot", "finetune=none", folder=tmp_path / "again",
    )  # fmt: skip
    again.run()
    # Batches of other sizes add up in another order, which can turn an image that stands at a tie.
    one = 1 / len(run.setup.data.val_dataloader().dataset)
    trial = found.trial.suggestion.top1
    assert again.state.steps[0].figures["top1"] == pytest.approx(trial, abs=1.01 * one)


def test_the_suggestion_is_the_best_of_what_was_tried(make_run, monkeypatch, tmp_path):
    """With figures made up for each trial: the least divergence wins, one ratio if need be."""
    tried = []

    def pretend(self, network, graph, counts, *_):
        tried.append(dict(counts))
        best = len(tried) == wanted
        return Tried(0.5, 0.9, 0.1 if best else 0.2, 0.5, 0.5)

    monkeypatch.setattr(suggestion.Trials, "cut", pretend)
    for wanted in (1, 3, 5):
        tried.clear()
        folder = tmp_path / str(wanted)
        found = measured(make_run(*SMALL, "method.trials=20", folder=folder))
        assert len(tried) >= wanted
        widths = {name: int(found.suggestion[name] * units + 1e-9)
                  for name, units in zip(NAMES, (4, 4, 8), strict=True)}  # fmt: skip
        expected = {name: tried[wanted - 1].get(name, units)
                    for name, units in zip(NAMES, (4, 4, 8), strict=True)}  # fmt: skip
        assert widths == expected
    tried.clear()
    make_run(*SMALL, "method.trials=0", folder=tmp_path / "none").run()
    assert len(tried) == 4, "one ratio and three ways to add up"
