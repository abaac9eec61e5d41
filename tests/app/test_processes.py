"""A whole run in two processes."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from pathlib import Path

from tests import warm
from tests.app.conftest import ROOT, command, environment


def result(outputs: Path) -> dict:
    (path,) = outputs.glob("*/result.json")
    return json.loads(path.read_text())


def test_two_processes_keep_the_filters_of_one_and_end_alike(process, tiny, tmp_path):
    # One shot from the same baseline: the choice then depends on the calibration images alone.
    common = tuple(text for text in tiny if text != "trainer=cpu")
    base = process(*common, "method=train", "trainer=cpu", f"paths.outputs={tmp_path / 'base'}")
    assert base.returncode == 0, base.stderr
    (model,) = (tmp_path / "base").glob("*/model/model.safetensors")
    common += (f"model.weights={model}", "schedule=oneshot", "dataset.calibration_per_class=5")
    common += ("distill=cckd",)
    runs = {"one": ("trainer=cpu",), "two": ("trainer=ddp_cpu", "trainer.devices=2")}
    found = {}
    for name, trainer in runs.items():
        done = process(*common, *trainer, f"paths.outputs={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        found[name] = result(tmp_path / name)
    kept = {
        name: {layer["layer"]: layer["kept"] for layer in one["details"]["pruning"]["layers"]}
        for name, one in found.items()
    }
    assert kept["two"] == kept["one"]
    assert (
        found["two"]["steps"][0]["figures"]["top1_plain"]
        == found["one"]["steps"][0]["figures"]["top1_plain"]
    )
    (saved,) = (tmp_path / "two").glob("*/model/model.safetensors")
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert found["two"]["run"]["weights_by_process"] == [digest, digest]
    assert len(found["one"]["run"]["weights_by_process"]) == 1


def test_two_processes_leave_one_network_that_recovered_on_drawn_images(process, tiny, tmp_path):
    common = [text for text in tiny if text != "trainer=cpu"]
    common += ["trainer=ddp_cpu", "experiment=prune_datafree", "synthesis.course.epochs=1",
               "synthesis.course.iterations=3", "synthesis.course.batch_size=16",
               "synthesis.drawing.width=4", f"paths.outputs={tmp_path}"]  # fmt: skip
    done = process(*common)
    assert done.returncode == 0, done.stderr
    (saved,) = tmp_path.glob("*/model/model.safetensors")
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert result(tmp_path)["run"]["weights_by_process"] == [digest, digest]
    assert done.stdout.count("generator: training it") == 1


def test_two_processes_leave_one_binary_network(process, tiny, tmp_path):
    """BatchNorm has its share of each batch: see tests/quantization/test_processes.py."""
    common = [text for text in tiny if text != "trainer=cpu"]
    common += ["trainer=ddp_cpu", "method=binarize", "model.build.widths=[16,16]", "distill=kd",
               "quantizer.scale=constant", "binary_training.activations.epochs=1",
               "binary_training.weights.epochs=1", f"paths.outputs={tmp_path}"]  # fmt: skip
    done = process(*common)
    assert done.returncode == 0, done.stderr
    (saved,) = tmp_path.glob("*/model/model.safetensors")
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert result(tmp_path)["run"]["weights_by_process"] == [digest, digest]


def test_processes_of_a_launcher_believe_the_first_one_that_a_run_is_done(process, tiny, tmp_path):
    """As if a network drive were late: the second process sees another folder, an empty one."""
    common = [text for text in tiny if text != "trainer=cpu"] + ["trainer=ddp_cpu"]
    done = process(*common, f"paths.outputs={tmp_path / 'seen'}")
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, outputs in enumerate(("seen", "late")):
        place = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        words = command(*common, f"paths.outputs={tmp_path / outputs}")
        started.append(
            warm.start(words, env={**environment(), **place}, cwd=ROOT, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )  # fmt: skip
    try:
        texts = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], texts
    assert "has been run before" in texts[0], texts[0]
    assert not list((tmp_path / "late").glob("*/model"))
