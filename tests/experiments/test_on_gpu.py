"""The study for a GPU: every box runs on a CPU, and neither a hang nor an error takes the rest."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from experiments import cifar
from experiments.on_gpu import report, run
from experiments.on_gpu.boxes import peers
from experiments.on_gpu.boxes.criteria import tf32
from experiments.on_gpu.boxes.slim import _cells
from experiments.on_gpu.context import Context
from experiments.on_gpu.images import unpack_into, wait_for, write_classes
from experiments.on_gpu.results import Results
from thinet.models.cifar_resnet import CifarResNet
from thinet.pruning.criteria import Criterion
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.registry import names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """The folder of one run of everything, and what it printed."""
    out = tmp_path_factory.mktemp("on_gpu")
    command = [sys.executable, "-m", "experiments.on_gpu.run", "--smoke", "--out", str(out),
               "--minutes", "30"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture
def boxes(smoke):
    return json.loads((smoke / "results.json").read_text())["boxes"]


def test_every_box_ends_well_and_no_row_is_an_error(smoke, boxes):
    assert list(boxes) == [run.FIRST, *run.BOXES]
    wrong = {
        name: (box["status"], box["error"], [row for row in box["rows"] if row.get("error")])
        for name, box in boxes.items()
        if box["status"] != "ok" or any(row.get("error") for row in box["rows"])
    }
    peers = wrong.pop("peers", None)  # Torch-Pruning may be missing: then a row says so
    assert not wrong, (smoke / "log.txt").read_text()[-3000:]
    assert peers is None or peers[0] == "ok"


def test_every_box_finds_what_it_is_for(boxes):
    rows = {name: [row for row in box["rows"] if not row.get("error")]
            for name, box in boxes.items()}  # fmt: skip
    whole, resumed = rows["default"]
    assert whole["exit"] == resumed["exit"] == 0
    assert resumed["killed_at"] == "stage 2/"
    assert resumed["same_weights"] is resumed["same_figures"] is True
    layouts, command, compiled = rows["runs"]
    assert layouts["stays"] is layouts["same_filters"] is True
    assert compiled["difference"] < 1e-5
    assert compiled["gradients"] is True
    assert (command["precision"], command["exit"]) == ("bf16-mixed", 0)
    assert command["flops_ratio"] > 1
    pairs = {(row["criterion"], row["reconstruction"]) for row in rows["criteria"]}
    assert len(pairs) == len(names("criteria", Criterion)) * len(
        names("reconstruction", Reconstruction)
    )
    same = [row for row in rows["criteria"] if row["way"] == "float32"]
    assert all(row["identical"] and row["on_device"] for row in same)
    assert len(rows["law"]) == 16
    exact = [row for row in rows["law"] if row["arithmetic"] == "TF32 nowhere"]
    assert all(row["accepted"] and 0 < row["difference"] < 1e-4 for row in exact)
    assert all(row["sampled"] > 0 and row["patches_all"] > 0 for row in rows["statistics"])
    passes, selection = rows["oneshot"]
    assert passes["thinet_passes"] > 0
    assert 0 < selection["share"] < 1
    assert {(row["arithmetic"], row["work"]) for row in rows["slim"]} == {
        (arithmetic, work)
        for arithmetic in ("float32", "bf16-mixed")
        for work in ("forward", "both")
    }
    assert all(0 <= row["waits"] <= 1 for row in rows["data"])
    assert all(row["weights_differ"] == 0 for row in rows["finetune"])
    iteration, learnt = rows["datafree"]
    assert iteration["weights_differ"] == 0
    assert (learnt["precision"], learnt["exit"]) == ("bf16-mixed", 0)
    assert {row["variant"] for row in rows["peers"]} == {"weight_sum none", "full recipe"}
    assert all(0.4 < row["flops_left"] < 0.6 for row in rows["peers"])


def test_tables_and_figures_are_there(smoke, boxes):
    with (smoke / "boxes.csv").open(newline="") as file:
        assert [line["box"] for line in csv.DictReader(file)] == list(boxes)
    with (smoke / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    count = sum(len(row) for box in boxes.values() for row in box["rows"])
    assert len(lines) == count
    text = (smoke / "tables.md").read_text()
    assert all(f"**{name}**" in text for name in run.BOXES)
    for name in ("slim.png", "peers.png"):
        assert (smoke / name).read_bytes()[1:4] == b"PNG"
    assert len(list(smoke.iterdir())) <= 8  # so many files at most can be brought back


def fails(context: Context) -> None:
    context.keep({"found": 1})
    raise ValueError("broken\nmore of it")


def hangs(context: Context) -> None:
    context.keep({"found": 2})
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    time.sleep(300)


def dies(context: Context) -> None:
    context.keep({"found": 3})
    import os

    os.kill(os.getpid(), 9)


@pytest.fixture
def broken(monkeypatch):
    """Boxes that do what boxes must not do."""
    module = argparse.Namespace(fails=fails, hangs=hangs, dies=dies)
    monkeypatch.setitem(sys.modules, "experiments.on_gpu.boxes.broken", module)
    for name in ("fails", "hangs", "dies"):
        monkeypatch.setitem(run.HOMES, name, "broken")


@pytest.mark.parametrize(
    ("name", "status", "error", "row"),
    [
        ("fails", "failed", "ValueError: broken", 1),
        ("hangs", "out of time", "ended after its 3 s", 2),
        ("dies", "failed", "exit status -9: see log.txt", 3),
    ],
)
def test_what_a_box_found_before_its_end_stays(broken, tmp_path, name, status, error, row):
    options = argparse.Namespace(
        out=tmp_path, smoke=True, fresh=False, cifar=None, weights=None, resume=False
    )  # fmt: skip
    limit = 3.0 if name == "hangs" else 60.0
    assert not run.run_box(options, name, limit, tmp_path)
    box = Results(tmp_path).read()["boxes"][name]
    assert (box["status"], box["error"]) == (status, error)
    assert box["rows"] == [{"found": row}]
    if name == "fails":
        assert "raise ValueError" in (tmp_path / "log.txt").read_text()


def test_a_new_interpreter_does_the_same(tmp_path):
    options = run.parse(["--out", str(tmp_path), "--smoke", "--fresh"])
    assert run.run_box(options, run.FIRST, 120.0, tmp_path)
    (row,) = Results(tmp_path).rows(run.FIRST)
    assert row["torch"] == torch.__version__


def context(tmp_path: Path, seconds: float) -> tuple[Context, list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    made = Context(torch.device("cpu"), True, time.monotonic() + seconds, rows.append, tmp_path)
    return made, rows


def test_a_cell_that_raises_and_one_without_time_are_rows(tmp_path):
    made, rows = context(tmp_path, 50)
    assert made.cell({"cell": 1}, lambda: {"value": 2.0})
    assert not made.cell({"cell": 2}, lambda: {"value": 1 / 0})
    assert not made.cell({"cell": 3}, lambda: {"value": 3.0}, needs=100)
    assert rows[:2] == [
        {"cell": 1, "value": 2.0},
        {"cell": 2, "error": "ZeroDivisionError: division by zero"},
    ]
    assert rows[2]["error"] in ("left out: 50 s were left", "left out: 49 s were left")


def test_a_cell_that_was_measured_before_is_taken_over(tmp_path):
    results = Results(tmp_path)
    results.begin("law", 9.0)
    results.add("law", {"cell": 1, "value": 2.0})
    results.add("law", {"cell": 2, "error": "left out"})
    made, rows = context(tmp_path, 50)
    made = replace(made, known=tuple(results.begin("law", 9.0)))
    assert not made.cell({"cell": 1}, lambda: {"value": 3.0})
    assert made.cell({"cell": 2}, lambda: {"value": 4.0})
    assert rows == [{"cell": 1, "value": 2.0}, {"cell": 2, "value": 4.0}]


def test_results_are_whole_after_every_row(tmp_path):
    results = Results(tmp_path)
    results.begin("box", 10)
    results.add("box", {"a": float("nan"), "b": None, "c": Path("x")})
    assert Results(tmp_path).rows("box") == [{"a": "nan", "b": None, "c": "x"}]
    results.begin("box", 20)
    assert Results(tmp_path).rows("box") == []
    assert "no box" in report.tables({"about": {}, "boxes": {"no box": {"rows": []}}})


def test_tf32_is_put_back():
    place = torch.backends.cuda.matmul
    before = place.fp32_precision
    with tf32(convolutions=False, products=True):
        assert (torch.backends.cudnn.conv.fp32_precision, place.fp32_precision) == ("ieee", "tf32")
    assert place.fp32_precision == before


def test_a_slim_network_is_tried_in_every_arithmetic():
    found = {(arithmetic, cell.layout) for cell, arithmetic in _cells("vgg16", smoke=False)}
    assert found == {
        ("float32", "contiguous"), ("bf16-mixed", "channels_last"),
        ("float32, no TF32", "contiguous"), ("float32", "channels_last"),
    }  # fmt: skip


@pytest.mark.parametrize("packed", [True, False])
def test_cifar_comes_out_of_an_archive_as_it_does_out_of_a_folder(tmp_path, packed, monkeypatch):
    root, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    for part in ("train", "test"):
        for label, name in enumerate(("bee", "ant")):
            (root / part / name).mkdir(parents=True)
            for k in range(3):
                colour = (100 * label + 10 * k, 5, 7)
                Image.new("RGB", (4, 4), colour).save(root / part / name / f"{2 - k}.png")
    source = root
    if packed:
        source = tmp_path / "data.tar.xz"
        with tarfile.open(source, "w:xz") as file:
            file.add(root, "inside")
    unpack_into(source, work)
    monkeypatch.setattr("experiments.on_gpu.images.split", lambda train, test, _: (train, test))
    for found, name in zip(wait_for(work, 0), ("train", "test"), strict=True):
        wanted = cifar.read_part(root / name)
        assert torch.equal(found.pixels, wanted.pixels)
        assert torch.equal(found.labels, wanted.labels)


def test_the_images_reach_the_box_that_waits_for_them(tmp_path, monkeypatch):
    archive = tmp_path / "cifar.tar"
    with tarfile.open(archive, "w") as file:
        for part, count in (("train", 20), ("test", 4)):
            for k in range(count):
                own = tmp_path / "data" / part / f"class{k % 2}" / f"{k}.png"
                own.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (k, k, k)).save(own)
        file.add(tmp_path / "data", "data")
    weights = tmp_path / "weights.safetensors"
    save_file(CifarResNet(9, 10).state_dict(), weights)

    def seen(context, model, data, *settings):
        return {"images": [len(part) for part in (data.train, data.validation, data.test)]}

    monkeypatch.setattr(peers, "measure", seen)  # boxes are forked from this process
    words = ["--smoke", "--only", "peers", "--cifar", str(archive), "--weights", str(weights)]
    run.main(["--out", str(tmp_path / "out"), *words])
    rows = [row for row in Results(tmp_path / "out").rows("peers") if not row.get("error")]
    assert [row["images"] for row in rows] == ["[18, 2, 4]"] * 2


def test_an_archive_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "bad.tar.xz").write_bytes(b"no archive")
    unpack_into(tmp_path / "bad.tar.xz", tmp_path)
    with pytest.raises(ValueError, match="CIFAR-10 cannot be read: ReadError"):
        wait_for(tmp_path, 0)


def test_generated_classes_have_a_tint_of_their_own(tmp_path):
    write_classes(tmp_path, 2, 1, 16)
    paths = sorted(tmp_path.glob("train/class0/*.jpg"))
    assert len(paths) == 2
    assert len(list(tmp_path.glob("*/class*/*.jpg"))) == 12
    red, green, _ = Image.open(io.BytesIO(paths[0].read_bytes())).resize((1, 1)).getpixel((0, 0))
    assert red > green
