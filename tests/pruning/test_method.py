"""The pruning recipe on a tiny network: what it returns and writes, and how it resumes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import thinet
from thinet.artifacts.store import read_spec
from thinet.base.errors import ThinetError
from thinet.base.records import from_json, to_json
from thinet.engine.engine import Engine
from thinet.pruning import alternation, method
from thinet.pruning.plan import try_stages
from thinet.pruning.stages import Stage
from thinet.report.sections.pruning import Accuracy, PruningDetails
from thinet.run import steps
from thinet.run.state import RunState

FIGURES = {
    "compression_rate", "flops", "macs", "params", "weights", "size_mb", "latency_ms", "top1_plain",
    "top5_plain", "top1_recalibrated", "top5_recalibrated", "top1", "top5", "bits", "binary_ops",
}  # fmt: skip
TIMES = {"seconds", "latency_ms", "peak_memory_mb"}


class KilledError(BaseException):
    """Stands for kill -9."""


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def without_times(content):
    if isinstance(content, dict):
        return {k: without_times(v) for k, v in content.items() if k not in TIMES}
    return [without_times(v) for v in content] if isinstance(content, list) else content


def record_of(run, outcome):
    """Everything that a run tells, as plain containers."""
    return {
        "steps": [to_json(step) for step in run.state.steps],
        "reference": to_json(outcome.reference),
        "model": to_json(outcome.model),
        "details": {family: to_json(one) for family, one in outcome.details.items()},
        "weights": list(outcome.weights_by_process),
    }


def test_what_it_returns(make_run):
    run = make_run()
    found = run.run()
    assert list(found.details) == ["pruning"]
    details = found.details["pruning"]
    assert isinstance(details, PruningDetails)
    for one in (found.reference, found.model):
        unknown = {name for name, value in one.figures().items() if value is None}
        assert unknown == {"top10", "mean_ap"}, "those of a retrieval"
    assert all(set(step.figures) == FIGURES for step in run.state.steps)
    assert all(step.peak_memory_mb > 0 and step.seconds > 0 for step in run.state.steps)
    assert {step.peak_memory_of for step in run.state.steps} == {"process"}
    assert [step.epochs for step in run.state.steps] == [1, 1, 1]
    for when in (details.before_finetuning.plain, details.before_finetuning.recalibrated):
        assert isinstance(when, Accuracy)
    record = record_of(run, found)
    assert json.loads(json.dumps(record)) == record
    assert from_json(PruningDetails, record["details"]["pruning"]) == details
    names = ["features.0", "features.3", "features.7"]
    assert [step.name for step in run.state.steps] == names
    assert [step.index for step in run.state.steps] == [0, 1, 2]
    assert [row.layer for row in details.layers] == names
    assert [row.stage for row in details.layers] == [0, 1, 2]
    assert [(row.filters_before, row.filters_after) for row in details.layers] == [
        (4, 2), (4, 2), (8, 4),
    ]  # fmt: skip
    assert len(found.weights_by_process) == 1


def test_its_figures_agree_with_each_other_and_with_the_network(make_run):
    run = make_run()
    found = run.run()
    layers = found.details["pruning"].layers
    slim = thinet.load(run.folder / "model")
    cost = thinet.cost(slim, (3, 8, 8))
    done = run.state.steps
    last = done[-1].figures
    for key in ("flops", "macs", "params", "weights", "size_mb"):
        assert getattr(found.model, key) == last[key] == getattr(cost, key)
        if key != "size_mb":
            assert getattr(found.model, key) == getattr(run.plan.after, key), "the plan was kept"
    rates = [step.figures["compression_rate"] for step in done]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(1 - found.model.flops / found.reference.flops)
    assert (last["top1"], last["top5"]) == (found.model.val_top1, found.model.val_top5)
    again = run.engine.evaluate(slim, "test")
    assert (again.top1, again.top5) == (found.model.top1, found.model.top5)
    for row in layers:
        assert len(row.kept) == row.filters_after == len(set(row.kept))
        assert slim.get_submodule(row.layer).out_channels == row.filters_after
        assert 0 <= row.error_corrected <= row.error <= 1
        assert row.rows >= 5 * row.filters_before
    spec = read_spec(run.folder / "model")
    assert spec.keep == {row.layer: list(row.kept) for row in layers}
    assert list(spec.classes) == [str(digit) for digit in range(10)]
    assert spec.metrics == found.model.figures()
    assert tuple(spec.mean) == run.setup.data.mean


def test_state_is_written_after_every_stage(make_run, monkeypatch):
    written = []
    original = RunState.save

    def save(self, folder):
        original(self, folder)
        written.append(json.loads((folder / "state.json").read_text()))

    monkeypatch.setattr(RunState, "save", save)
    run = make_run()
    run.run()
    assert [len(one["steps"]) for one in written] == [0, 1, 2, 3]
    assert [one["step"] for one in written] == [2, 4, 6, 8]
    assert {one["status"] for one in written} == {"running"}
    assert written[0]["reference"]["flops"] > 0
    assert list(written[2]["progress"]["kept"]) == ["features.0", "features.3"]
    assert [one["progress"]["before_finetuning"] is None for one in written] == [True] * 3 + [False]
    assert written[-1]["seconds"] > written[0]["seconds"] > 0


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_left_of_the_steps(keep, make_run):
    run = make_run(f"keep_steps={str(keep).lower()}")
    run.run()
    found = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*.*") if p.is_file()}
    last = {f"steps/00{k}/model.safetensors" for k in ((0, 1, 2) if keep else (2,))}
    own = {"state.json", "model/model.safetensors", "model/spec.json", *last}
    assert found == own | ({"steps/baseline.safetensors"} if keep else set())


# -- kills

PLACES = {"Engine": Engine, "RunState": RunState, "steps": steps, "alternation": alternation}
POINTS = [
    "Engine.train", "Engine.evaluate", "RunState.save", "steps._commit", "steps._clean_up",
    "steps.write_bytes_atomic", "steps.log_step", "alternation.run_steps",
    "alternation.prune_groups_",
    "alternation.evaluate_fully", "alternation.measure", "alternation.write_bytes_atomic",
    "alternation.write_json_atomic", "alternation.save",
]  # fmt: skip


def arm(monkeypatch, points, before, after):
    """Die at the n-th passage of one of these functions, before or after it does its work."""
    passed = []

    def wrap(original, name):
        def call(*args, **kwargs):
            passed.append(name)
            number = len(passed)
            if number == before:
                raise KilledError
            result = original(*args, **kwargs)
            if number == after:
                raise KilledError
            return result

        return call

    for name in points:
        owner, _, leaf = name.rpartition(".")
        place = PLACES[owner]
        monkeypatch.setattr(place, leaf, wrap(getattr(place, leaf), name))
    return passed


WHOLE = {}


@pytest.fixture
def uninterrupted(make_run, tmp_path_factory):
    """What a run that nobody disturbs returns and leaves; made once."""
    if not WHOLE:
        root = tmp_path_factory.mktemp("whole")
        run = make_run(f"paths.cache={root}/cache", folder=root / "run")
        WHOLE["found"] = record_of(run, run.run()), run.folder
    return WHOLE["found"]


def test_repeated_kills_everywhere_end_in_the_same_bits(
    make_run, uninterrupted, tmp_path, monkeypatch
):
    wanted, whole = uninterrupted
    kills = 0
    for attempt in range(40):
        with monkeypatch.context() as patch:
            place = 3 + 4 * attempt % 11  # 3, 7, 11, 4, 8, 12, ...
            arm(patch, POINTS, *((place, 0) if attempt % 2 else (0, place)))
            torch.manual_seed(attempt)
            try:
                run = make_run()
                found = record_of(run, run.run())
            except KilledError:
                kills += 1
                continue
            break
    assert kills >= 5
    assert without_times(found) == without_times(wanted)
    assert weights_of(tmp_path / "run") == weights_of(whole)
    assert set((tmp_path / "run").rglob("*.ckpt")) == set()


# Moments between which something is written: others leave the same files.
@pytest.mark.parametrize(
    ("point", "number", "moment"),
    [("alternation.write_bytes_atomic", 2, "before"),
     ("alternation.write_bytes_atomic", 2, "after"), ("alternation.write_json_atomic", 2, "after"),
     ("alternation.measure", 2, "before"),
     ("steps.write_bytes_atomic", 2, "before"), ("steps.write_bytes_atomic", 2, "after"),
     ("RunState.save", 1, "before"), ("RunState.save", 1, "after"), ("RunState.save", 3, "after"),
     ("RunState.save", 4, "before"), ("RunState.save", 4, "after"),
     ("steps._clean_up", 1, "before"), ("steps.log_step", 2, "after"),
     ("alternation.run_steps", 1, "after"), ("alternation.save", 1, "after"),
     ("Engine.train", 4, "after")],
)  # fmt: skip
def test_a_kill_at_each_critical_moment(
    point, number, moment, make_run, uninterrupted, tmp_path, monkeypatch
):
    wanted, whole = uninterrupted
    with monkeypatch.context() as patch:
        arm(patch, [point], *((number, 0) if moment == "before" else (0, number)))
        with pytest.raises(KilledError):
            make_run().run()
    run = make_run()
    found = record_of(run, run.run())
    assert without_times(found) == without_times(wanted)
    assert weights_of(run.folder) == weights_of(whole)


def test_finished_stages_are_not_repeated(make_run, uninterrupted, monkeypatch):
    with monkeypatch.context() as patch:
        arm(patch, ["RunState.save"], 0, 3)
        with pytest.raises(KilledError):
            make_run().run()
    passed = arm(monkeypatch, ["Engine.train", "alternation.prune_groups_"], 0, 0)
    make_run().run()
    assert passed == ["alternation.prune_groups_", "Engine.train"]


def test_a_cut_is_not_repeated(make_run, uninterrupted, monkeypatch):
    with monkeypatch.context() as patch:
        arm(patch, ["Engine.train"], 3, 0)
        with pytest.raises(KilledError):
            make_run().run()
    passed = arm(monkeypatch, ["alternation.prune_groups_"], 0, 0)
    make_run().run()
    assert passed == ["alternation.prune_groups_"]


def test_a_lost_step_file_is_reported(make_run, monkeypatch):
    with monkeypatch.context() as patch:
        arm(patch, ["RunState.save"], 0, 3)
        with pytest.raises(KilledError):
            make_run().run()
    run = make_run()
    (run.session.step_folder(1) / "model.safetensors").unlink()
    with pytest.raises(ThinetError, match=r"001/model\.safetensors does not exist"):
        run.run()


def test_the_state_of_another_configuration_is_refused(make_run):
    run = make_run()
    run.state.save(run.folder)
    with pytest.raises(ThinetError, match="another configuration"):
        make_run("ratio=0.25")
    (run.folder / "state.json").write_text("{")
    with pytest.raises(ThinetError, match="cannot be read as JSON"):
        make_run()
    (run.folder / "state.json").write_text('{"a": 1}')
    with pytest.raises(ThinetError, match="resume=off"):
        make_run()


# -- variants


def test_oneshot_without_fine_tuning(make_run, monkeypatch):
    passed = arm(monkeypatch, ["Engine.train"], 0, 0)
    overrides = ["schedule=oneshot", "finetune.final.epochs=0",
                 "reconstruction.recalibrate_bn=false",
                 "baseline.epochs=0"]  # fmt: skip
    run = make_run(*overrides)
    found = run.run()
    (step,) = run.state.steps
    row, before = step.figures, found.details["pruning"].before_finetuning
    assert passed == []
    assert (step.name, step.epochs) == ("oneshot", 0)
    assert list(run.plan.stages[0].counts) == ["features.0", "features.3", "features.7"]
    assert [one.stage for one in found.details["pruning"].layers] == [0, 0, 0]
    assert (row["top1_recalibrated"], row["top5_recalibrated"]) == (None, None)
    assert row["top1"] == row["top1_plain"] == found.model.val_top1
    assert before.recalibrated is None
    assert before.plain.top1 == found.model.top1
    assert before.plain == accuracies_apart(run)


def accuracies_apart(run):
    """The figures on test images of the network that was saved; on others they are other ones."""
    network = thinet.load(run.folder / "model")
    test, val = (
        Accuracy(**asdict(run.engine.evaluate(network, split))) for split in ("test", "val")
    )
    assert test.top1 != val.top1
    return test


def test_recalibrated_accuracy_is_that_of_the_final_network_without_fine_tuning(make_run):
    run = make_run("schedule=oneshot", "finetune.final.epochs=0", "ratio=0.25")
    found = run.run()
    (step,) = run.state.steps
    row, before = step.figures, found.details["pruning"].before_finetuning
    assert row["top1_recalibrated"] != row["top1_plain"], "any of the two would do"
    assert row["top1"] == row["top1_recalibrated"] == found.model.val_top1
    assert before.recalibrated.top1 == found.model.top1
    assert before.recalibrated == accuracies_apart(run)


def test_figures_after_fine_tuning_are_those_of_the_network_that_is_saved(make_run):
    run = make_run("schedule=oneshot")
    found = run.run()
    test = accuracies_apart(run)
    assert Accuracy(found.model.top1, found.model.top5) == test
    assert found.details["pruning"].before_finetuning.recalibrated != test


def test_an_amount_beyond_the_network_is_refused_before_it_is_trained(make_run):
    for more in ([], ["allocation=error"]):
        for text in ("flops:9G", "params:9G"):
            with pytest.raises(ThinetError, match=f"target={text} leaves nothing to save"):
                make_run(f"target={text}", *more)


def test_the_rest_of_a_plan_is_tried_before_anything_is_cut(make_run, monkeypatch):
    tried = []

    def refuse(network, stages, images):
        tried.append([stage.name for stage in stages])
        if len(tried) in (1, 3):
            raise ThinetError("this network cannot be cut as planned")

    monkeypatch.setattr(method, "try_stages", refuse)
    cut = arm(monkeypatch, ["alternation.prune_groups_"], 0, 2)
    with pytest.raises(ThinetError, match="as planned"):
        make_run().run()
    assert cut == []
    with pytest.raises(KilledError):  # in the second stage
        make_run().run()
    with pytest.raises(ThinetError, match="as planned"):
        make_run().run()
    names = ["features.0", "features.3", "features.7"]
    assert tried == [names, names, names[1:]]
    assert len(cut) == 2


def test_trying_the_rest_of_a_plan_cuts_a_copy():
    """Three filters are where the network's own code differs; five are not."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 10, 1), torch.nn.Conv2d(10, 4, 1)

        def forward(self, x):
            x = self.a(x).relu()
            return self.b(x * (2.0 if x.shape[1] == 3 else 1.0)).mean((2, 3))

    net, images = Odd(), torch.randn(2, 3, 6, 6)
    try_stages(net, [Stage(0, "a", {"a": 5}, ())], images)
    with pytest.raises(ThinetError, match="cannot be cut as planned"):
        try_stages(net, [Stage(0, "a", {"a": 3}, ())], images)
    assert net.a.out_channels == 10


# Every criterion and every reconstruction: all pairs of them are cut in test_prune.
@pytest.mark.parametrize(
    ("criterion", "reconstruction"),
    [("thinet_omp", "none"), ("weight_sum", "scale"), ("weight_sum", "refit"), ("apoz", "none"),
     ("random", "refit")],
)  # fmt: skip
def test_any_criterion_with_any_reconstruction(criterion, reconstruction, make_run):
    overrides = [f"criterion={criterion}", f"reconstruction={reconstruction}", "schedule=oneshot",
                 "finetune.final.epochs=0", "baseline.epochs=0"]  # fmt: skip
    layers = make_run(*overrides).run().details["pruning"].layers
    assert [row.filters_after for row in layers] == [2, 2, 4]
    if criterion == "weight_sum":
        assert (layers[0].error is None) == (reconstruction != "scale")


def test_a_run_depends_on_its_seed_alone(make_run, tmp_path):
    same = make_run(folder=tmp_path / "a"), make_run(folder=tmp_path / "b")
    found = [without_times(record_of(run, run.run())) for run in same]
    assert found[0] == found[1]
    run = make_run("seed=1", folder=tmp_path / "c")
    other = without_times(record_of(run, run.run()))
    assert other["model"] != found[0]["model"]


def test_figures_before_fine_tuning_are_those_of_the_last_cut(make_run):
    """With fine-tuning between the stages and none after the last."""
    run = make_run("finetune.final.epochs=0")
    found = run.run()
    test = accuracies_apart(run)
    assert Accuracy(found.model.top1, found.model.top5) == test
    assert found.details["pruning"].before_finetuning.recalibrated == test
