"""One tiny run on every dashboard at once: what their own files hold, against metrics.csv."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from thinet.app.main import run
from thinet.engine.logging.loggers import GROUP, close, make_wandb
from thinet.sweeps.callback import SweepCallback

FINISHED: dict[str, Path] = {}
LOGGERS = {"wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow"}


@pytest.fixture
def folder(compose_tiny, tmp_path_factory, monkeypatch):
    """The folder of the run, made once."""
    for package in LOGGERS:
        pytest.importorskip(package)
    if not FINISHED:
        monkeypatch.setenv(GROUP, "ratio-0123")
        monkeypatch.setenv("NETRC", "/nowhere")
        root = tmp_path_factory.mktemp("dashboards")
        cfg = compose_tiny(
            f"paths.outputs={root}", "name=tiny", f"logger=[{','.join(LOGGERS)}]", "round_to=2",
            "distill=cckd",
        )  # fmt: skip
        run(cfg)
        FINISHED["folder"] = root / "tiny"
    return FINISHED["folder"]


@pytest.fixture
def series(folder):
    """Of metrics.csv: what every dashboard has to hold, as (step, value) for each name."""
    found: dict[str, list[tuple[int, float]]] = {}
    with open(folder / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if key not in ("step", "epoch") and value:
                    found.setdefault(key, []).append((int(row["step"]), float(value)))
    return found


@pytest.fixture
def result(folder):
    return json.loads((folder / "result.json").read_text())


def wandb_records(folder: Path) -> Iterator[Any]:
    """The records of an offline run's file, which is a log in LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:  # too little of the block is left for a header
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its end
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        unnested(record.history.item)
        for record in wandb_records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


def unnested(items: Any) -> dict[str, Any]:
    """A table is stored as several items, ``layers`` with ``path`` and so on."""
    row: dict[str, Any] = {}
    for item in items:
        *parents, key = list(item.nested_key) or [item.key]
        inner = row
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[key] = json.loads(item.value_json)
    return row


def test_metrics_csv_has_the_series_at_all(series):
    assert {"val/top1", "train/loss", "stage/top1", "stage/flops", "stage/params"} <= set(series)
    terms = ("cross_entropy", "soft_targets", "correlation")
    names = {*terms, "agreement", *(f"gradient_share_{term}" for term in terms)}
    assert {f"train/{name}" for name in names} <= set(series)
    assert [round(value, 6) for _, value in series["compression_rate"]] == sorted(
        {round(value, 6) for _, value in series["compression_rate"]}
    )
    assert len(series["stage/top1"]) >= 2


def test_an_offline_wandb_run_read_back_holds_every_series(folder, series):
    rows = wandb_rows(folder)
    for key, wanted in series.items():
        found = [(row["trainer/global_step"], row[key]) for row in rows if key in row]
        assert [step for step, _ in found] == [step for step, _ in wanted], key
        assert [value for _, value in found] == pytest.approx([v for _, v in wanted]), key
    stages = [row for row in rows if "stage/top1" in row]
    assert all("compression_rate" in row for row in stages)  # the x axis is in the same row


def test_an_offline_wandb_run_holds_table_artifact_and_axes(folder, result):
    records = list(wandb_records(folder))
    (begun, *_) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (begun.display_name, begun.run_group) == ("tiny", "ratio-0123")
    axes = {
        (record.metric.name or record.metric.glob_name): record.metric.step_metric
        for record in records
        if record.WhichOneof("record_type") == "metric"
    }
    assert axes["stage/*"] == "compression_rate"

    (table,) = [row["layers"] for row in wandb_rows(folder) if "layers" in row]
    assert table["_type"] == "table-file"
    (run_folder,) = folder.glob("wandb/offline-run-*")
    content = json.loads((run_folder / "files" / table["path"]).read_text())
    for name in ("layer", "filters_before", "filters_after", "flops_after", "error"):
        place = content["columns"].index(name)
        assert [row[place] for row in content["data"]] == [
            row[name] for row in result["details"]["pruning"]["layers"]
        ]

    artifacts = [
        record.artifact for record in records if record.WhichOneof("record_type") == "artifact"
    ]
    (model,) = [one for one in artifacts if one.type == "model"]
    assert {entry.path for entry in model.manifest.contents} == {"model.safetensors", "spec.json"}
    spec = next(entry for entry in model.manifest.contents if entry.path == "spec.json")
    assert Path(spec.local_path) == (folder / "model" / "spec.json").absolute()
    images = {key for row in wandb_rows(folder) for key in row if key.startswith("figures/")}
    assert images == {f"figures/{path.stem}" for path in (folder / "figures").glob("*.png")}


def test_the_wandb_summary_has_what_the_comparison_draws(folder, result):
    from thinet.base.evaluation import CLASSIFICATION, EVALUATIONS
    from thinet.report.wandb_report import Shown

    summary: dict[str, Any] = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "summary":
            summary |= unnested(record.summary.update)
    panels = Shown([EVALUATIONS[CLASSIFICATION]]).panels
    assert {key for _, *axes in panels for key in axes} <= set(summary)
    assert summary["model/top1"] == result["model"]["top1"]
    assert summary["model/flops_removed"] == pytest.approx(
        1 - result["model"]["flops"] / result["reference"]["flops"]
    )


def test_tensorboard_holds_the_same_numbers(folder, series):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for key, wanted in series.items():
        found = sorted((event.step, event.value) for event in events.Scalars(key))
        assert [step for step, _ in found] == [step for step, _ in sorted(wanted)], key
        assert [v for _, v in found] == pytest.approx([v for _, v in sorted(wanted)], rel=1e-6), key


def test_mlflow_holds_the_same_numbers(folder, series, monkeypatch):
    from mlflow.tracking import MlflowClient

    from thinet.engine.logging.dashboards import local_store

    client = MlflowClient(local_store(folder))
    experiment = client.get_experiment_by_name("thinet")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "tiny"
    for key, wanted in series.items():
        history = client.get_metric_history(found.info.run_id, key)
        values = sorted((one.step, one.value) for one in history)
        assert [step for step, _ in values] == [step for step, _ in sorted(wanted)], key
        assert [value for _, value in values] == pytest.approx(
            [value for _, value in sorted(wanted)]
        ), key
    assert math.isclose(
        found.data.metrics["model.top1"],
        json.loads((folder / "result.json").read_text())["model"]["top1"],
    )


def test_the_points_of_a_sweep_share_a_group_and_later_runs_do_not(tmp_path, monkeypatch):
    monkeypatch.delenv(GROUP, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = OmegaConf.create(
        {
            "dry_run": True,
            "trainer": {"accelerator": "cpu"},
            "paths": {"outputs": str(tmp_path)},
            "hydra": {
                "mode": "MULTIRUN",
                "overrides": {"task": ["ratio=0.3,0.5"]},
                "launcher": {"_target_": "basic"},
                "sweeper": {"_target_": "basic"},
                "sweep": {"dir": "."},
            },
        }
    )

    def group_of(name, **settings):
        (tmp_path / name).mkdir()
        logger = make_wandb({"mode": "offline", **settings}, tmp_path / name, name, name)
        found = logger.experiment.group
        close([logger], "success")
        return found

    sweep = SweepCallback()
    sweep.on_multirun_start(config)
    sweep.on_job_start(config)
    group = group_of("point")
    assert group.startswith("ratio-")
    assert group_of("named", group="mine") == "mine"
    sweep.on_job_end(config, JobReturn())
    sweep.on_multirun_end(config)
    assert not group_of("later")
