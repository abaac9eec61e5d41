"""Dashboards that cannot be reached: the run ends as without them and loses nothing of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
from pytorch_lightning.loggers.logger import DummyLogger

from tests.engine.wandb_server import WandbServer, serving
from thinet.app.main import run
from thinet.base.errors import ThinetError
from thinet.base.files import read_json
from thinet.base.messages import logging_to
from thinet.engine.logging import sending as sent
from thinet.engine.logging.background import Steady
from thinet.engine.logging.loggers import (
    RunCSVLogger,
    close,
    make_mlflow,
    make_tensorboard,
    make_wandb,
)
from thinet.engine.logging.sending import log_step

wandb = pytest.importorskip("wandb")

ROW = {"compression_rate": 0.25, "top1": 0.5}
QUICK = {"start_timeout": 2, "finish_timeout": 2}


@pytest.fixture
def server(monkeypatch):
    """A W&B server that is well until told otherwise; its client would use it for every run."""
    wandb.teardown()  # the service of earlier tests knows another server
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        yield found
        wandb.teardown()


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def session(folder: Path, fault, capsys, **settings) -> str:
    """Start a W&B run, log, let the fault happen, log, end; returns what was said."""
    with logging_to(None):
        logger = make_wandb({**QUICK, **settings}, folder, "tiny", "abc")
        log_step([logger], ROW, 1)
        fault()
        log_step([logger], ROW, 2)
        close([logger], "success")
    return capsys.readouterr().out


def wandb_file(folder: Path) -> bytes:
    """What is on disk to upload later; the service may write it after it was given up waiting."""
    wandb.teardown()
    (path,) = folder.glob("wandb/*run-*/*.wandb")
    return path.read_bytes()


def test_a_server_that_is_well_gets_everything_and_nothing_is_said(server, tmp_path, capsys):
    assert session(tmp_path, lambda: None, capsys) == ""
    assert any(path.endswith("file_stream") for path in server.seen)


def dies(server: WandbServer) -> None:
    server.die()


def refuses(server: WandbServer) -> None:
    server.status = lambda path: 401


def breaks(server: WandbServer) -> None:
    server.status = lambda path: 500


@pytest.mark.parametrize("fault", [dies, refuses, breaks])
def test_a_server_that_fails_in_the_middle(fault, server, tmp_path, capsys):
    out = session(tmp_path, lambda: fault(server), capsys)
    (line,) = out.splitlines()
    (folder,) = tmp_path.glob("wandb/run-*")
    assert line.startswith("W&B failed and gets nothing more (")
    assert line.endswith(f"upload later with: wandb sync {folder}")
    assert wandb_file(tmp_path).count(b"stage/top1") >= 2  # also what was logged after the fault
    assert wandb.run is None  # a later run of the process would go on in this one


@pytest.mark.parametrize("fault", [dies, refuses, breaks])
def test_a_server_that_fails_from_the_start(fault, server, tmp_path, capsys):
    fault(server)
    (line,) = session(tmp_path, lambda: None, capsys).splitlines()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert line.startswith("W&B cannot be used now (")
    assert line.endswith(f"logging offline; upload later with: wandb sync {folder}")
    (rest,) = tmp_path.glob("wandb/run-*")  # of the attempt to go online
    shutil.rmtree(rest)
    assert wandb_file(tmp_path).count(b"stage/top1") >= 2
    assert os.environ.get("WANDB_MODE") is None  # a later run of the process may be online


def test_a_wrong_entity_and_a_wrong_key(server, tmp_path, capsys, monkeypatch):
    server.status = lambda path: 404 if path == "UpsertBucket" else 200
    out = session(tmp_path / "entity", lambda: None, capsys, entity="nobody")
    assert "logging offline" in out
    monkeypatch.setenv("WANDB_API_KEY", "short")
    out = session(tmp_path / "key", lambda: None, capsys)
    assert "API key must have" in out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds W&B's service in /proc")
def test_wandbs_own_service_killed(server, tmp_path, capsys):
    def kill():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name.startswith("wandb-core") and int(rest.split()[1]) == os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)

    (line,) = session(tmp_path / "one", kill, capsys).splitlines()
    assert line.startswith("W&B failed")
    assert session(tmp_path / "two", lambda: None, capsys) == ""  # the next run has a new service


def test_a_run_whose_dashboards_all_fail_ends_as_without_them(
    server, compose_tiny, tmp_path, monkeypatch, closed_port
):
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    common = (f"paths.data={tmp_path / 'data'}", "schedule=oneshot")
    plain = tmp_path / "plain" / "tiny"
    run(compose_tiny(f"paths.outputs={plain.parent}", "name=tiny", *common))
    folder = tmp_path / "failing" / "tiny"

    def no_folder_can_be_made(*_):
        (folder / "tensorboard").write_text("here")

    monkeypatch.setattr("thinet.app.main._record", no_folder_can_be_made)  # what a run does first
    original = sent._send

    def refused(*args):
        server.status = lambda path: 401
        original(*args)

    monkeypatch.setattr(sent, "_send", refused)
    run(
        compose_tiny(
            f"paths.outputs={folder.parent}", "name=tiny", *common,
            "logger=[wandb,tensorboard,mlflow]", "logger.wandb.start_timeout=5",
            "logger.wandb.finish_timeout=2",
            f"logger.mlflow.tracking_uri=http://127.0.0.1:{closed_port}",
        )
    )  # fmt: skip
    assert weights(folder) == weights(plain)
    assert figures_of(folder) == figures_of(plain)
    log = (folder / "run.log").read_text()
    said = re.findall(r"(\S+) failed and gets nothing more", log)
    assert sorted(said) == ["MLflow", "TensorBoard", "W&B"]
    assert f"wandb sync {folder}/wandb/run-" in log
    assert json.loads((folder / "state.json").read_text())["status"] == "complete"
    assert (folder / "report.html").exists()


def weights(folder: Path) -> list[str]:
    return read_json(folder / "result.json")["run"]["weights_by_process"]


def figures_of(folder: Path) -> list[dict[str, str]]:
    """metrics.csv, without what was measured with a clock or depends on what else is loaded."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if not re.search("seconds|latency|memory", k)}
            for row in csv.DictReader(file)
        ]


def test_each_is_said_once_and_then_left_alone(tmp_path, capsys, monkeypatch, closed_port):
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "tensorboard").write_text("")
    uri = {"tracking_uri": f"http://127.0.0.1:{closed_port}"}
    made = [make_tensorboard({}, tmp_path, "a", "b"), make_mlflow(uri, tmp_path, "a", "b")]
    with logging_to(None):
        for step in range(3):
            log_step(made, ROW, step)
        close(made, "success")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" failed")[0] for line in lines] == ["TensorBoard", "MLflow"]
    assert all(line.endswith("metrics.csv and result.json have every figure") for line in lines)


def test_mlflow_by_itself_would_try_for_minutes(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    for key in ("MAX_RETRIES", "TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{key}", "")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{key}")
    make_mlflow({"tracking_uri": "http://127.0.0.1:1"}, tmp_path, "a", "b")
    from mlflow.environment_variables import (
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
    )

    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() * MLFLOW_HTTP_REQUEST_TIMEOUT.get() <= 60


def test_what_the_user_can_put_right_is_no_failure_of_a_dashboard():
    def build():
        raise ThinetError("install it")

    with pytest.raises(ThinetError, match="install it"):
        Steady("X", build)


def test_a_package_that_is_missed_in_mid_run_is_a_failure_like_others(capsys):
    def miss(_):
        raise ModuleNotFoundError("No module named 'boto3'")

    with logging_to(None):
        logger = Steady("MLflow", DummyLogger)
        assert logger.send(miss) is None
    assert (
        "MLflow failed and gets nothing more (No module named 'boto3')" in capsys.readouterr().out
    )


def test_the_runs_own_record_does_stop_it(tmp_path, monkeypatch):
    logger = RunCSVLogger(tmp_path)
    log_step([logger], ROW, 1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(logger.experiment), "save", full)
    with pytest.raises(OSError, match="No space"):
        log_step([logger], ROW, 2)
    with pytest.raises(OSError, match="No space"):
        close([logger], "success")
