"""Whatever is wrong: one sentence, what to type instead, exit code 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

RESNET20 = ("model=resnet20", "dataset.image_size=32")


@pytest.fixture
def photos(tmp_path) -> Path:
    """A small class folder with nothing wrong in it."""
    root = tmp_path / "photos"
    for part in ("train", "test"):
        for place, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                color = (60 * number, 120 * place, 90)
                Image.new("RGB", (32, 32), color).save(root / part / name / f"{number}.png")
    return root


def weights_of(name: str, path: Path, spoil: bool = False) -> Path:
    from thinet.models import build

    state = build(f"thinet.models.cifar_resnet.{name}", num_classes=10, image_size=32).state_dict()
    if spoil:
        state["layer1.0.conv1.weight"][0] = torch.nan
    save_file(state, path)
    return path


def refused(outcome, *words: str) -> None:
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert outcome.code == 2, outcome
    assert len(lines) == 1, outcome.err
    assert outcome.err.strip().splitlines()[-1] == lines[0]
    assert "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill=kdd"], ["distill=kdd", "cckd, kd, none"]),
        (["distill=cckd", "distill.beta=-1"], ["beta=-1", "distill.beta=10"]),
        (["distill=kd", "distill.temperature=0"], ["temperature=0", "distill.temperature=4"]),
        (["distill=kd", "sampler=class_uniform", "sampler.k=128"], ["sampler.k=128", "more than"]),
        (["distill=kd", "teacher=resnet20"], ["model@teacher=resnet20"]),
        (["distill=kd", "teacher=none"], ["teacher=null"]),
        (["distill=kd", "teacher=no/such/run"], ["no/such/run", "model@teacher=<name>"]),
        (["method=train", "distill=kd"], ["no teacher", "teacher=<folder"]),
        (["method=distill", "teacher.weights=missing"], ["teacher.weights=missing", "not exist"]),
        (["method=distill", "distill.feature=clasifier"], ["did you mean classifier"]),
        (["method=distill", "distill.project=8", "distill.beta=0"], ["distill.project=8"]),
        (["dataset=digits", "evaluate=finding"], ["evaluate=finding", "retrieval"]),
        (["criterion=thinnet"], ["did you mean criterion=thinet?"]),
        (["model=vgg61"], ["model=vgg61 does not exist", "vgg16"]),
        (["schedule=foo"], ["blockwise, layerwise, oneshot"]),
        (["logger=comet"], ["tensorboard, wandb"]),
        (["ratio=0"], ["(0, 1]", "ratio=0.5"]),
        (["ratio=1.5"], ["(0, 1]", "ratio=0.5"]),
        (["ratio=-0.1"], ["(0, 1]", "ratio=0.5"]),
        (["ratio=half"], ["(0, 1]", "ratio=0.5"]),
        (["ratio=1"], ["nothing to prune"]),
        (["ratio={features.99:0.5}"], ["'features.99'", "features.0"]),
        (["ratoi=0.3"], ["did you mean ratio?"]),
        (["finetune.stage.epoch=3"], ["did you mean finetune.stage.epochs?"]),
        (["modle=vgg16"], ["did you mean model?"]),
        (["ratio=={"], ["key=value"]),
        (["finetune.final.lr=-1"], ["finetune.final.lr"]),
        (["finetune.optimizer._target_=torch.optim.Foo"], ["torch.optim.Foo"]),
        (["trainer.precision=8"], ["bf16-mixed"]),
        (["seed=x"], ["seed=0"]),
        (["layers=[feature.0]"], ["did you mean 'features.0'?"]),
        (["layers=[classifier]"], ["cannot be pruned", "features.0"]),
        ([*RESNET20, "layers=[conv1]"], ["cannot be pruned", "layer1.0.conv1"]),
        (["dataset=folder"], ["dataset.root=<folder>"]),
        (["dataset=folder", "dataset.root=nowhere"], ["dataset.root=nowhere", "train/<class>"]),
        (["dataset=cifar10", "paths.data=nowhere"], ["dataset.download=true"]),
        (["dataset=cifar100", "paths.data=nowhere"], ["CIFAR-100", "dataset.download=true"]),
        (["dataset=mnist", "paths.data=nowhere"], ["MNIST", "dataset.download=true"]),
        (["dataset=reid", "model=vgg16"], ["dataset.root=<folder>", "bounding_box_train"]),
        (["dataset=imagenet", "model=vgg16"], ["dataset.root=<folder>"]),
        (["dataset=cub200", "model=vgg16"], ["dataset.root=<folder>"]),
        (["model.weights=missing.pth"], ["missing.pth does not exist", "model.weights=none"]),
        (["resume=nowhere"], ["resume=auto"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_it_is_refused_in_a_sentence(type_, tmp_path, arguments, words):
    refused(type_(*arguments), *words)
    left = [path for path in (tmp_path / "outputs").glob("*") if path.name != ".cache"]
    assert not left, "a run that did not begin leaves nothing behind"


def test_all_problems_are_reported_at_once(type_):
    refused(type_("ratio=2", "seed=x", "finetune.stage.epochs=1.5"), "(1)", "(2)", "(3)")


@pytest.mark.parametrize("devices", ["trainer=gpu", "trainer=ddp trainer.devices=4"])
def test_more_devices_than_there_are(type_, monkeypatch, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refused(type_(*devices.split()), "trainer=cpu")


def test_folders_of_images_with_something_wrong(type_, photos, tmp_path):
    job = ("dataset=folder", f"dataset.root={photos}", "model=resnet20")
    (photos / "train" / "dog" / "0.png").write_bytes(b"\x89PNG nothing")
    refused(type_(*job), "0.png", "replace or delete")
    for path in (photos / "train" / "dog").iterdir():
        path.unlink()
    refused(type_(*job), "dog has no images")
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (32, 32)).save(flat / "a.png")
    refused(type_("dataset=folder", f"dataset.root={flat}"), "<root>/train/<class>/<image>")


def test_weights_with_something_wrong(type_, tmp_path):
    good = weights_of("resnet20", tmp_path / "good.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:50_000])
    refused(type_(*RESNET20, f"model.weights={cut}"), "cut.safetensors is damaged")
    foreign = tmp_path / "foreign.pth"
    foreign.write_text("hello")
    refused(type_(*RESNET20, f"model.weights={foreign}"), "foreign.pth is damaged")
    nan = weights_of("resnet20", tmp_path / "nan.safetensors", spoil=True)
    refused(type_(*RESNET20, f"model.weights={nan}"), "layer1.0.conv1.weight", "NaN")
    refused(type_("model=resnet32", f"model.weights={good}"), "another architecture", "model=")


def test_outputs_that_cannot_be_written(type_, tmp_path):
    (tmp_path / "file").write_text("")
    refused(type_(f"paths.outputs={tmp_path / 'file'}"), "paths.outputs=<folder>")


def test_a_run_of_another_configuration_is_not_resumed(type_, tiny, tmp_path):
    assert type_(*tiny, "method=train").code == 0
    (state,) = (tmp_path / "outputs").glob("*/state.json")
    before = {path: path.stat().st_mtime_ns for path in state.parent.rglob("*.safetensors")}
    refused(type_(*tiny, "method=train", "seed=1", f"resume={state.parent}"), "leave out resume=")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_sweep_over_several_processes_is_refused(type_):
    refused(type_("-m", "trainer=ddp_cpu", "ratio=0.3"), "trainer.devices=1")


def test_the_traceback_is_there_for_those_who_ask(type_):
    from thinet.base.errors import ThinetError

    with pytest.raises(ThinetError):
        type_("ratio=2", "traceback=true")
