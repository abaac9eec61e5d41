"""Recipes of binary networks, planned at their full size; runs are those of the method's tests."""

from __future__ import annotations

import pytest

from tests.app.test_recipes import EVERY

BINARY = [name for name in EVERY if name.startswith("horq")]
COSTS = {  # binary layers, FLOPs before, and 1-bit operations at order 2
    "horq_mnist": (5, "77.27 MFLOPs before", "75.50 M 1-bit operations"),
    "horq_cifar10": (5, "1,215.05 MFLOPs before", "1,207.96 M 1-bit operations"),
    # As many FLOPs as torchvision's: a 1x1 convolution costs the same behind a pooling.
    "horq_resnet18_imagenet": (16, "3,628.15 MFLOPs before", "3,352.56 M 1-bit operations"),
}


@pytest.mark.parametrize("name", BINARY)
def test_it_is_planned_at_its_full_size(name, type_, compose, tmp_path):
    done = type_(f"experiment={name}", "dry_run=true", f"dataset.root={tmp_path}")
    assert done.code == 0, done.err[-2000:]
    layers, before, operations = COSTS[name]
    for text in (f"order 2: {layers} layers", before, operations):
        assert text in done.out
    training = compose(f"experiment={name}").binary_training
    assert (training.activations.epochs, training.weights.decay) == (
        0,
        "linear" if "imagenet" in name else "step",
    )
