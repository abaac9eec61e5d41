"""The report on W&B, as the definition that would be sent: nothing here leaves the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.binarized import binarized
from tests.report.conftest import pruned, write_run
from thinet.base.errors import ThinetError
from thinet.base.evaluation import EVALUATIONS
from thinet.cli import main
from thinet.report.many.runs import gather
from thinet.report.wandb_report import Shown, logged_runs, make_report, send_report, shown


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs on W&B, in two projects, and one that was not logged."""
    settings = {
        "a": {"project": "thinet", "entity": None},
        "b": {"project": "thinet", "entity": None},
        "c": {"project": "other", "entity": "team"},
        "d": None,
    }
    for name, wandb in settings.items():
        logger = {"wandb": wandb} if wandb else {}
        result = pruned(1, name=name, config={"logger": logger})
        folder = write_run(tmp_path / "runs" / name, result)
        (folder / "state.json").write_text(json.dumps({"run_id": f"id{name}"}))
    return tmp_path / "runs"


def test_the_runs_are_found_by_project(runs: Path) -> None:
    assert logged_runs([runs]) == {("", "thinet"): ["ida", "idb"], ("team", "other"): ["idc"]}


def test_damaged_runs_are_passed_over(runs: Path) -> None:
    (runs / "a" / "result.json").write_text("{")
    (runs / "c" / "state.json").write_text("[]")
    assert logged_runs([runs]) == {("", "thinet"): ["idb"]}


def test_runs_that_were_not_logged_are_refused(runs: Path) -> None:
    with pytest.raises(ThinetError, match="repeat them with logger=wandb"):
        logged_runs([runs / "d"])


def test_the_definition_shows_these_runs_and_no_others(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interface = pytest.importorskip("wandb_workspaces.reports.v2.interface")
    monkeypatch.setattr(interface, "_get_api", lambda: None)  # it looks up the projects' numbers
    found = {"project": {"internalId": "1"}}
    monkeypatch.setattr(interface, "execute_graphql", lambda *_, **__: found)
    what = Shown([*EVALUATIONS.values()], ["quantizer.value.name"], "quantizer", binary=True)
    report = make_report({**logged_runs([runs])}, "me", what)
    assert (report.entity, report.project) == ("me", "thinet")
    assert "3 runs" in report.title

    spec = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == 3
    for grid in grids:
        sets = grid["metadata"]["runSets"]
        places = [(one["project"]["entityName"], one["project"]["name"]) for one in sets]
        assert places == [("me", "thinet"), ("team", "other")]
        assert [f"id{name}" in json.dumps(sets[0]) for name in "abc"] == [True, True, False]
        assert [f"id{name}" in json.dumps(sets[1]) for name in "abc"] == [False, False, True]
    text = json.dumps(grids)
    for _, x, y in what.panels:
        assert f'"summary:{x}"' in text
        assert f'"summary:{y}"' in text
    assert '"summary:model/top1"' in text
    assert '"summary:model/rank1"' in text
    assert '"compression_rate"' in text
    assert '"stage/top1"' in text
    assert '"summary:model/binary_ops"' in text
    assert '"config:quantizer.value.name"' in text
    assert '"quantizer.value.name"' in text  # of the bars


def test_it_shows_what_tells_the_runs_apart_and_what_they_cost(tmp_path: Path) -> None:
    """Whatever the family: options by their names, sizes by their values."""
    config = {"criterion": {"name": "thinet"}, "schedule": {"name": "oneshot"}, "ratio": 0.5}
    cut = [write_run(tmp_path / str(k), pruned(1, name=str(k), criterion=name, config=config))
           for k, name in enumerate(("thinet", "random"))]  # fmt: skip
    what = shown(gather(cut))
    assert (what.settings, what.by) == (("criterion.value.name", "ratio.value"), "criterion")
    assert not what.binary
    assert not any("binary_ops" in one for one in (*what.columns, *(x for _, x, _ in what.panels)))

    config = {"quantizer": {"name": "horq2"}, "binary_training": {"name": "two_step"}}
    orders = [write_run(tmp_path / f"b{k}", binarized(k, config=config)) for k in (1, 2)]
    what = shown(gather(orders))
    assert (what.settings, what.by) == (("quantizer.value.name",), "quantizer")
    assert {"summary:model/bits", "summary:model/binary_ops"} <= set(what.columns)
    assert "model/binary_ops" in {x for _, x, _ in what.panels}
    assert shown(gather(orders[:1])).by == "quantizer"
    config = {"criterion": {"name": "thinet"}, "schedule": {"name": "oneshot"}}
    plans = [write_run(tmp_path / name, pruned(1, schedule=name, config=config))
             for name in ("oneshot", "blockwise")]  # fmt: skip
    assert shown(gather(plans)).by == "schedule"


def test_it_is_sent_once_and_its_address_printed(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wr = pytest.importorskip("wandb_workspaces.reports.v2")
    sent = []
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr("wandb.Api", lambda: type("Api", (), {"default_entity": "me"})())
    monkeypatch.setattr(wr.Report, "save", lambda self: sent.append(self))
    monkeypatch.setattr(wr.Report, "url", "https://example.org/report")
    assert main(["report", "--wandb", str(runs)]) == 0
    assert [report.entity for report in sent] == ["me"]
    assert capsys.readouterr().out == "https://example.org/report\n"


def test_without_a_key_one_sentence(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert main(["report", "--wandb", str(runs)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "type wandb login, or leave out --wandb" in err


def test_without_the_package_one_sentence(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces", None)
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.expr", None)
    with pytest.raises(ThinetError, match=r"pip install 'thinet\[wandb-report\]'"):
        send_report([runs])


def test_when_wandb_cannot_be_reached_one_sentence(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces")

    def refuse() -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("wandb.Api", refuse)
    with pytest.raises(ThinetError, match=r"did not take the report \(no route to host\)"):
        send_report([runs])
