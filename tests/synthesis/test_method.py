"""A run without data: what it leaves, that it sees no image, that it goes on in the same bits."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

import thinet
from thinet.artifacts.store import dump_state, read_spec
from thinet.base.errors import ThinetError
from thinet.datasets.module import ImageData
from thinet.report.sections.synthesis import SynthesisDetails
from thinet.run.result import MODEL
from thinet.synthesis.generator import Generator
from thinet.synthesis.recorder import ROWS, Recorder
from thinet.synthesis.stored import load_generator

DATAFREE = (
    "method=datafree", "model.build.widths=[3,4]", "teacher.build.widths=[6,8]",
    "synthesis.course.epochs=2", "synthesis.course.iterations=3", "synthesis.course.batch_size=16",
    "synthesis.drawing.width=4", "synthesis.drawing.latent=5",
)  # fmt: skip
FIRST = (*DATAFREE, "synthesis.course.mode=generator_first")
MEMORY = ("synthesis.memory.average=0.9", "synthesis.memory.pool=20")


@pytest.fixture
def teacher(make_run, tmp_path):
    """The folder of a finished run."""
    run = make_run("method=train", "model.build.widths=[6,8]", folder=tmp_path / "teacher")
    run.run()
    return run.folder


def test_teacher_control_generator_and_student(make_run):
    run = make_run(*DATAFREE)
    outcome = run.run()
    assert outcome.reference_is == "teacher"
    assert outcome.reference.flops > 2 * outcome.model.flops
    found = outcome.details["synthesis"]
    assert isinstance(found, SynthesisDetails)
    assert (found.teacher, found.student, found.mode) == ("vgg_small", "vgg_half", "together")
    assert (found.iterations, found.images) == (4, 64)  # epochs are cut to two steps here
    assert found.weights == {"one_hot": 1, "activation": 0.1, "entropy": 5, "batchnorm": 1}
    (control,) = found.controls
    assert control.name == "noise"
    assert control.measurement.flops == outcome.model.flops
    assert [row.epoch for row in found.epochs] == [1, 2]
    for row in found.epochs:
        assert sum(row.classes) == 64
        assert 0 < row.spread < 2
        assert {
            "train/loss",
            "train/generator",
            "train/batchnorm",
            "val/top1",
        } <= row.figures.keys()
    student = thinet.load(run.folder / MODEL)
    assert run.engine.evaluate(student, "test").top1 == outcome.model.top1
    assert read_spec(run.folder / MODEL).metrics == outcome.model.figures()
    generator = load_generator(run.folder / "generator")
    assert sum(one.numel() for one in generator.parameters()) == found.generator_parameters
    assert generator(torch.randn(4, 5)).shape == (4, 3, 8, 8)
    pictures = sorted(path.name for path in (run.folder / "figures/generated").iterdir())
    assert pictures[-2:] == ["epoch_001.png", "epoch_002.png"]
    assert pictures[0].startswith("class_")


def test_first_the_generator_then_the_student(make_run):
    run = make_run(*FIRST, "method.controls=[]")
    outcome = run.run()
    found = outcome.details["synthesis"]
    assert [step.name for step in run.session.state.steps] == ["generator", "student"]
    assert found.controls == ()
    assert "val/top1" not in found.epochs[0].figures  # nothing is classified by a generator
    assert "train/loss" not in found.epochs[0].figures


@pytest.mark.parametrize("mode", [DATAFREE, FIRST], ids=["together", "generator first"])
def test_no_training_image_is_looked_at(make_run, teacher, monkeypatch, mode):
    def refuse(*_):
        raise AssertionError("an image was looked at")

    run = make_run(*mode, f"teacher={teacher}")
    for name in ("plain_training", "calibration", "examples"):
        monkeypatch.setattr(ImageData, name, refuse)
    run.setup.data.setup()
    monkeypatch.setattr(type(run.setup.data._train), "__getitem__", _only(run.setup.data))
    run.run()


def untimed(outcome):
    """The details without what was measured by a clock."""
    found = outcome.details["synthesis"]
    controls = [replace(one.measurement, latency_ms=None) for one in found.controls]
    return replace(found, controls=()), controls


def _only(data):
    """Images of the test and validation parts alone."""
    read = type(data._train).__getitem__

    def get(view, position):
        assert view is data._val or view is data._test, "a training image was looked at"
        return read(view, position)

    return get


@pytest.mark.parametrize("extra", [(), MEMORY], ids=["plain", "with a memory"])
def test_killed_after_an_epoch_it_goes_on_in_the_same_bits(make_run, tmp_path, monkeypatch, extra):
    mode = (*DATAFREE, *extra)
    whole = make_run(*mode, folder=tmp_path / "whole")
    expected = whole.run()
    note, calls = Recorder.note, []

    def killed(self, epoch, figures):
        calls.append(epoch)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        note(self, epoch, figures)

    monkeypatch.setattr(Recorder, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        make_run(*mode, folder=tmp_path / "killed").run()
    again = make_run(*mode, folder=tmp_path / "killed")
    found = again.run()
    assert calls == [0, 1, 1]
    assert found.weights_by_process == expected.weights_by_process
    assert untimed(found) == untimed(expected)
    both = [load_generator(run.folder / "generator") for run in (whole, again)]
    assert dump_state(both[0]) == dump_state(both[1])


def test_killed_between_generator_and_student(make_run, tmp_path, monkeypatch):
    expected = make_run(*FIRST, folder=tmp_path / "whole").run()
    from thinet.synthesis.training import Teaching

    learn = Teaching.from_generator

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Teaching, "from_generator", killed)
    with pytest.raises(KeyboardInterrupt):
        make_run(*FIRST, folder=tmp_path / "killed").run()
    monkeypatch.setattr(Teaching, "from_generator", learn)
    found = make_run(*FIRST, folder=tmp_path / "killed").run()
    assert found.weights_by_process == expected.weights_by_process
    assert untimed(found) == untimed(expected)


@pytest.mark.parametrize(
    ("overrides", "draws"),
    [
        ([], 3),
        (["synthesis.course.generator_steps=2", "synthesis.course.student_steps=4"], 3 * (2 + 3)),
        (["synthesis.course.student_steps=2", "synthesis.memory.average=0.9"], 3 * (2 + 2)),
        (["synthesis.course.mode=generator_first", "synthesis.course.student_steps=2"], 3 + 6),
    ],
)
def test_batches_that_are_drawn_are_counted(make_run, monkeypatch, overrides, draws):
    run = make_run(*DATAFREE, "trainer.max_steps_per_epoch=null", "baseline.epochs=1",
                   "method.controls=[]", "synthesis.course.epochs=1", *overrides)  # fmt: skip
    forward, seen = Generator.forward, []

    def counted(self, noise):
        if len(noise) == 16:  # and no picture
            seen.append(len(noise))
        return forward(self, noise)

    monkeypatch.setattr(Generator, "forward", counted)
    found = run.run().details["synthesis"]
    assert len(seen) == draws
    assert (found.iterations, found.images) == (3, 16 * draws)


def test_run_anew_it_does_not_begin_with_the_generator_that_was_left(make_run, tmp_path):
    folder = tmp_path / "run"
    expected = make_run(*DATAFREE, "method.controls=[]", folder=folder).run()
    (folder / "state.json").unlink()  # as resume=off does
    shutil.rmtree(folder / "steps")
    found = make_run(*DATAFREE, "method.controls=[]", folder=folder).run()
    assert found.weights_by_process == expected.weights_by_process


def test_a_pruned_teacher_as_student(make_run, teacher, tmp_path):
    pruned = make_run("model.build.widths=[6,8]", f"model.weights={teacher}", "schedule=oneshot",
                      folder=tmp_path / "pruned")  # fmt: skip
    pruned.run()
    run = make_run(*DATAFREE, "model.build.widths=[6,8]", f"model.weights={pruned.folder}",
                   f"teacher={teacher}", "method.controls=[]")  # fmt: skip
    outcome = run.run()
    assert outcome.model.flops < outcome.reference.flops
    spec = read_spec(run.folder / MODEL)
    assert spec.keep == read_spec(pruned.folder / MODEL).keep


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["synthesis.course.batch_size=9"], "type synthesis.course.batch_size=20"),
        (["synthesis.losses.feature=nowhere"], "no module called 'nowhere'"),
        (["trainer.devices=3", "trainer=cpu", "trainer.strategy=ddp"],
         "type synthesis.course.batch_size=15"),
        (["synthesis.losses.one_hot=0", "synthesis.losses.activation=0",
          "synthesis.losses.entropy=0", "synthesis.losses.batchnorm=0"], "nothing is drawn"),
        (["synthesis.course.mode=generator_first", "synthesis.losses.adversarial=1"],
         "type synthesis.course.mode=together"),
        (["synthesis.course.mode=generator_first", *MEMORY], "synthesis.memory.average=null"),
        (["synthesis.course.mode=both"], "none of together, generator_first"),
        (["synthesis.generator.lr=-1"], "synthesis.generator.lr=1e-3"),
        (["synthesis.student.clip_norm=0"], "synthesis.student.clip_norm=null"),
        (["synthesis.memory.share=2"], "synthesis.memory.share=0.5"),
        (["method.controls=[images]"], "method.controls=[noise]"),
        (["method.controls=[noise,noise]"], "method.controls=[noise]"),
        (["method.controls=noise"], "method.controls=[noise]"),
        (["synthesis.generator.optimizer=null"], "synthesis.generator.optimizer=None names no"),
        (["teacher=null"], "model@teacher=<name of a model>"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_on_paper(make_run, overrides, sentence):
    with pytest.raises(ThinetError) as refused:
        make_run(*DATAFREE, *overrides)
    assert sentence in " ".join(str(refused.value).split())


def test_a_teacher_without_batchnorm_is_told_what_to_type(make_run):
    bare = ("model@teacher=vgg11", "teacher.image_size=32", "dataset.image_size=32")
    mode = [one for one in DATAFREE if not one.startswith("teacher.build")]
    with pytest.raises(ThinetError, match=r"type synthesis.losses.batchnorm=0"):
        make_run(*mode, *bare)


@pytest.mark.parametrize("mode", [DATAFREE, FIRST], ids=["together", "generator first"])
def test_a_collapse_ends_the_run_with_its_sentence(make_run, monkeypatch, mode):
    same = torch.ones(64, 3, 8, 8)
    monkeypatch.setattr(Recorder, "_draw", lambda _: (same, torch.zeros(64, dtype=torch.int64)))
    monkeypatch.setattr("thinet.synthesis.alarms.LEARNT", 100.0)
    run = make_run(*mode, "method.controls=[]")
    with pytest.raises(ThinetError, match="collapsed: the images of epoch 1 are all alike"):
        run.run()
    assert not (run.folder / "generator").exists()


@pytest.mark.parametrize(
    ("mode", "advice"),
    [(DATAFREE, "synthesis.generator.lr=1e-3 synthesis.student.lr=1e-3"),
     (FIRST, "synthesis.generator.lr=1e-3")],
    ids=["together", "generator first"],
)  # fmt: skip
def test_rates_to_type_where_it_diverges_are_those_that_count(make_run, monkeypatch, mode, advice):
    monkeypatch.setattr("thinet.synthesis.critic.one_hot", lambda found: found.sum() * torch.nan)
    with pytest.raises(ThinetError, match=f"for example {re.escape(advice)}\\."):
        make_run(*mode, "method.controls=[]").run()


def test_rows_that_were_damaged_are_told(make_run, tmp_path):
    rows = tmp_path / ROWS
    rows.write_text(json.dumps({"rows": [{"epoch": "first"}]}))
    recorder = Recorder(None, None, None, 0, tmp_path, tmp_path, ((), ()), 10)
    with pytest.raises(ThinetError, match="resume=off"):
        recorder.rows()


def test_dashboards_get_the_images_of_each_epoch(make_run, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "thinet.synthesis.training.log_picture",
        lambda loggers, name, path, step: sent.append((loggers, name, path, step)),
    )
    run = make_run(*DATAFREE, "method.controls=[]")
    run.run()
    names = [(name, path.name) for _, name, path, _ in sent]
    assert names == [("generated/images", f"epoch_00{k}.png") for k in (1, 2)]
    assert all(path.exists() and loggers is run.engine.loggers for loggers, _, path, _ in sent)
    assert [step for *_, step in sent] == [4, 6]  # two steps an epoch here, after the teacher's
