"""Recipes with a teacher: planned at full size, and run on generated data of the layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import cifar
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

import thinet
import thinet.models.cifar_resnet
import thinet.models.resnet
from tests.app.test_recipes import CLASSES, EVERY, class_folders
from tests.datasets.test_reid import write_market
from thinet.base.evaluation import RETRIEVAL
from thinet.models.cifar_resnet import CifarResNet

TAUGHT = [name for name in EVERY if name.startswith(("cckd", "prune_and"))]
COSTS = {  # FLOPs in millions and parameters of student and teacher
    "cckd_resnet20_cifar100": (81.1, 275_572, 505.8, 1_733_812),
    "cckd_resnet14_cifar100": (52.8, 178_356, 505.8, 1_733_812),
    # torchvision's own table has 4.09 GMACs of ResNet-50; the keras one 97 MMACs and 1.97 M.
    "cckd_mobilenet_v2_imagenet": (194.4, 1_968_680, 8178.4, 25_557_032),
}


def cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3072), dtype=np.uint8)
    for part, count in (("train", 600), ("test", 200)):
        labels = [number % 100 for number in range(count)]
        entry = {"fine_labels": labels, "coarse_labels": labels, "data": pixels[:count]}
        (folder / part).write_bytes(pickle.dumps(entry, protocol=2))
    names = {key: [f"{key} {k}" for k in range(100)]
             for key in ("fine_label_names", "coarse_label_names")}  # fmt: skip
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return root


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A data set of each layout."""
    import thinet.datasets.imagenet

    monkeypatch.setattr(thinet.datasets.imagenet, "CLASSES", CLASSES)
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    return {
        "cifar100": [f"dataset.root={cifar100(tmp_path / 'cifar')}"],
        "imagenet": [
            f"dataset.root={class_folders(tmp_path / 'imagenet', 'val')}",
            f"dataset.num_classes={CLASSES}", "dataset.image_size=32", "dataset.val_fraction=0.3",
        ],
        "reid": [
            f"dataset.root={write_market(tmp_path / 'Market')}", "dataset.image_size=32",
            "finetune.batch_size=4", "sampler.k=2",
        ],
        "digits": ["dataset.image_size=32", "model.build.widths=[4,4,8]"],
    }  # fmt: skip


@pytest.fixture
def thin(monkeypatch):
    """Thin networks in place of torchvision's and of deep ones."""

    def resnet50(num_classes: int, image_size: int) -> ResNet:
        return ResNet(Bottleneck, [1, 1, 1, 1], num_classes, width_per_group=4)

    def resnet18(num_classes: int, image_size: int) -> ResNet:
        return ResNet(BasicBlock, [1, 1, 1, 1], num_classes)

    def resnet110(num_classes: int, image_size: int) -> CifarResNet:
        return CifarResNet(1, num_classes)

    for module, made in (
        (thinet.models.resnet, resnet50), (thinet.models.resnet, resnet18),
        (thinet.models.cifar_resnet, resnet110),
    ):  # fmt: skip
        made.__module__ = module.__name__
        monkeypatch.setattr(module, made.__name__, made)


@pytest.mark.parametrize("name", TAUGHT)
def test_it_runs(name, type_, compose, roots, thin, tmp_path):
    cfg = compose(f"experiment={name}")
    usual = "" if cfg.dataset.name in ("cifar100", "digits") else "none"
    weights = [f"{key}.weights={usual}" for key in ("model", "teacher") if usual]
    size = [] if "finetune.batch_size=4" in roots[cfg.dataset.name] else ["finetune.batch_size=32"]
    if cfg.dataset.name == "imagenet":
        size = ["finetune.batch_size=8"]
    done = type_(
        f"experiment={name}", *roots[cfg.dataset.name], *weights, *size, "dataset.num_workers=0",
        "dataset.calibration_per_class=2", "calibration.rows_per_channel=1", "trainer=cpu",
        "trainer.progress=off", "trainer.max_steps_per_epoch=2", "baseline.epochs=1",
        "finetune.final.epochs=1",
    )  # fmt: skip
    assert done.code == 0, done.err[-2000:]
    (file,) = (tmp_path / "outputs").glob("*/result.json")
    found = json.loads(file.read_text())
    told = found["details"]["distillation"]
    if name == "prune_and_distill":
        assert found["model"]["flops"] <= 0.5 * found["reference"]["flops"]
        assert (told["teacher"], told["terms"]["beta"]) == ("", 0)
        return
    assert found["reference_is"] == "teacher"
    assert told["sampler"] == "class_uniform"
    assert told["terms"]["beta"] > 0
    assert told["alone"]["top1"] is not None
    if cfg.dataset.name == "reid":
        assert found["evaluation"] == RETRIEVAL
        assert found["model"]["mean_ap"] is not None
    assert thinet.load(file.parent / "model") is not None


@pytest.mark.parametrize("name", COSTS)
def test_its_networks_are_those_of_the_paper(name, compose):
    from thinet.models import build

    cfg = compose(f"experiment={name}")
    classes, side = cfg.dataset.num_classes, cfg.dataset.image_size
    found = []
    for node in (cfg.model.build, cfg.teacher.build):
        given = {key: value for key, value in node.items() if key != "_target_"}
        network = build(node._target_, **given, num_classes=classes, image_size=side)
        costs = thinet.cost(network, (3, side, side))
        found += [costs.flops / 1e6, costs.params]
    for ours, theirs in zip(found, COSTS[name], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
