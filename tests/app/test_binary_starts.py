"""Runs that begin with a saved binary network: measured, and neither pruned nor trained as bits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import thinet
from tests.app.test_bad_input import refused
from thinet.artifacts.spec import Builder, Spec, Transform
from thinet.models import build
from thinet.quantization.convert import binarized, conversion_transform
from thinet.quantization.packed import packed
from thinet.quantization.planning import plan_conversion
from thinet.quantization.quantizer import Quantizer

ARGUMENTS = {"widths": [16, 16], "num_classes": 10, "image_size": 8}
BUILDER = Builder("thinet.models.small_vgg.vgg_small", ARGUMENTS)
PRUNE_FIRST = ("features.3 cannot be pruned, because it is binary", "prune the network first")
BITS = ("features.3 cannot be trained, because its weights are bits", "before it is packed")


@pytest.fixture
def tiny():
    return (
        "model=vgg_small", "model.build.widths=[16,16]", "model.paper_layers=[features.0]",
        "dataset=digits", "dataset.image_size=8", "dataset.calibration_per_class=2",
        "trainer=cpu", "trainer.progress=off", "trainer.max_steps_per_epoch=2", "baseline.epochs=1",
        "finetune.stage.epochs=1", "finetune.final.epochs=1",
    )  # fmt: skip


@pytest.fixture
def saved(request, tmp_path):
    torch.manual_seed(0)
    network, images = build(BUILDER.target, **ARGUMENTS), torch.randn(4, 3, 8, 8)
    steps = [conversion_transform(plan_conversion(network, images), Quantizer())]
    binarized(network, **steps[0].arguments)
    if request.param == "packed":
        packed(network)
        steps.append(Transform("thinet.quantization.packed.packed"))
    spec = Spec(BUILDER, transforms=tuple(steps), input_shape=(3, 8, 8))
    return thinet.save(network.eval(), tmp_path / request.param, spec)


@pytest.mark.parametrize(
    ("saved", "method"), [("trained", "sensitivity"), ("packed", "prune")], indirect=["saved"]
)
def test_it_is_not_pruned(saved, method, tiny, type_):
    refused(type_(*tiny, f"method={method}", f"model.weights={saved}"), *PRUNE_FIRST)


@pytest.mark.parametrize("saved", ["packed"], indirect=True)
def test_bits_are_not_trained(saved, tiny, type_):
    start = (*tiny, f"model.weights={saved}")
    refused(type_(*start, "method=train", "baseline.train=always"), *BITS)
    refused(type_(*start, "method=train", "sampler=class_uniform"), *BITS)
    refused(type_(*start, "method=distill", f"teacher={saved}"), *BITS)


@pytest.mark.parametrize("saved", ["packed"], indirect=True)
def test_it_is_measured_if_it_is_whole(saved, tiny, type_, tmp_path):
    path, spec = saved / "model.safetensors", json.loads((saved / "spec.json").read_text())
    tensors = load_file(path)
    tensors["classifier.bias"] += 1
    save_file(tensors, path)
    outcome = type_(*tiny, "method=train", f"model.weights={saved}")
    refused(outcome, "model.safetensors is damaged or not the file that was saved with the spec.js")
    (saved / "spec.json").write_text(json.dumps({**spec, "sha256": ""}))  # as that sentence says
    outcome = type_(*tiny, "method=train", f"model.weights={saved}")
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "outputs").glob("*/model")
    again, images = thinet.load(folder), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(images), thinet.load(saved)(images))
