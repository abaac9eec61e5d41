"""A whole run in two processes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


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
    runs = {"one": ("trainer=cpu",), "two": ("trainer=ddp_cpu", "trainer.devices=2")}
    found = {}
    for name, trainer in runs.items():
        done = process(*common, *trainer, f"paths.outputs={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        found[name] = result(tmp_path / name)
    kept = {
        name: {layer["layer"]: layer["kept"] for layer in one["layers"]}
        for name, one in found.items()
    }
    assert kept["two"] == kept["one"]
    assert found["two"]["stages"][0]["top1_plain"] == found["one"]["stages"][0]["top1_plain"]
    (saved,) = (tmp_path / "two").glob("*/model/model.safetensors")
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert found["two"]["weights_by_process"] == [digest, digest]
    assert len(found["one"]["weights_by_process"]) == 1
