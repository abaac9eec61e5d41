"""metrics.csv over kills and stages; what the dashboards receive."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thinet.base.errors import ThinetError
from thinet.base.messages import logging_to
from thinet.engine.logging.loggers import (
    RunCSVLogger,
    close,
    has_wandb_key,
    make_mlflow,
    make_tensorboard,
    make_wandb,
)
from thinet.engine.logging.sending import (
    Summary,
    log_config,
    log_figures,
    log_picture,
    log_result,
    log_step,
)
from thinet.engine.phases import Phase
from thinet.engine.settings import Training

TRAINING = Training(partial(torch.optim.SGD, lr=1.0))
ROWS: list[dict[str, float | None]] = [
    {"compression_rate": 0.25, "top1": 0.5, "flops": 75, "top1_recalibrated": None},
    {"compression_rate": 0.5, "top1": 0.4, "flops": 50, "top1_recalibrated": None},
]
METRICS = {"top1": 0.4, "top5": 0.9, "flops": 50, "bits": 10, "size_mb": 1.5, "latency_ms": None}
REFERENCE = {**METRICS, "top1": 0.6, "flops": 100, "bits": 40, "size_mb": 2.0}
LAYERS = [{"stage": 0, "layer": "a", "error": None, "flops_after": 5}]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def steps_of(folder: Path) -> list[int]:
    return [int(row["step"]) for row in rows_of(folder)]


@pytest.fixture
def figures(tmp_path):
    path = tmp_path / "figures" / "accuracy.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return [path]


@pytest.fixture
def summary(tmp_path, figures):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "spec.json").write_text("{}")
    tables = {"layers": LAYERS, "none": []}
    return Summary("tiny run/1", REFERENCE, METRICS, folder, figures, tables)


def test_a_new_logger_keeps_the_rows_of_the_old(tmp_path):
    first = RunCSVLogger(tmp_path)
    first.log_metrics({"a": 0.5}, step=1)
    first.log_metrics({"a": 0.25, "b": 3}, step=2)
    first.save()
    second = RunCSVLogger(tmp_path)
    second.log_metrics({"c": 1.0}, step=3)
    second.save()
    third = RunCSVLogger(tmp_path)
    third.save()
    assert rows_of(tmp_path) == [
        {"a": "0.5", "b": "", "c": "", "step": "1"},
        {"a": "0.25", "b": "3", "c": "", "step": "2"},
        {"a": "", "b": "", "c": "1.0", "step": "3"},
    ]


def test_rewind_drops_what_will_be_written_again(tmp_path):
    logger = RunCSVLogger(tmp_path)
    for step in (1, 2, 2, 3, 10):
        logger.log_metrics({"a": step}, step=step)
    logger.rewind(2)
    assert steps_of(tmp_path) == [1, 2, 2]
    logger.log_metrics({"b": 1}, step=3)
    logger.save()
    assert steps_of(tmp_path) == [1, 2, 2, 3]
    logger.rewind(0)
    logger.log_metrics({"b": 1}, step=1)
    logger.save()
    assert steps_of(tmp_path) == [1]


def test_a_half_written_last_row_is_dropped(tmp_path):
    logger = RunCSVLogger(tmp_path)
    logger.log_metrics({"a": 1, "z": 2}, step=1)
    logger.log_metrics({"a": 1, "z": 2}, step=2)
    logger.save()
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().rstrip()[:-4])
    RunCSVLogger(tmp_path).save()
    assert steps_of(tmp_path) == [1]


def test_another_process_leaves_the_file_alone(tmp_path, monkeypatch):
    from pytorch_lightning.utilities import rank_zero_only

    first = RunCSVLogger(tmp_path)
    first.log_metrics({"a": 1}, step=1)
    first.save()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    second = RunCSVLogger(tmp_path)
    second.rewind(0)
    monkeypatch.undo()
    assert steps_of(tmp_path) == [1]


def test_one_step_axis_over_stages(engine, make_network, tmp_path):
    logger = RunCSVLogger(tmp_path)
    engine.loggers = [logger]
    network = make_network()
    engine.fit(network, [Phase(2, 0.1)], TRAINING, "a", tmp_path / "a")
    log_step(engine.loggers, ROWS[0], engine.step)
    engine.fit(network, [Phase(1, 0.1)], TRAINING, "b", tmp_path / "b")
    log_step(engine.loggers, ROWS[1], engine.step)
    rows = rows_of(tmp_path)
    found = {key: [int(row["step"]) for row in rows if row.get(key)] for key in rows[0]}
    assert found["val/top1"] == found["train/loss"] == [3, 6, 9]
    assert found["compression_rate"] == found["stage/top1"] == [6, 9]
    assert steps_of(tmp_path) == sorted(steps_of(tmp_path))


@pytest.mark.parametrize(("where", "after"), [("step", 1), ("step", 4), ("end", 0)])
def test_a_killed_fit_leaves_the_same_rows(where, after, engine, make_network, tmp_path, kill):
    def run(folder, loggers):
        engine.loggers = loggers
        engine.fit(make_network(), [Phase(3, 0.1)], TRAINING, "a", folder / "fit")

    engine.step = 4  # of stages before; their rows must stay
    first = RunCSVLogger(tmp_path)
    first.log_metrics({"stage/top1": 1}, step=4)
    run(tmp_path / "whole", [RunCSVLogger(tmp_path / "whole")])
    engine.step = 4
    kill(where, after)
    with pytest.raises(BaseException, match=r"^$"):
        run(tmp_path, [first])
    run(tmp_path, [RunCSVLogger(tmp_path)])
    wanted = [(r["step"], r["train/loss"], r["val/top1"]) for r in rows_of(tmp_path / "whole")]
    found = [(r["step"], r["train/loss"], r["val/top1"]) for r in rows_of(tmp_path)]
    assert found == [("4", "", ""), *wanted]


def test_wandb_offline_receives_everything(tmp_path, summary, monkeypatch):
    wandb = pytest.importorskip("wandb")
    logged, artifacts = [], []
    logger = make_wandb({"mode": "auto", "tags": ["t"], "group": "g"}, tmp_path, "tiny", "abc123")
    run = logger.experiment
    assert run.settings._offline
    assert (run.id, run.name, run.group, run.tags) == ("abc123", "tiny", "g", ("t",))
    own_log = run.log
    monkeypatch.setattr(run, "log", lambda row, **more: (logged.append(row), own_log(row, **more)))
    monkeypatch.setattr(run, "log_artifact", artifacts.append)
    log_config([logger], {"ratio": 0.5, "model": {"name": "m"}})
    for place, row in enumerate(ROWS):
        log_step([logger], row, step=place + 1)
    log_picture([logger], "generated/images", summary.charts[0], step=7)
    log_result([logger], summary)
    (shown,) = [row for row in logged if "generated/images" in row]
    assert shown["trainer/global_step"] == 7
    assert isinstance(shown["generated/images"], wandb.Image)
    assert dict(run.config)["ratio"] == 0.5
    sent = dict(run.summary)
    assert sent["reference/top1"] == 0.6
    assert sent["model/flops"] == 50
    assert "model/latency_ms" not in sent
    assert (sent["model/flops_removed"], sent["model/size_mb_removed"]) == (0.5, 0.25)
    assert sent["model/bits_removed"] == 0.75
    stages = [row for row in logged if "stage/top1" in row]
    assert [row["compression_rate"] for row in stages] == [0.25, 0.5]
    assert all("stage/top1_recalibrated" not in row for row in stages)
    keys = set().union(*logged)
    assert {"layers", "figures/accuracy"} <= keys
    assert "none" not in keys
    (artifact,) = [one for one in artifacts if one.type == "model"]
    assert set(artifact.manifest.entries) == {"model.safetensors", "spec.json"}
    close([logger], "success")
    assert wandb.run is None
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_wandb_plots_against_the_compression_rate(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    defined = {}
    original = wandb.sdk.wandb_run.Run.define_metric

    def define(self, name, step_metric=None, **more):
        defined[name] = step_metric
        return original(self, name, step_metric=step_metric, **more)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "define_metric", define)
    logger = make_wandb({"mode": "offline"}, tmp_path, "tiny", "abc124")
    close([logger], "failed")
    assert defined["stage/*"] == "compression_rate"
    assert defined["train/*"] == defined["val/*"] == "trainer/global_step"
    assert wandb.run is None


def test_wandb_says_that_it_is_offline(tmp_path, capsys, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with logging_to(None):
        close([make_wandb({}, tmp_path, "tiny", "abc125")], "success")
    assert f"wandb sync {tmp_path}" in capsys.readouterr().out
    with pytest.raises(ThinetError, match="choose auto, online or offline"):
        make_wandb({"mode": "disabled"}, tmp_path, "tiny", "abc126")


def test_tensorboard_receives_everything(tmp_path, summary):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = make_tensorboard({}, tmp_path, "tiny", "abc")
    log_config([logger], {"ratio": 0.5, "model": {"name": "m"}, "layers": ["a"], "none": None})
    log_step([logger], ROWS[0], step=6)
    logger.finalize("success")  # as Lightning does after every stage
    log_step([logger], ROWS[1], step=9)
    for step in (7, 8):
        log_picture([logger], "generated/images", summary.charts[0], step)
    log_result([logger], summary)
    close([logger], "success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("stage/flops")] == [(6, 75), (9, 50)]
    assert [e.value for e in events.Scalars("compression_rate")] == [0.25, 0.5]
    assert events.Images("figures/accuracy")[0].width == 9
    shown = [(e.step, e.width, e.height) for e in events.Images("generated/images")]
    assert shown == [(7, 9, 8), (8, 9, 8)]
    assert events.Scalars("model/top1")[0].value == pytest.approx(0.4)


def test_mlflow_receives_everything(tmp_path, summary):
    pytest.importorskip("mlflow")
    settings = {"experiment_name": "e", "artifact_location": str(tmp_path / "artifacts")}
    logger = make_mlflow(settings, tmp_path, "tiny", "abc")  # mlflow-skinny has no database layer
    log_config([logger], {"ratio": 0.5, "layers": ["a"]})
    log_step([logger], ROWS[0], step=6)
    log_step([logger], ROWS[1], step=9)
    log_picture([logger], "generated/images", summary.charts[0], step=7)
    log_result([logger], summary)
    close([logger], "success")
    run_id = logger.inner.run_id
    run = logger.experiment.get_run(run_id)
    history = logger.experiment.get_metric_history(run_id, "stage/flops")
    assert [(m.step, m.value) for m in history] == [(6, 75), (9, 50)]
    assert run.data.metrics["model.flops"] == 50
    assert run.data.params["ratio"] == "0.5"
    assert run.info.status == "FINISHED"
    names = {Path(f.path).name for f in logger.experiment.list_artifacts(run_id)}
    assert names == {"accuracy.png", "generated", "model.safetensors", "spec.json"}
    (shown,) = logger.experiment.list_artifacts(run_id, "generated/images")
    assert shown.path == "generated/images/accuracy.png"


def test_figures_keep_their_names(tmp_path):
    logger = RunCSVLogger(tmp_path)
    log_figures([logger], {"curve_top1/features.0": 0.5}, step=30)
    log_figures([logger], {"curve_top1/features.0": 0.75}, step=60)
    assert [(row["step"], row["curve_top1/features.0"]) for row in rows_of(tmp_path)] == [
        ("30", "0.5"), ("60", "0.75"),
    ]  # fmt: skip


def test_csv_alone_needs_no_dashboard(tmp_path, summary):
    logger = RunCSVLogger(tmp_path)
    log_config([logger], {"ratio": 0.5})
    log_step([logger], ROWS[0], 6)
    log_picture([logger], "generated/images", summary.charts[0], step=7)
    log_result([logger], summary)
    close([logger], "success")
    (row,) = rows_of(tmp_path)
    assert row == {
        "compression_rate": "0.25",
        "stage/flops": "75",
        "stage/top1": "0.5",
        "step": "6",
    }
    assert not (tmp_path / "hparams.yaml").exists()


NETRC = "machine api.wandb.ai\n  login user\n  password 0123\n"


@pytest.mark.parametrize(
    ("key", "netrc", "base", "wanted"),
    [
        (None, None, None, False),
        ("0123", None, None, True),
        ("", NETRC, None, True),
        (None, NETRC, "https://wandb.example.org:8080/api", False),
        (None, NETRC.replace("api.wandb.ai", "wandb.example.org"),
         "https://wandb.example.org:8080/api", True),
        (None, "machine example.org login a password b\n", None, False),
        (None, "machine\n", None, False),
    ],
)  # fmt: skip
def test_has_wandb_key(key, netrc, base, wanted, tmp_path, monkeypatch):
    for name, value in (("WANDB_API_KEY", key), ("WANDB_BASE_URL", base)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(netrc)
        (tmp_path / ".netrc").chmod(0o600)
    assert has_wandb_key() is wanted


def test_the_loss_of_an_epoch_is_the_mean_over_its_images(engine, make_network, tmp_path):
    """The last batch has fewer images than the others, so that a mean over batches is another."""
    engine.devices = replace(engine.devices, max_steps_per_epoch=None)
    engine.loggers, seen = [RunCSVLogger(tmp_path)], []
    network = make_network()

    def note(_module, _images, logits):
        if network.training:
            seen.append(logits.detach().clone())

    network.register_forward_hook(note)
    engine.fit(network, [Phase(1, 0.1)], TRAINING, "a", tmp_path / "a")
    engine.data.trainer = None
    engine.data.stage_key = "a"
    labels = [classes for _, classes in engine.data.train_dataloader()]
    assert len(labels[-1]) < len(labels[0])
    total = sum(
        float(torch.nn.functional.cross_entropy(logits, classes, reduction="sum"))
        for logits, classes in zip(seen, labels, strict=True)
    )
    (row,) = [row for row in rows_of(tmp_path) if row["train/loss"]]
    assert float(row["train/loss"]) == pytest.approx(total / sum(map(len, labels)), rel=1e-5)
