"""Every published recipe: planned at its full size, and run on generated data of the layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

import thinet.datasets.cub200
import thinet.datasets.imagenet
import thinet.datasets.indoor67
import thinet.models.cifar_resnet
import thinet.models.resnet
import thinet.models.vgg
from thinet.models.cifar_resnet import CifarResNet
from thinet.models.vgg import VggGap, initialise_

CLASSES, TRAIN, TEST = 4, 6, 2
EVERY = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/experiment").glob("*"))
OTHERS = ("cckd", "prune_and", "prune_datafree", "horq", "dafl", "datafree", "metaprune")
RECIPES = [name for name in EVERY if not name.startswith(OTHERS)]
"""Others have files of their own: ``test_distill_recipes.py``, ``test_processes.py``, ..."""
TRANSFER = {  # after which run, and with which network
    "thinet_gap_imagenet": ("thinet_conv_imagenet", "vgg16_gap"),
    "transfer_cub200": ("thinet_conv_imagenet", "vgg16"),
    "transfer_indoor67": ("thinet_tiny_imagenet", "vgg16_gap"),
}
DATASETS = ("imagenet", "cub200", "indoor67", "folder")


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def class_folders(root: Path, tests: str) -> Path:
    for label in range(CLASSES):
        for part, count in (("train", TRAIN), (tests, TEST)):
            for k in range(count):
                name = f"n{label:08}"
                picture(root / part / name / f"{part}_{k}.JPEG", 100 * label + k)
    return root


def cub200(root: Path) -> Path:
    lists: dict[str, list[str]] = {name: [] for name in thinet.datasets.cub200.LISTS}
    number = 0
    for label in range(1, CLASSES + 1):
        for k in range(TRAIN + TEST):
            number += 1
            path = f"{label:03}.Bird_{label}/Bird_{k:04}.jpg"
            picture(root / "CUB_200_2011" / "images" / path, number)
            for name, value in zip(lists, (path, label, int(k < TRAIN)), strict=True):
                lists[name].append(f"{number} {value}\n")
    for name, lines in lists.items():
        (root / "CUB_200_2011" / name).write_text("".join(lines))
    return root


def indoor67(root: Path) -> Path:
    lists: dict[str, list[str]] = {"TrainImages.txt": [], "TestImages.txt": []}
    for label in range(CLASSES):
        for k in range(TRAIN + TEST):
            path = f"room_{label}/{k}.jpg"
            picture(root / "Images" / path, 50 * label + k)
            lists["TrainImages.txt" if k < TRAIN else "TestImages.txt"].append(path)
    for name, paths in lists.items():
        (root / name).write_text("\n".join(paths))
    return root


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A data set of each published layout with four classes in place of 1000, 200 and 67."""
    for name in ("imagenet", "cub200", "indoor67"):
        monkeypatch.setattr(getattr(thinet.datasets, name), "CLASSES", CLASSES)
    return {
        "imagenet": class_folders(tmp_path / "imagenet", "val"),
        "cub200": cub200(tmp_path / "cub200"),
        "indoor67": indoor67(tmp_path / "indoor67"),
        "folder": class_folders(tmp_path / "folder", "test"),
    }


def thin_features() -> nn.Sequential:
    """VGG-16's features with a sixteenth of its filters, at least four."""
    plan = thinet.models.vgg.cfgs["D"]
    return thinet.models.vgg.make_layers(
        [size if isinstance(size, str) else max(4, size // 16) for size in plan]
    )


class ThinVgg(nn.Module):
    """VGG-16's layers and names, thin."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = thin_features()
        self.classifier = nn.Sequential(
            nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(),
            nn.Dropout(), nn.Linear(16, num_classes),
        )  # fmt: skip

    def forward(self, images):
        return self.classifier(self.features(images).mean(dim=(2, 3)))


@pytest.fixture
def thin(monkeypatch):
    """Networks with the layers of the paper's, but few filters: a stage takes a second."""

    def vgg16(num_classes: int, image_size: int) -> ThinVgg:
        return initialise_(ThinVgg(num_classes))

    def vgg16_gap(num_classes: int, image_size: int) -> VggGap:
        return initialise_(VggGap(thin_features()[:-1], 32, num_classes))

    def resnet50_v1(num_classes: int, image_size: int) -> ResNet:
        return ResNet(Bottleneck, [1, 1, 1, 1], num_classes, width_per_group=4)

    def resnet56(num_classes: int, image_size: int) -> CifarResNet:
        return CifarResNet(1, num_classes)

    for module, made in (
        (thinet.models.vgg, vgg16), (thinet.models.vgg, vgg16_gap),
        (thinet.models.resnet, resnet50_v1), (thinet.models.cifar_resnet, resnet56),
    ):  # fmt: skip
        made.__module__ = module.__name__
        monkeypatch.setattr(module, made.__name__, made)


@pytest.fixture
def recipe(type_, compose, roots, thin, tmp_path):
    """Run a recipe for two batches an epoch; gives the result and the folder."""

    def run(name: str, *more: str) -> tuple[dict, Path]:
        weights = [] if any(text.startswith("model.weights=") for text in more) else ["none"]
        dataset = compose(f"experiment={name}", *more).dataset.name
        size = [] if name.startswith("resnet56") else ["dataset.image_size=32"]
        outputs = tmp_path / "out" / name
        done = type_(
            f"experiment={name}", f"dataset.root={roots[dataset]}", f"paths.outputs={outputs}",
            *(f"model.weights={one}" for one in weights), *more, *size,
            f"dataset.num_classes={CLASSES}", "dataset.num_workers=0", "dataset.val_fraction=0.3",
            "dataset.calibration_per_class=3", "calibration.rows_per_channel=1",
            "finetune.batch_size=4", "trainer=cpu", "trainer.progress=off",
            "trainer.max_steps_per_epoch=2", "baseline.epochs=1", "finetune.final.epochs=1",
            *(["method.epochs=1"] if "scratch" in name else []),
        )  # fmt: skip
        assert done.code == 0, done.err
        (found,) = outputs.glob("*/result.json")
        return json.loads(found.read_text()), found.parent

    return run


def test_every_recipe_is_named_here_or_stands_alone():
    assert set(TRANSFER) <= set(RECIPES)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in TRANSFER])
def test_a_recipe_runs(name, recipe):
    more = ["target=flops:0.7"] if name == "resnet56_best" else []
    result, folder = recipe(name, *more)
    final = result["model"] or result["reference"]
    assert 0 <= final["top1"] <= 1
    assert result["protocol"]["resize"] in ("fixed", "keep", "none")
    if result["run"]["method"] == "prune":
        assert final["flops"] < result["reference"]["flops"]
        assert len(result["steps"]) == (1 if name.startswith("resnet56") else len_stages(name))
    assert (folder / "model" / "spec.json").exists()


def len_stages(name: str) -> int:
    """Ten layers of VGG-16, all thirteen for Tiny, the four blocks of the thin ResNet."""
    return 4 if "resnet50" in name else 13 if "tiny" in name else 10


@pytest.mark.parametrize("name", TRANSFER)
def test_a_recipe_goes_on_from_another(name, recipe):
    first, model = TRANSFER[name]
    before, folder = recipe(first)
    result, own = recipe(name, f"model.weights={folder}", f"model={model}")
    assert result["model"] is None
    assert result["reference"]["flops"] <= before["model"]["flops"]
    spec = json.loads((own / "model" / "spec.json").read_text())
    slim = json.loads((folder / "model" / "spec.json").read_text())
    assert spec["keep"] == slim["keep"]
    kept = {layer: len(filters) for layer, filters in slim["keep"].items()}
    assert {layer: spec["widths"][layer] for layer in kept} == kept
    assert thinet.load(own / "model") is not None


@pytest.mark.parametrize("name", TRANSFER)
def test_what_it_goes_on_from_has_to_be_given(name, type_, roots, compose):
    done = type_(f"experiment={name}", f"dataset.root={roots['imagenet']}")
    assert done.code != 0
    assert "model.weights is not given" in done.err


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_says_what_it_is(name):
    """The command, and for the paper's rows its figures with their status, hardware and time."""
    text = (Path(__file__).parents[2] / f"conf/experiment/{name}.yaml").read_text()
    assert f"# python run.py experiment={name} " in text
    if name in ("prune_and_distill", "prune_datafree", "datafree_digits"):
        assert "# found by: experiments/" in text
    elif not name.startswith("resnet56"):
        assert "# paper: " in text
        assert "# hardware: " in text
        assert "confirmed" in text or "recalled" in text
