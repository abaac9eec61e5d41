"""dataset=none: a run without any image, from its settings to its page."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import thinet
from tests import warm
from thinet.app.finish import make_result, report
from thinet.artifacts.store import read_spec
from thinet.base.errors import ThinetError
from thinet.datasets.none import NoImages
from thinet.engine.settings import UNKNOWN
from thinet.run.result import MODEL, read_result
from thinet.synthesis.recorder import Recorder

NONE = ("dataset=none", "dataset.image_size=null")
TINY = (
    "synthesis.course.epochs=2", "synthesis.course.iterations=3", "synthesis.course.batch_size=16",
    "synthesis.drawing.width=4", "synthesis.drawing.latent=5",
)  # fmt: skip
DATAFREE = ("method=datafree", *NONE, "model.build.widths=[3,4]", "method.controls=[]", *TINY)


@pytest.fixture
def teacher(make_run, tmp_path):
    """The folder of a finished run on digits of 8x8 pixels."""
    run = make_run("method=train", "model.build.widths=[6,8]", folder=tmp_path / "teacher")
    run.run()
    return run.folder


def test_it_takes_from_the_teacher_what_images_are_like(make_run, teacher):
    run = make_run(*DATAFREE, f"teacher={teacher}")
    spec, data = read_spec(teacher / MODEL), run.setup.data
    assert (data.input_shape, run.setup.image_size) == ((3, 8, 8), 8)
    assert (tuple(data.classes), data.num_classes) == (spec.classes, 10)
    assert (data.mean, data.std) == (spec.mean, spec.std)
    assert data.identity() == {}
    assert not data.has_images


def test_no_control_is_taught_where_none_can_be_measured(make_run, teacher):
    run = make_run(*DATAFREE, "method.controls=[noise]", f"teacher={teacher}")
    assert run.run().details["synthesis"].controls == ()
    assert len(run.session.state.steps) == 1


def test_figures_are_absent_and_not_zero(make_run, teacher, compose_tiny, capsys):
    from thinet.app.config import check

    overrides = (*DATAFREE, f"teacher={teacher}")
    run = make_run(*overrides)
    outcome = run.run()
    assert outcome.model.flops < outcome.reference.flops
    for one in (outcome.model, outcome.reference):
        assert (one.top1, one.top5, one.val_top1, one.val_top5) == (None,) * 4
    assert read_spec(run.folder / MODEL).classes == read_spec(teacher / MODEL).classes
    assert thinet.load(run.folder / MODEL)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    result = make_result(check(compose_tiny(*overrides)), run.setup, outcome, run.state)
    capsys.readouterr()
    assert report(result, run.folder, []) is None
    assert (result.images, result.protocol) == ({}, {})
    said, page = capsys.readouterr().out, (run.folder / "report.html").read_text()
    for text in (said, page):
        assert "no images to measure accuracy on" in text
        assert "top-1" not in text
        assert "test set" not in text
        assert "validation images" not in text
    assert read_result(run.folder).model.top1 is None


def test_killed_after_an_epoch_it_goes_on_in_the_same_bits(
    make_run, teacher, tmp_path, monkeypatch
):
    mode = (*DATAFREE, f"teacher={teacher}")
    expected = make_run(*mode, folder=tmp_path / "whole").run()
    note, calls = Recorder.note, []

    def killed(self, epoch, figures):
        calls.append(epoch)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        note(self, epoch, figures)

    monkeypatch.setattr(Recorder, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        make_run(*mode, folder=tmp_path / "killed").run()
    found = make_run(*mode, folder=tmp_path / "killed").run()
    assert calls == [0, 1, 1]
    assert found.weights_by_process == expected.weights_by_process


@pytest.mark.parametrize("method", ["train", "prune", "distill", "binarize", "scratch",
                                    "sensitivity"])  # fmt: skip
def test_methods_that_look_at_images_say_what_to_type(compose, method):
    from thinet.app.config import build, check

    model = ["model=vgg_binary_small"] if method == "binarize" else []
    advice = "finetune.source=generated" if method == "prune" else "method=datafree teacher=<folder"
    with pytest.raises(ThinetError, match=advice) as refused:
        build(check(compose(f"method={method}", "dataset=none", "dataset.num_classes=10", *model)))
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset.num_classes=10"], "type teacher=<folder of a finished run>"),
        ([], "dataset.num_classes=10"),
        (["dataset.num_classes=10", "evaluate=retrieval"], "evaluate=classification"),
        (["dataset.num_classes=3", "dataset.classes=[a,b]"], "type dataset.num_classes=2"),
    ],
)
def test_what_is_missing_is_told_on_paper(make_run, overrides, sentence):
    with pytest.raises(ThinetError) as refused:
        make_run(*DATAFREE, *overrides)
    assert sentence in str(refused.value)


def test_what_is_typed_goes_before_what_is_saved():
    data = NoImages(image_size=16, usual_size=32, mean=[0.1] * 3, std=[0.2] * 3, classes=["a", "b"])
    data.adopt(input_shape=(3, 8, 8), classes=("x", "y"), num_classes=2, mean=[0.5] * 3,
               std=[0.5] * 3)  # fmt: skip
    assert (data.image_size, data.classes, data.mean) == (16, ["a", "b"], (0.1,) * 3)


def test_images_that_are_not_square_are_refused():
    data = NoImages(image_size=None, usual_size=32, num_classes=2)
    with pytest.raises(ThinetError, match="3x8x6"):
        data.adopt(input_shape=(3, 8, 6))


# A script, because Lightning starts it again as the second process.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from thinet.datasets.none import NoImages
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.settings import UNKNOWN, Devices

silence_lightning()
data = NoImages(image_size=8, usual_size=8, num_classes=10)
engine = Engine(data, Devices("cpu", devices=2, strategy="ddp", progress="off"))
engine.start_processes()
network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
found = engine.gather([engine.rank, data.identity(), engine.evaluate(network, "val") == UNKNOWN])
if engine.rank == 0:
    Path(sys.argv[1]).write_text(json.dumps(found))
"""


def test_two_processes_start_without_images(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(Path(thinet.__file__).parents[1])}
    warm.run([sys.executable, script, out], env=env, timeout=200, check=True)
    assert json.loads(out.read_text()) == [[0, {}, True], [1, {}, True]]


def test_nothing_is_known_of_a_network(make_run, teacher):
    run = make_run(*DATAFREE, f"teacher={teacher}")
    assert run.engine.evaluate(torch.nn.Identity(), "test") == UNKNOWN
    with pytest.raises(ThinetError, match="type for example dataset=digits"):
        run.engine.calibration(8)


def test_pruning_without_any_image(make_run, teacher):
    """Chosen, corrected and recovered on drawn images; the figures are absent."""
    prune = ("experiment=prune_datafree", *NONE, "model.build.widths=[6,8]",
             f"model.weights={teacher}", "finetune.iterations=2", "finetune.batch_size=8",
             "finetune.final.epochs=1", *TINY)  # fmt: skip
    run = make_run(*prune)
    outcome = run.run()
    assert outcome.model.flops < outcome.reference.flops
    assert (outcome.model.top1, outcome.reference.top1) == (None, None)
    assert thinet.load(run.folder / MODEL)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(ThinetError, match=r"type calibration.source=generated finetune.source="):
        make_run(*prune, "finetune.source=images", "finetune.iterations=null")
