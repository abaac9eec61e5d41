"""A student beside its control: what a run returns, leaves, repeats; other methods taught."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
import torch

import thinet
from thinet.artifacts.store import read_spec
from thinet.base.errors import ThinetError
from thinet.engine.module import Learner
from thinet.report.sections.distillation import DistillationDetails
from thinet.run.result import MODEL

STUDENT = "model.build.widths=[3,4]"
TEACHER = "teacher.build.widths=[6,8]"
DISTILL = ("method=distill", STUDENT, TEACHER)


def weights_of(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def teacher(make_run, tmp_path):
    """The folder of a finished run."""
    run = make_run("method=train", "model.build.widths=[6,8]", folder=tmp_path / "teacher")
    run.run()
    return run.folder


def test_teacher_control_and_student(make_run):
    run = make_run(*DISTILL)
    outcome = run.run()
    assert outcome.reference_is == "teacher"
    assert outcome.reference.flops > 2 * outcome.model.flops
    details = outcome.details["distillation"]
    assert isinstance(details, DistillationDetails)
    assert (details.teacher, details.student) == ("vgg_small", "vgg_tiny")
    assert details.terms.beta == 100
    assert details.alone.flops == outcome.model.flops
    assert details.alone.top1 is not None
    student = thinet.load(run.folder / MODEL)
    assert thinet.cost(student, (3, 8, 8)).flops == outcome.model.flops
    assert run.engine.evaluate(student, "test").top1 == outcome.model.top1
    spec = read_spec(run.folder / MODEL)
    assert spec.metrics == outcome.model.figures()
    assert spec.lineage == (run.setup.name,)
    control = thinet.load(run.setup.source.cache)
    assert run.engine.evaluate(control, "test").top1 == details.alone.top1
    assert not torch.equal(control.features[0].weight, student.features[0].weight)


def test_with_all_weight_on_labels_it_is_its_own_control(make_run):
    """The pair begins with the same weights, and sees the same images in the same order."""
    run = make_run(*DISTILL, "distill=kd", "distill.alpha=1")
    outcome = run.run()
    control = thinet.load(run.setup.source.cache).state_dict()
    student = thinet.load(run.folder / MODEL).state_dict()
    for name, tensor in control.items():
        torch.testing.assert_close(student[name], tensor, rtol=1e-4, atol=1e-6)
    assert outcome.details["distillation"].alone.top1 == outcome.model.top1


def test_given_weights_are_trained_on_by_both(make_run, tmp_path):
    first = make_run("method=train", STUDENT, "model.paper_layers=[]", folder=tmp_path / "first")
    first.run()
    begin = thinet.load(first.folder / MODEL)
    run = make_run(*DISTILL, f"model.weights={first.folder}", "distill=kd", "distill.alpha=1")
    run.run()
    cache = run.setup.source.cache
    control = thinet.load(cache.with_name(f"{cache.name}-trained"))
    student = thinet.load(run.folder / MODEL)
    assert not torch.equal(control.features[0].weight, begin.features[0].weight)
    torch.testing.assert_close(
        control.features[0].weight, student.features[0].weight, rtol=1e-4, atol=1e-6
    )
    assert not cache.exists() or not (cache / "spec.json").exists()


def test_the_control_can_be_left_out(make_run):
    run = make_run(*DISTILL, "method.only_distilled=true")
    assert run.run().details["distillation"].alone is None
    assert not run.setup.source.cache.exists()


def test_a_finished_run_teaches_and_stays_as_it_is(make_run, teacher):
    before = hashlib.sha256(weights_of(teacher / MODEL)).hexdigest()
    run = make_run(*DISTILL[:2], f"teacher={teacher}")
    outcome = run.run()
    assert outcome.details["distillation"].teacher == "teacher"
    figures = read_spec(teacher / MODEL).metrics
    assert outcome.reference.top1 == figures["top1"]
    assert hashlib.sha256(weights_of(teacher / MODEL)).hexdigest() == before


@pytest.mark.parametrize("sampler", ["uniform", "class_uniform", "superclass_uniform"])
@pytest.mark.parametrize("kernel", ["rbf", "bilinear", "mmd"])
def test_every_kernel_with_every_sampler(sampler, kernel, make_run, teacher):
    run = make_run(
        *DISTILL[:2], f"teacher={teacher}", f"sampler={sampler}", f"distill.kernel={kernel}",
        "method.only_distilled=true",
    )  # fmt: skip
    assert run.run().model.top1 is not None


TAUGHT = {
    "prune": ["schedule=oneshot"],
    "prune in stages": ["schedule=layerwise", "keep_steps=true"],
    "scratch": ["method=scratch"],
}


@pytest.mark.parametrize("lesson", ["kd", "cckd"])
@pytest.mark.parametrize("what", TAUGHT)
def test_every_method_that_trains_is_taught(what, lesson, make_run, tmp_path):
    alone = make_run(*TAUGHT[what], folder=tmp_path / "alone")
    alone.run()
    run = make_run(*TAUGHT[what], f"distill={lesson}", folder=tmp_path / "taught")
    outcome = run.run()
    assert outcome.details["distillation"].terms.alpha == 0.1
    assert outcome.details["distillation"].teacher == ""
    assert weights_of(run.folder / MODEL) != weights_of(alone.folder / MODEL)
    assert run.setup.name != alone.setup.name
    assert lesson in run.setup.name
    if "scratch" in what:
        assert outcome.reference.top1 is not None, "the full network is trained to teach"


def test_train_is_taught_by_another_and_leaves_the_baseline_alone(make_run, teacher, tmp_path):
    baseline = make_run("method=train", STUDENT, folder=tmp_path / "alone")
    baseline.run()
    before = weights_of(baseline.setup.source.cache)
    run = make_run(
        "method=train", STUDENT, "distill=kd", f"teacher={teacher}", folder=tmp_path / "taught"
    )
    outcome = run.run()
    assert outcome.model is None
    assert outcome.details["distillation"].teacher == "teacher"
    assert weights_of(run.folder / MODEL) != before
    assert weights_of(baseline.setup.source.cache) == before
    batches = make_run("method=train", STUDENT, "sampler=class_uniform", folder=tmp_path / "by")
    batches.run()
    assert weights_of(batches.folder / MODEL) != before


DISTILLED = (*DISTILL, "sampler=class_uniform", "distill.project=5")
PRUNED = ("schedule=layerwise", "distill=cckd", "method=prune")


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        (DISTILLED, 0),
        (DISTILLED, 1),
        (DISTILLED, 2),
        (DISTILLED, 3),
        (DISTILLED, 5),
        (PRUNED, 1),
        (PRUNED, 3),
    ],
)
def test_killed_it_ends_in_the_same_bits(arguments, after, make_run, tmp_path, monkeypatch):
    fast = (f"paths.cache={tmp_path / 'cache'}", "trainer.checkpoint_minutes=0")

    class KilledError(BaseException):
        pass

    def record(outcome):
        return outcome.model.top1, outcome.model.val_top1, outcome.weights_by_process

    whole = make_run(*arguments, *fast, folder=tmp_path / "whole")
    wanted = record(whole.run())
    calls, step = [], Learner.training_step

    def die(self, batch, index):
        calls.append(index)
        if len(calls) == after + 1:
            raise KilledError
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", die)
    try:
        make_run(*arguments, *fast, folder=tmp_path / "killed").run()
    except KilledError:
        monkeypatch.setattr(Learner, "training_step", step)
        torch.manual_seed(99)
        assert record(make_run(*arguments, *fast, folder=tmp_path / "killed").run()) == wanted
    else:
        assert len(calls) <= after, "it was not killed"
    killed = tmp_path / "killed" / MODEL
    assert weights_of(killed) == weights_of(tmp_path / "whole" / MODEL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill=none"], ["distill=none", "distill=kd"]),
        (["baseline.epochs=0"], ["baseline", "trains nothing"]),
        (["teacher=null"], ["no teacher", "teacher=<folder"]),
        (["distill.feature=clasifier"], ["clasifier", "did you mean classifier"]),
    ],
)
def test_what_makes_no_sense_is_one_sentence(arguments, words, make_run):
    with pytest.raises(ThinetError) as found:
        make_run(*DISTILL, *arguments) if "teacher=null" not in arguments else make_run(
            *DISTILL[:2], *arguments
        )
    for word in words:
        assert word in str(found.value), found.value


def test_a_run_killed_after_its_last_stage_is_finished(make_run, monkeypatch):
    """By then the network before the cut, its teacher, is gone."""
    from thinet.pruning.alternation import Pruning

    final = Pruning._final
    monkeypatch.setattr(Pruning, "_final", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_run("schedule=oneshot", "distill=cckd").run()
    monkeypatch.setattr(Pruning, "_final", final)
    assert make_run("schedule=oneshot", "distill=cckd").run().model.top1 is not None


@pytest.mark.parametrize("way", ["saved", "file"])
def test_a_teacher_of_no_numbers_is_one_sentence(way, teacher, make_run, tmp_path):
    from safetensors.torch import load_file, save_file

    path = teacher / MODEL / "model.safetensors"
    state = load_file(path)
    state["features.0.weight"][0] = torch.nan
    save_file(state, path)
    spec = teacher / MODEL / "spec.json"  # as if it had been saved with them
    spec.write_text(re.sub(r'"sha256": "\w+"', '"sha256": ""', spec.read_text()))
    given = teacher if way == "saved" else tmp_path / "without_suffix.safetensors"
    if way == "file":
        given.write_bytes(path.read_bytes())
    with pytest.raises(ThinetError, match=r"features\.0\.weight .*NaN"):
        make_run("model.build.widths=[6,8]", "method=distill", f"teacher={given}")


def test_sentences_about_a_teachers_file_name_its_key(make_run, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"nothing")
    with pytest.raises(ThinetError) as found:
        make_run(*DISTILL[:2], f"teacher={file}")
    assert "teacher=<file>" in str(found.value)
    assert "model.weights" not in str(found.value)


def test_a_feature_that_nothing_has_made_is_refused(make_run):
    with pytest.raises(ThinetError, match="no weights of the student"):
        make_run(*DISTILL, "distill.feature=features.0")


def test_superclasses_have_images_enough(make_run):
    with pytest.raises(ThinetError, match=r"sampler\.clusters=5000"):
        make_run(*DISTILL, "sampler=superclass_uniform", "sampler.clusters=5000").run()


def test_a_named_feature_is_read_in_a_teacher_of_another_normalisation(teacher, make_run):
    from thinet.engine.lesson import Lesson
    from thinet.training.learning import pupil
    from thinet.training.teacher import prepare_teacher

    changed(teacher, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    run = make_run(*DISTILL[:2], f"teacher={teacher}")
    found = prepare_teacher(run.setup, run.engine, run.folder)
    lesson = Lesson(beta=1.0, feature="features.3")
    read = pupil(found, run.engine, lesson, named=False).feature
    assert read.module == "network.features.3"


def test_a_library_builds_the_teacher_that_is_named(compose):
    cfg = compose(
        "method=distill", "model=torchvision", "model.name=resnet18", "model@teacher=torchvision",
        "teacher.name=resnet50",
    )  # fmt: skip
    assert cfg.teacher.build.architecture == "resnet50"
    assert cfg.model.build.architecture == "resnet18"


def test_who_teaches_nobody_makes_no_other_run(compose, tmp_path):
    from thinet.run.identity import fingerprint

    alone = compose("method=prune")
    assert fingerprint(compose("method=prune", "model@teacher=resnet20")) == fingerprint(alone)
    taught = compose("distill=kd", "teacher=a/b")
    assert fingerprint(taught) == fingerprint(compose("distill=kd", "teacher=./a/b/"))
    assert fingerprint(taught) != fingerprint(compose("distill=kd", "teacher=a/c"))


def test_how_a_saved_teacher_is_read_counts(compose, teacher):
    from thinet.run.identity import fingerprint

    before = fingerprint(compose("distill=kd", f"teacher={teacher}"))
    changed(teacher, mean=[0.5, 0.4, 0.3])
    assert fingerprint(compose("distill=kd", f"teacher={teacher}")) != before


def test_a_file_at_home_is_looked_at(compose, tmp_path, monkeypatch):
    from thinet.run.identity import fingerprint

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.safetensors").write_bytes(b"1")
    before = fingerprint(compose("distill=kd", "teacher='~/w.safetensors'"))
    (tmp_path / "w.safetensors").write_bytes(b"12")
    assert fingerprint(compose("distill=kd", "teacher='~/w.safetensors'")) != before


def test_train_needs_somebody_to_learn_from(make_run):
    with pytest.raises(ThinetError, match="no teacher"):
        make_run("method=train", "distill=kd")


def changed(folder, **values):
    path = folder / MODEL / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": ["a", "b"]}, ["2 classes", "10"]),
        ({"classes": [*map(str, range(9)), "x"]}, ["the class x"]),
        ({"classes": [str(9 - digit) for digit in range(10)]}, ["in another order"]),
        ({"input_shape": [3, 16, 16]}, ["3x16x16", "3x8x8", "dataset.image_size=16"]),
        ({"builder": None}, ["only its owner"]),
    ],
)
def test_a_teacher_of_other_images_is_one_sentence(values, words, teacher, make_run):
    changed(teacher, **values)
    with pytest.raises(ThinetError) as found:
        make_run(*DISTILL[:2], f"teacher={teacher}")
    for word in words:
        assert word in str(found.value), found.value


def test_a_damaged_teacher_is_one_sentence(teacher, make_run):
    path = teacher / MODEL / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ThinetError, match=r"model\.safetensors"):
        make_run(*DISTILL[:2], f"teacher={teacher}")


def test_weights_of_this_model_teach_it_and_other_classes_are_refused(make_run, tmp_path, teacher):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(weights_of(teacher / MODEL))
    run = make_run("model.build.widths=[6,8]", "method=distill", f"teacher={file}",
                   "method.only_distilled=true", folder=tmp_path / "own")  # fmt: skip
    assert run.run().reference.top1 == read_spec(teacher / MODEL).metrics["top1"]
    from safetensors.torch import load_file, save_file

    state = load_file(file)
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][:7].clone()
    save_file(state, file)
    with pytest.raises(ThinetError, match="other classes than the 10"):
        make_run("model.build.widths=[6,8]", "method=distill", f"teacher={file}")


def test_a_teacher_of_another_normalisation_sees_its_own(teacher, make_run):
    from thinet.training.teacher import Renormalised, prepare_teacher

    changed(teacher, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    run = make_run(*DISTILL[:2], f"teacher={teacher}")
    found = prepare_teacher(run.setup, run.engine, run.folder)
    assert isinstance(found, Renormalised)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (run.setup.data.mean,
                                                             run.setup.data.std))  # fmt: skip
    pixels = torch.rand(2, 3, 8, 8)
    own = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    found.eval()
    torch.testing.assert_close(
        found((pixels - mean) / std), found.network(own), rtol=1e-4, atol=1e-5
    )
    assert run.run().model.top1 is not None
