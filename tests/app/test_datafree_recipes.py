"""Recipes without data, planned at their full size and with the settings of the authors' code."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

import thinet
from tests.app.test_recipes import EVERY
from thinet.models import build

DATAFREE = [name for name in EVERY if name.startswith("dafl")]
SETTINGS = {  # parameters of both; iterations, batch, latent; weights; learning rates
    "dafl_mnist": (61_706, 15_738, 24_000, 512, 100, (1, 5, 0.1), 0.2, 2e-3),
    "dafl_mnist_hinton": (2_395_210, 1_276_810, 24_000, 512, 100, (1, 5, 0.1), 0.2, 2e-3),
    "dafl_cifar10": (21_282_122, 11_173_962, 240_000, 1024, 1000, (0.05, 5, 0.01), 0.02, 0.1),
    "dafl_cifar100": (21_328_292, 11_220_132, 240_000, 1024, 1000, (0.5, 20, 0.1), 0.02, 0.1),
    "dafl_celeba": (57_012_034, 14_263_202, 24_000, 512, 100, (2, 10, 0.1), 0.002, 1e-4),
}


def test_every_table_has_its_recipe():
    assert set(DATAFREE) == set(SETTINGS)


@pytest.mark.parametrize("name", DATAFREE)
def test_it_is_planned_at_its_full_size(name, type_, tmp_path):
    done = type_(f"experiment={name}", "dry_run=true", f"dataset.root={tmp_path}")
    assert done.code == 0, done.err[-2000:]


@pytest.mark.parametrize("name", DATAFREE)
def test_its_settings_are_the_authors(name, compose):
    cfg = compose(f"experiment={name}")
    found, sizes = cfg.synthesis, []
    classes, side = cfg.dataset.num_classes, cfg.dataset.image_size
    for node in (cfg.teacher.build, cfg.model.build):
        given = OmegaConf.to_container(node)
        network = build(given.pop("_target_"), **given, num_classes=classes, image_size=side)
        sizes.append(thinet.cost(network, (3, side, side)).params)
    losses = found.losses
    assert (
        *sizes, found.course.epochs * found.course.iterations, found.course.batch_size,
        found.drawing.latent, (losses.one_hot, losses.entropy, losses.activation),
        found.generator.lr, found.student.lr,
    ) == SETTINGS[name]  # fmt: skip
    assert (losses.base, losses.batchnorm, losses.feature) == (
        10, 0, "fc1" if name == "dafl_mnist" else None
    )  # fmt: skip
    assert (found.drawing.width, found.drawing.colours) == (128, 1 if "mnist" in name else None)
    assert cfg.model.image_size == side
