"""What is checked before long work, and what makes two runs the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from thinet.app.config import build, check
from thinet.base.errors import ThinetError
from thinet.run.identity import baseline_fingerprint, fingerprint, plain, run_folder

ROOT = Path(__file__).parents[2]


def test_the_default_is_sound(compose):
    config = check(compose())
    assert config["ratio"] == 0.5
    assert config["dataset"]["data"]["batch_size"] == 64, "interpolations are resolved"


def test_all_problems_are_reported_at_once(compose):
    wrong = [
        "ratio=1.5", "layers=[]", "finetune.stage.epochs=-1", "finetune.final.lr=0",
        "baseline.decay=square", "finetune.clip_norm=-2", "baseline.label_smoothing=1",
        "baseline.train=perhaps", "finetune.batch_size=0", "calibration.batch_size=x",
        "trainer.devices=0", "trainer.precision=8", "seed=-1", "keep_steps=3", "resume=nowhere",
        "model.weights=missing/file.pth", "finetune.stage.warmup=-1", "trainer.progress=loud",
        "trainer.max_steps_per_epoch=0", "trainer.accelerator=abacus",
    ]  # fmt: skip
    with pytest.raises(ThinetError) as caught:
        check(compose(*wrong[:-4], *wrong[-3:]))
    text = str(caught.value)
    keys = {
        "ratio=1.5", "layers=[]", "finetune.stage.epochs=1", "finetune.final.lr=1e-3",
        "decay=square", "finetune.clip_norm=-2", "baseline.label_smoothing=1",
        "baseline.train=perhaps", "finetune.batch_size=0", "calibration.batch_size=x",
        "trainer.devices=0", "trainer.precision=8", "seed=-1", "keep_steps=3", "resume=nowhere",
        "model.weights=missing/file.pth", "trainer.progress=loud",
        "trainer.max_steps_per_epoch=0", "trainer.accelerator=abacus",
    }  # fmt: skip
    assert {key for key in keys if key not in text} == set()
    assert "(1) " in text
    assert f"({len(keys)}) " in text
    assert f"({len(keys) + 1}) " not in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ratio=0", r"^ratio=0 is not a number in \(0, 1\]"),
        ("+logger.foo={}", r"^logger\.foo is no dashboard: choose among wandb, "),
        ("ratio=-0.1", r"^ratio=-0\.1 "),
        ("ratio=half", "^ratio=half "),
        ("ratio=true", "^ratio=True "),
        ("ratio={features.0:2}", r"ratio=2 for 'features\.0' "),
        ("layers=null", "^layers=None .*layers=\\[features"),
        ("layers=[3]", "^layers=.*3.* is not a name"),
        ("finetune.group_end.epochs=0.5", r"finetune\.group_end\.epochs=1"),
        ("finetune.final.warmup=x", r"warmup=x .*finetune\.final\.warmup=0\.5"),
        ("baseline.lr=-1", r"lr=-1 .*baseline\.lr=1e-3"),
        ("reconstruction.recalibrate_bn=now", r"^reconstruction\.recalibrate_bn=now is unknown"),
        ("finetune.clip_norm=nan", r"^finetune\.clip_norm=nan "),
        ("finetune.label_smoothing=-0.1", r"^finetune\.label_smoothing=-0\.1 "),
        ("seed=1.5", r"^seed=1\.5 "),
        ("seed=true", "^seed=True "),
        ("dry_run=perhaps", "^dry_run=perhaps "),
        ("trainer.devices=two", r"^trainer\.devices=two "),
        ("trainer.num_nodes=0", r"^trainer\.num_nodes=0 "),
        ("trainer.max_steps_per_epoch=0.5", r"^trainer\.max_steps_per_epoch=0\.5 "),
        ("+finetune.stage.epoch=3", "finetune|epoch"),
        ("finetune.stage=3", "is missing or not of the expected form"),
        ("~seed", "seed.*not found"),
        ("model.name=${nothing}", "cannot be resolved.*nothing"),
        ("seed=???", "seed"),
    ],
)
def test_each_problem_is_one_sentence_with_advice(override, expected, compose):
    with pytest.raises(ThinetError, match=expected) as caught:
        check(compose(override))
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert "(1)" not in text


def test_resume_may_name_the_folder_of_a_run(compose, tmp_path):
    (tmp_path / "state.json").write_text("{}")
    cfg = compose(f"resume={tmp_path}")
    assert check(cfg)["resume"] == str(tmp_path)
    assert run_folder(cfg) == tmp_path


def test_a_dry_run_has_a_folder_of_its_own(compose, tmp_path):
    assert run_folder(compose()).parent == tmp_path / "outputs"
    assert run_folder(compose("dry_run=true")).name == ".dry_run"


def test_the_name_of_a_run_tells_what_it_is(compose):
    name = compose("ratio=0.3", "criterion=apoz", "seed=4").name
    assert name.startswith("vgg_small-digits-prune-apoz-scale-layerwise-r0.3-s4-")
    mixed = compose("ratio={features.0:0.5}").name
    assert "-rmixed-" in mixed
    odd = compose("ratio=a/b").name
    assert "/" not in odd


# -- identity of a run


SAME = [
    "logger=tensorboard", "logger=[wandb,tensorboard]", "paths.cache=elsewhere", "note=hello",
    "trainer.progress=off", "resume=off", "traceback=true", "keep_steps=true", "dry_run=true",
    "name=mine", "paths.outputs=elsewhere",
]  # fmt: skip
OTHER = [
    "ratio=0.4", "seed=1", "criterion=apoz", "reconstruction=refit", "schedule=oneshot",
    "layers=all", "model=resnet20", "dataset=fashion_mnist", "method=train",
    "finetune.final.epochs=9", "finetune.optimizer.momentum=0.8", "baseline.lr=0.2",
    "calibration.locations=11", "dataset.calibration_per_class=3", "trainer=ddp_cpu",
    "trainer.precision=bf16-mixed", "trainer.max_steps_per_epoch=3", "model.weights=DEFAULT",
    "model.build.widths=[8,16]", "reconstruction.recalibrate_bn=false",
]  # fmt: skip


@pytest.mark.parametrize("override", SAME)
def test_the_fingerprint_ignores_what_changes_no_result(override, compose):
    assert fingerprint(compose(override)) == fingerprint(compose())


@pytest.mark.parametrize("override", OTHER)
def test_the_fingerprint_follows_what_changes_a_result(override, compose):
    assert fingerprint(compose(override)) != fingerprint(compose())
    assert compose(override).name != compose().name


def test_the_fingerprint_does_not_depend_on_the_order_of_overrides(compose):
    one = compose("ratio=0.3", "seed=1")
    assert fingerprint(one) == fingerprint(compose("seed=1", "ratio=0.3"))
    assert len(fingerprint(one)) == 8


# -- identity of a baseline


def baseline(compose, *overrides, weights=None):
    return baseline_fingerprint(plain(compose(*overrides)), weights)


@pytest.mark.parametrize(
    "override",
    ["criterion=random", "ratio=0.1", "ratio={features.0:0.5}", "reconstruction=none",
     "schedule=oneshot", "layers=all", "finetune.final.epochs=9", "calibration.locations=3",
     "dataset.calibration_per_class=3", "logger=wandb", "note=x", "method=train",
     "trainer.progress=off", "keep_steps=true", "model.paper_layers=[features.0]",
     "finetune=none"],
)  # fmt: skip
def test_points_of_a_sweep_share_a_baseline(override, compose):
    assert baseline(compose, override) == baseline(compose)


@pytest.mark.parametrize(
    "override",
    ["model=resnet20", "dataset=fashion_mnist", "seed=1", "baseline.lr=0.2", "baseline.epochs=1",
     "baseline.optimizer.momentum=0.5", "model.build.widths=[8,16]", "dataset.image_size=16",
     "dataset.val_fraction=0.2", "trainer.max_steps_per_epoch=3", "trainer.precision=bf16-mixed",
     "model.weights=DEFAULT", "finetune.batch_size=32", "dataset.crop=pad"],
)  # fmt: skip
def test_what_changes_a_baseline(override, compose):
    assert baseline(compose, override) != baseline(compose)


def test_a_baseline_follows_the_content_of_its_weights(compose, tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    first = baseline(compose, weights=file)
    assert first != baseline(compose)
    assert first == baseline(compose, weights=file)
    file.write_bytes(b"two")
    assert baseline(compose, weights=file) != first


# -- building


def test_build_gives_what_was_written(compose, tmp_path):
    setup, method = build(
        check(
            compose(
                "criterion=weight_sum", "reconstruction=refit", "ratio=0.3", "layers=[features.3]",
                "schedule=oneshot", "seed=7", "finetune.clip_norm=null", "trainer=cpu",
                "finetune.stage={epochs: 3, lr: 0.5, decay: step, warmup: 0.5}",
                "calibration={locations: 4, rows_per_channel: 2, positions: null, batch_size: 9}",
                "dataset.image_size=8", "baseline.optimizer.momentum=0.1",
            )
        )
    )  # fmt: skip
    choosing, finetuning = method.choosing, method.finetuning
    assert type(choosing.criterion).__name__ == "WeightSum"
    assert type(choosing.reconstruction).__name__ == "Refit"
    assert (method.request.ratio, method.request.layers, method.schedule, setup.seed) == (
        0.3,
        ["features.3"],
        "oneshot",
        7,
    )
    stage = finetuning.stage
    assert (stage.epochs, stage.lr, stage.decay, stage.warmup) == (
        3,
        0.5,
        "step",
        0.5,
    )
    sampling = choosing.sampling
    assert (sampling.locations, sampling.positions, sampling.seed) == (4, None, 7)
    assert (choosing.batch_size, setup.image_size, setup.data.seed) == (9, 8, 7)
    assert finetuning.training.clip_norm is None
    assert setup.source.training.clip_norm == 2.0
    assert setup.devices.accelerator == "cpu"
    assert setup.source.cache.parent == tmp_path / "outputs" / ".cache"
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = setup.source.training.make_optimizer([weight])
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1.0, 0.1, 5e-4)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("finetune.optimizer._target_=torch.optim.Nothing", "Nothing"),
        ("finetune.optimizer.momentum=-1", "finetune.optimizer.*momentum"),
        ("baseline.optimizer.weight_decay=much", "baseline.optimizer"),
        ("+finetune.optimizer.typo=1", "finetune.optimizer.*typo"),
        ("dataset.val_fraction=0", r"dataset\.val_fraction=0"),
        ("calibration.locations=0", r"calibration\.locations=0"),
        ("+trainer.typo=1", "trainer.*typo"),
        ("+calibration.typo=1", "calibration.*typo"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(override, expected, compose):
    with pytest.raises(ThinetError, match=expected) as caught:
        build(check(compose(override)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer=gpu"], "trainer=cpu"),
        (["trainer=ddp"], "trainer=cpu"),
        (["trainer.devices=3"], "trainer=ddp_cpu trainer.devices=3"),
    ],
)
def test_devices_that_are_not_there(overrides, expected, compose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ThinetError, match=expected):
        build(check(compose(*overrides)))


def test_devices_that_are_there(compose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = {
        text: build(check(compose(*text.split())))[0].devices.devices
        for text in ("trainer=ddp", "trainer=ddp trainer.devices=1", "trainer=gpu", "trainer=cpu")
    }
    assert list(found.values()) == [2, 1, 1, 1]
    with pytest.raises(ThinetError, match=r"asks for 3 GPUs.*type trainer\.devices=2"):
        build(check(compose("trainer=ddp", "trainer.devices=3")))
    with pytest.raises(ThinetError, match=r"type trainer\.devices=2"):
        build(check(compose("trainer.devices=3")))


# -- start-up


HEAVY = "torch torchvision pytorch_lightning torchmetrics matplotlib numpy sklearn wandb"
WATCH = f"""
import atexit, sys
atexit.register(lambda: print("heavy:", sorted(set("{HEAVY}".split()) & set(sys.modules))))
"""


def run_watched(tmp_path, *arguments):
    """``python run.py`` with a hook that prints at exit which heavy packages were imported."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip


def test_help_imports_nothing_heavy(tmp_path):
    done = run_watched(tmp_path, "--help")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("heavy: []")
    for text in ("criterion: activation_mean, apoz, bn_scale", "ratio: 0.5"):
        assert text in done.stdout


def test_mistakes_are_found_before_torch_is_imported(tmp_path):
    done = run_watched(tmp_path, "ratio=2", "seed=-1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: (1) ratio=2 ")
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "heavy: []"
    assert not list(tmp_path.glob("outputs/*")), "a run that did not begin leaves no folder"


def test_plain_drops_what_it_is_told_to(compose):
    cfg = OmegaConf.create({"a": 1, "b": {"c": "${a}"}, "hydra": {"x": "???"}})
    assert plain(cfg) == {"a": 1, "b": {"c": 1}}
    assert plain(cfg, {"hydra", "b"}) == {"a": 1}


def test_the_dashboards_that_are_named_before_torch_are_those_there_are():
    from thinet.app.checks import DASHBOARDS
    from thinet.engine.logging import dashboards

    assert tuple(dashboards.DASHBOARDS) == DASHBOARDS
