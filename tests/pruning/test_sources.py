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
from thinet.synthesis.objective import Unlabelled
from thinet.synthesis.settings import Losses

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


@pytest.mark.parametrize("given", [GENERATED, NOISE], ids=["generated", "noise"])
def test_labels_of_drawn_images_are_what_the_whole_network_sees(given, make_run):
    run, net = make_run(*given), make_net()
    begin = run.method.sources.calibration.begin
    supply = begin(run.setup, run.engine, lambda: net, False)
    found = supply.calibration(7)
    assert supply.calibration(3) is found
    images = torch.stack(list(found.images))
    assert images.shape == (20, 3, 8, 8)
    assert len({image.numpy().tobytes() for image in images}) == 20
    with torch.no_grad():
        assert torch.equal(found.labels, net.eval()(images).argmax(1))
    again = begin(run.setup, run.engine, make_net, True).calibration(64)
    assert torch.equal(torch.stack(list(again.images)), images), "drawn anew in any process"
    if given is GENERATED:  # grey lines of one batch, normalised as a whole
        whole = images[:16].transpose(0, 1).flatten(1)
        assert torch.allclose(whole.mean(1), torch.zeros(3), atol=1e-4)
        assert not torch.allclose(torch.stack(list(again.images))[16:].mean(), torch.zeros(()))


def make_net():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 10),
    )  # fmt: skip


# -- kept for other runs


@pytest.fixture
def keep(make_run):
    """What a run with these settings keeps for a network."""

    def call(*given, net=None):
        run = make_run(*GENERATED, *given)
        recipe = run.method.sources.calibration.recipe
        found = kept.kept_generator(run.setup, run.engine, recipe, net or make_net())
        return found, run.engine

    return call


def test_a_generator_is_trained_once_for_all_that_agree_on_it(keep, said):
    first, engine = keep()
    assert engine.step == 4
    second, engine = keep("ratio=0.25", "criterion=apoz", "finetune.batch_size=7")
    assert engine.step == 0, "steps that another run has trained are not counted"
    keep("synthesis.student.lr=0.5", "synthesis.course.student_steps=3")
    assert [line.partition(":")[2].split()[0] for line in said].count("training") == 1
    noise = torch.randn(16, 6)
    with torch.no_grad():
        assert torch.equal(first(noise), second(noise)), "to the bit"
    other = make_net()
    other[5].bias.data[0] += 1
    for given, net in (
        (["synthesis.losses.entropy=6", "trainer.max_steps_per_epoch=1"], None), ([], other),
        (["synthesis.generator.optimizer._target_=torch.optim.AdamW"], None),
    ):  # fmt: skip
        del said[:]
        keep(*given, net=net)
        assert said[0].startswith("generator: training"), given


def test_a_damaged_generator_is_trained_again_to_the_same_bits(keep, make_run, said):
    keep()
    cache = make_run(*GENERATED).setup.source.cache.parent / kept.CACHE
    for name in ("generator.safetensors", "generator.json"):
        (file,) = cache.glob(f"*/generator/{name}")
        content = file.read_bytes()
        file.write_bytes(content[:-9])
        keep()
        assert any("Training it again" in line for line in said)
        assert file.read_bytes() == content


def test_what_a_killed_run_left_to_resume_is_removed(keep, make_run, said):
    keep()
    cache = make_run(*GENERATED).setup.source.cache.parent / kept.CACHE
    (folder,) = (path.parent for path in cache.glob("*/generator"))
    assert not (folder / "fit").exists()
    (folder / "fit").mkdir()
    keep()
    assert not (folder / "fit").exists()


# -- kills

PLACES = {
    "kept": (training, "save_generator"),
    "counted": (RunState, "save"), "cut": (alternation, "prune_groups_"),
    "recovered": (Engine, "train"),
}  # fmt: skip
MOMENTS = [
    ("kept", 1, "after"), ("counted", 2, "before"), ("cut", 1, "before"),
    ("recovered", 2, "before"),
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
    (["finetune.iterations=7"], "type finetune.iterations=null, or finetune.source=generated"),
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
    (["calibration.source=generated", "synthesis.memory.pool=9"], "type synthesis.memory.average"),
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


def test_only_recovery_on_drawn_images_shares_its_batches_equally(compose):
    odd = ["calibration.source=noise", "finetune.batch_size=63"]
    two = ["trainer=ddp_cpu", "trainer.devices=2"]
    setup, method = build(check(compose(*odd, *two)))
    method.plan(setup, method.remembers())


def test_labels_are_not_said_to_be_learnt_where_there_are_none(compose, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("thinet.training.distilling.say", said.append)
    setup, method = build(check(compose("finetune.source=generated", "distill=kd")))
    method.plan(setup, method.remembers())
    told = [line for line in said if line.startswith("teacher: ")]
    assert len(told) == 1
    assert "soft targets alone" in told[0]
    assert "cross-entropy" not in told[0]


def test_recovery_learns_soft_targets_alone():
    torch.manual_seed(0)
    student, teacher = make_net(), make_net()
    with torch.no_grad():
        student[5].bias.add_(torch.arange(10.0))
    images = torch.randn(4, 3, 8, 8)
    losses = Losses(temperature=2.0)
    objective = Unlabelled(student, teacher.eval(), lambda step: images, [], None, losses)
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
