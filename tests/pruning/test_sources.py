"""Pruning on images of a generator or on noise: no image is touched, and the run stays itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omegaconf import OmegaConf

from tests.pruning.test_method import KilledError, record_of, weights_of, without_times
from thinet.app.config import build, check
from thinet.base.errors import ThinetError
from thinet.datasets.module import ImageData
from thinet.engine.engine import Engine
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.pruning import alternation
from thinet.run.identity import fingerprint, plain, settings_of
from thinet.run.state import RunState
from thinet.synthesis import kept, source, training
from thinet.synthesis.recovering import Recovering

QUICK = (
    "synthesis.course.epochs=2", "synthesis.course.iterations=2", "synthesis.course.batch_size=16",
    "synthesis.drawing.width=4", "synthesis.drawing.latent=6", "schedule=oneshot",
    "reconstruction=refit",
)  # fmt: skip
GENERATED = (*QUICK, "calibration.source=generated", "finetune.source=generated")
NOISE = (*QUICK, "calibration.source=noise", "finetune.source=noise")


@pytest.fixture
def said(monkeypatch):
    lines: list[str] = []
    for module in (kept, source):
        monkeypatch.setattr(module, "say", lines.append)
    return lines


def forbid_images(monkeypatch) -> None:
    """No calibration image and no training image may be asked for after the baseline."""

    def refuse(*_, **__):
        raise AssertionError("an image of the data set was asked for")

    monkeypatch.setattr(Engine, "calibration", refuse)
    monkeypatch.setattr(ImageData, "plain_training", refuse)
    load = ImageData.train_dataloader

    def stepping(self):
        assert self.batches is not None or self.stage_key == "baseline", "training images"
        return load(self)

    monkeypatch.setattr(ImageData, "train_dataloader", stepping)
    monkeypatch.setattr(ImageData, "examples", lambda self: torch.zeros(2, *self.input_shape))


@pytest.mark.parametrize("given", [GENERATED, NOISE], ids=["generated", "noise"])
def test_no_image_is_touched_between_baseline_and_accuracy(given, make_run, monkeypatch, said):
    forbid_images(monkeypatch)
    run = make_run(*given)
    found = run.run()
    assert found.model.top1 is not None
    assert [one.epochs for one in run.state.steps] == [1]
    generated = given is GENERATED
    assert any(line.startswith("generator: training") for line in said) == generated
    assert any(line.startswith("calibration: 20 drawn images, of ") for line in said)
    assert run.state.step == 2 + 4 * generated + 2, "baseline, generator, recovery"
    cache = run.setup.source.cache.parent / kept.CACHE
    assert len(list(cache.glob("*/generator/generator.json"))) == generated
    assert not list(cache.rglob("*.ckpt"))


def test_what_is_chosen_depends_on_the_source(make_run, tmp_path):
    found = {}
    for name in ("images", "generated", "noise"):
        given = (*QUICK, f"calibration.source={name}", "finetune.final.epochs=0")
        run = make_run(*given, folder=tmp_path / name)
        run.run()
        found[name] = weights_of(run.folder)
    assert len(set(found.values())) == 3


def test_calibration_images_are_the_generator_s_with_the_classes_the_whole_network_sees(make_run):
    run = make_run(*GENERATED)
    begin = run.method.sources.calibration.begin
    net = make_net()
    supply = begin(run.setup, run.engine, lambda: net, False)
    images = supply.calibration(7)
    assert torch.stack(list(images.images)).shape == (20, 3, 8, 8)
    again = supply.calibration(3)
    assert again is images
    with torch.no_grad():
        expected = net.eval()(torch.stack(list(images.images))).argmax(1)
    assert torch.equal(images.labels, expected)
    other = begin(run.setup, run.engine, make_net, True).calibration(64)
    assert all(torch.equal(*pair) for pair in zip(other.images, images.images, strict=True))


def make_net():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 10),
    )  # fmt: skip


# -- kept for other runs


def test_a_generator_is_trained_once_for_all_points_of_a_sweep(make_run, tmp_path, said):
    make_run(*GENERATED, folder=tmp_path / "a").run()
    again = make_run(*GENERATED, "ratio=0.25", "criterion=apoz", folder=tmp_path / "b")
    again.run()
    trained = [line for line in said if line.startswith("generator: training")]
    assert len(trained) == 1
    assert sum(line.startswith("generator: trained before") for line in said) == 1
    assert again.state.step == 2, "steps that another run has trained are not counted"
    make_run(*GENERATED, "synthesis.losses.entropy=6", folder=tmp_path / "c").run()
    make_run(*GENERATED, "seed=1", folder=tmp_path / "d").run()
    assert sum(line.startswith("generator: training") for line in said) == 3
    student = ("synthesis.student.lr=0.5", "synthesis.course.student_steps=3")
    make_run(*GENERATED, *student, folder=tmp_path / "e").run()
    assert sum(line.startswith("generator: training") for line in said) == 3, "no student here"


def test_a_damaged_generator_is_trained_again_to_the_same_bits(make_run, tmp_path, said):
    first = make_run(*GENERATED, folder=tmp_path / "a")
    first.run()
    (file,) = (first.setup.source.cache.parent / kept.CACHE).glob("*/generator/*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    second = make_run(*GENERATED, folder=tmp_path / "b")
    second.run()
    assert any("Training it again" in line for line in said)
    assert file.read_bytes() == content
    assert weights_of(second.folder) == weights_of(first.folder)


# -- kills

PLACES = {
    "train": (Engine, "train_unseen"), "kept": (training, "save_generator"),
    "counted": (RunState, "save"), "cut": (alternation, "prune_groups_"),
    "recovered": (Engine, "train"),
}  # fmt: skip
MOMENTS = [
    ("train", 1, "before"), ("train", 1, "after"), ("kept", 1, "after"), ("counted", 1, "after"),
    ("counted", 2, "before"), ("counted", 2, "after"), ("cut", 1, "before"),
    ("recovered", 2, "before"), ("recovered", 2, "after"),
]  # fmt: skip


def die(monkeypatch, point: str, number: int, moment: str) -> None:
    """At the n-th passage of a function."""
    owner, name = PLACES[point]
    original, passed = getattr(owner, name), []

    def call(*args, **kwargs):
        passed.append(name)
        if len(passed) == number and moment == "before":
            raise KilledError
        found = original(*args, **kwargs)
        if len(passed) == number:
            raise KilledError
        return found

    monkeypatch.setattr(owner, name, call)


def set_up(make_run, root: Path):
    run = make_run(*GENERATED, f"paths.cache={root}/cache", folder=root / "run")
    run.engine.loggers = [RunCSVLogger(root / "run")]
    return run


@pytest.fixture(scope="module")
def wanted():
    """What a run that nobody disturbs leaves; made once."""
    return {}


def whole(wanted, make_run, tmp_path_factory):
    if not wanted:
        root = tmp_path_factory.mktemp("whole")
        (root / "run").mkdir()
        run = set_up(make_run, root)
        found = record_of(run, run.run())
        wanted |= {
            "record": without_times(found), "weights": weights_of(run.folder),
            "rows": rows_of(run.folder), "step": run.state.step,
        }  # fmt: skip
    return wanted


def rows_of(folder: Path) -> list[str]:
    lines = (folder / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    timed = {number for number, name in enumerate(columns) if any(t in name for t in TIMES)}
    return [
        ",".join(cell for number, cell in enumerate(line.split(",")) if number not in timed)
        for line in lines
    ]


TIMES = ("seconds", "latency", "memory")


@pytest.mark.parametrize(("point", "number", "moment"), MOMENTS)
def test_a_kill_changes_no_bit_and_no_row(
    point, number, moment, make_run, wanted, tmp_path, tmp_path_factory, monkeypatch
):
    expected = whole(wanted, make_run, tmp_path_factory)
    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        die(patch, point, number, moment)
        with pytest.raises(KilledError):
            set_up(make_run, tmp_path).run()
    run = set_up(make_run, tmp_path)
    found = record_of(run, run.run())
    assert without_times(found) == expected["record"]
    assert weights_of(run.folder) == expected["weights"]
    assert run.state.step == expected["step"]
    assert rows_of(run.folder) == expected["rows"]


def test_a_kill_within_the_generator_s_training_loses_no_epoch(make_run, monkeypatch, said):
    trained = []
    original = kept.Teaching.generator_alone

    def stop(self, folder):
        note = self._note

        def noted(recorder, epoch, figures):
            trained.append(epoch)
            note(recorder, epoch, figures)
            if len(trained) == 2:
                raise KilledError

        object.__setattr__(self, "_note", noted)
        return original(self, folder)

    monkeypatch.setattr(kept.Teaching, "generator_alone", stop)
    with pytest.raises(KilledError):
        make_run(*GENERATED).run()
    make_run(*GENERATED).run()
    assert trained == [0, 1, 1], "the first epoch has been kept"


# -- plans, other methods, identity


def test_widths_by_error_are_found_on_drawn_images(make_run, monkeypatch, said):
    forbid_images(monkeypatch)
    run = make_run(*GENERATED, "target=flops:0.6", "allocation=error")
    assert run.plan is None
    run.run()
    assert run.state.step == 8
    assert sum("generator: training" in line for line in said) == 1


def test_a_dry_run_draws_nothing_unless_the_plan_takes_it(make_run, monkeypatch, said):
    run = make_run(*GENERATED)

    def refuse():
        raise AssertionError("nothing is to be trained")

    run.method.preview(run.setup, refuse)
    assert said == []
    run = make_run(*GENERATED, "target=flops:0.6", "allocation=error")
    forbid_images(monkeypatch)
    run.method.preview(run.setup, lambda: (run.engine, make_small(run)))
    assert any("generator: training" in line for line in said)


def make_small(run):
    from thinet.training.source import build_network

    return build_network(run.setup)


def test_sensitivity_on_generated_images(make_run, monkeypatch, said):
    quick = ("method.ratios=[0.5]", "method.trials=0", "method.budget=flops:0.8")
    given = [one for one in QUICK if not one.startswith("schedule")]
    run = make_run("method=sensitivity", *given, "calibration.source=generated", *quick)
    forbid_images(monkeypatch)
    found = run.run()
    assert len(found.details["sensitivity"].cells) == 3
    assert any("calibration: 20 drawn images" in line for line in said)


def stripped(cfg):
    """A configuration as it was before there were sources."""
    OmegaConf.set_struct(cfg, False)
    del cfg.calibration["source"], cfg.finetune["source"], cfg.finetune["iterations"]
    cfg.method.reads = [one for one in cfg.method.reads if one != "synthesis"]
    cfg.method.usual.pop("synthesis", None)
    return cfg


@pytest.mark.parametrize("method", ["prune", "scratch", "sensitivity"])
def test_runs_on_real_images_keep_their_names(method, compose):
    before = fingerprint(stripped(compose(f"method={method}")))
    cfg = compose(f"method={method}")
    assert fingerprint(cfg) == before
    assert cfg.name.endswith(before)
    assert fingerprint(compose(f"method={method}", "synthesis=paper")) == before
    assert "synthesis" not in settings_of(plain(compose(f"method={method}", "synthesis=paper")))


def test_what_is_drawn_is_part_of_a_run_s_identity(compose):
    marks = [
        fingerprint(compose(*given))
        for given in (
            [], ["calibration.source=generated"], ["calibration.source=noise"],
            ["finetune.source=generated"],
            ["calibration.source=generated", "synthesis.course.iterations=41"],
            ["finetune.source=generated", "finetune.iterations=41"],
        )
    ]  # fmt: skip
    assert len(set(marks)) == len(marks)
    cfg = compose("calibration.source=generated", "synthesis=paper")
    assert "-generated-r0.5" in cfg.name
    told = settings_of(plain(cfg))
    assert told["calibration.source"] == "generated"
    assert told["synthesis"] == "paper"


BAD = [
    (["calibration.source=real"], "calibration.source=real is unknown: choose among images"),
    (["finetune.source=null"], "finetune.source=None is unknown"),
    (["method=sensitivity", "calibration.source=3"], "calibration.source=3 is unknown"),
    (["method=scratch", "finetune.source=generated"], "type finetune.source=images"),
    (["finetune.source=noise", "sampler=class_uniform"], "type sampler=uniform"),
    (["finetune.source=generated", "distill=cckd"], "type distill=kd"),
    (["finetune.source=generated", "finetune.iterations=0"], "type finetune.iterations=40"),
    (["finetune.iterations=x"], "type finetune.iterations=40"),
    (["calibration.source=generated", "synthesis.course.batch_size=1"], "synthesis.course.batch_s"),
    (["calibration.source=generated", "synthesis.losses.base=1"], "synthesis.losses.base"),
    (["calibration.source=generated", "synthesis.generator.lr=0"], "synthesis.generator"),
    (
        ["calibration.source=generated", "synthesis.build._target_=os.system"],
        "synthesis.build._target_",
    ),
]


@pytest.mark.parametrize(("given", "match"), BAD, ids=lambda value: "+".join(value)[:40])
def test_what_makes_no_sense_is_one_sentence_without_torch(given, match, compose):
    with pytest.raises(ThinetError, match=match) as caught:
        check(compose(*given))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_settings_of_a_generator_that_nobody_asks_for_are_nobody_s_fault(compose):
    check(compose("synthesis.course.batch_size=1"))


ON_PAPER = [
    (["model=vgg16", "calibration.source=generated"], "synthesis.losses.batchnorm=0"),
    (["calibration.source=generated", "synthesis.losses.adversarial=1"], "adversarial=0"),
    (
        ["finetune.source=noise", "finetune.batch_size=63", "trainer=ddp_cpu", "trainer.devices=2"],
        "type finetune.batch_size=62",
    ),
]


@pytest.mark.parametrize(("given", "match"), ON_PAPER)
def test_what_cannot_be_drawn_is_said_before_long_work(given, match, compose):
    setup, method = build(check(compose(*given)))
    with pytest.raises(ThinetError, match=match):
        method.plan(setup, method.remembers())


def test_recovery_learns_soft_targets_alone():
    torch.manual_seed(0)
    student, teacher = make_net(), make_net()
    with torch.no_grad():
        student[5].bias.add_(torch.arange(10.0))
    images = torch.randn(4, 3, 8, 8)
    objective = Recovering(student, teacher.eval(), lambda step: images, [], None, 2.0)
    (update,) = objective.updates
    assert objective.frozen == (teacher,)
    assert update.weights == {"soft_targets": 1.0}
    found = update.losses(None)
    mine, theirs = student(images) / 2, teacher(images) / 2
    apart = theirs.softmax(1) * (theirs.log_softmax(1) - mine.log_softmax(1))
    assert torch.allclose(found["loss"], 4 * apart.sum(1).mean(), atol=1e-5)
    found["loss"].backward()
    assert all(one.grad is None for one in teacher.parameters())
    assert float(found["agreement"]) == float((mine.argmax(1) == theirs.argmax(1)).float().mean())
