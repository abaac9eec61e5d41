"""Every file in conf/dataset builds its data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from thinet.base.errors import ThinetError
from thinet.datasets.module import ImageData

CONF = Path(__file__).parents[2] / "conf" / "dataset"
FILES = sorted(CONF.glob("[!_]*.yaml"))
RECIPE = {
    "batch_size",
    "clip_norm",
    "baseline_warmup",
    "baseline_epochs",
    "baseline_lr",
    "stage_epochs",
    "stage_lr",
    "final_epochs",
    "final_lr",
}


def compose(file: Path) -> DictConfig:
    """The part of the whole configuration that data sets refer to."""
    rest = {
        "seed": 5,
        "paths": {"data": "data"},
        "model": {"image_size": 224},
        "finetune": {"batch_size": "${dataset.recipe.batch_size}"},
    }
    own = OmegaConf.merge(OmegaConf.load(CONF / "_base.yaml"), OmegaConf.load(file))
    return OmegaConf.create({**rest, "dataset": own})


def test_the_data_sets_are_there() -> None:
    names = (
        "celeba cifar10 cifar100 cub200 digits fashion_mnist folder imagenet indoor67 mnist none "
        "reid"
    )
    assert " ".join(file.stem for file in FILES) == names


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_digits_are_not_mirrored(name: str) -> None:
    assert not instantiate(compose(CONF / f"{name}.yaml").dataset.data).preprocessing.flip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_builds(file: Path) -> None:
    config = compose(file)
    data = instantiate(config.dataset.data)
    assert isinstance(data, ImageData)
    assert config.dataset.name == file.stem
    assert set(config.dataset.recipe) - {"proxy_epochs"} == RECIPE  # that of the baseline, else
    assert data.batch_size == config.dataset.recipe.batch_size
    assert data.seed == 5
    size = config.dataset.image_size or config.model.image_size  # dataset=none leaves it open
    assert data.input_shape == (3, size, size)
    assert data.num_classes == config.dataset.num_classes
    assert all(type(x) is float for x in (*data.mean, *data.std))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_without_data_it_says_what_to_type(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = instantiate(compose(file).dataset.data)
    if file.stem == "digits":
        data.check()
        assert len(data.classes) == 10
        return
    missing = "num_classes" if file.stem == "none" else "root"
    with pytest.raises(ThinetError, match=rf"type .*dataset\.{missing}="):
        data.check()
