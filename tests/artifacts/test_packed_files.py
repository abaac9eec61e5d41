"""Packed networks on disk: bits and factors alone, the same outputs, faults named."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import thinet
from tests import warm
from thinet.artifacts.spec import Builder, Spec, Transform, read_spec
from thinet.artifacts.store import load_state_
from thinet.artifacts.tensors import named_state
from thinet.base.errors import ThinetError
from thinet.cli import main
from thinet.models import build
from thinet.quantization.convert import binarized, conversion_transform
from thinet.quantization.packed import packed
from thinet.quantization.planning import plan_conversion
from thinet.quantization.quantizer import Quantizer

ROOT = Path(__file__).parents[2]
BUILDER = Builder(
    "thinet.models.small_vgg.vgg_small", {"widths": [24, 32], "num_classes": 5, "image_size": 16}
)
SHAPE = (3, 16, 16)
PACKED = Transform("thinet.quantization.packed.packed")
IMAGES = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))


def trained(network, quantizer):
    """Binary, with statistics of some images."""
    plan = plan_conversion(network, IMAGES)
    transform = conversion_transform(plan, quantizer)
    network = binarized(network, **transform.arguments)
    with torch.no_grad():
        network.train()(IMAGES)
    return network.eval(), transform


@cache
def made(scale: str = "sample", ratio: float | None = None) -> tuple[nn.Module, Spec]:
    """A packed network and its spec; nobody changes it."""
    torch.manual_seed(0)
    network, keep = build(BUILDER.target, **BUILDER.arguments), {}
    if ratio is not None:
        result = thinet.prune(network, [IMAGES], ratio, "weight_sum", "none")
        network, keep = result.model, {cut.layer: cut.kept for cut in result.layers}
    network, transform = trained(network, Quantizer(2, scale))
    return packed(network), Spec(BUILDER, keep, (transform, PACKED), input_shape=SHAPE)


@pytest.fixture
def saved(tmp_path):
    return thinet.save(*_at(made(), tmp_path / "net"))


def _at(what, folder):
    network, spec = what
    return network, folder, spec


@torch.no_grad()
def outputs(network):
    return network(IMAGES)


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
@pytest.mark.parametrize("ratio", [None, 0.75])
def test_a_packed_network_comes_back_bit_for_bit(scale, ratio, tmp_path):
    network, spec = made(scale, ratio)
    folder = thinet.save(network, tmp_path, spec)
    again = thinet.load(folder)
    assert torch.equal(outputs(again), outputs(network))
    assert not again.training
    held = load_file(folder / "model.safetensors")
    assert held.keys() == network.state_dict().keys()
    assert "features.3.weight" not in held
    width = 24 if ratio is None else 18
    assert held["features.3.bits"].shape == (width, -(-width * 9 // 8))
    found = read_spec(folder)
    assert found.widths["features.3"] == width
    assert found.kinds["features.3"] == "PackedConv2d"
    full = build(BUILDER.target, **BUILDER.arguments)
    assert torch.equal(outputs(thinet.load(folder, full)), outputs(network))


def test_a_fresh_process_gives_the_same_bits(saved):
    torch.save(outputs(made()[0]), saved / "outputs.pt")
    code = (
        "import sys, torch, thinet; folder = sys.argv[1]\n"
        "images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))\n"
        "with torch.no_grad(): found = thinet.load(folder)(images)\n"
        "print(torch.equal(found, torch.load(folder + '/outputs.pt')))"
    )
    done = warm.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, cwd=ROOT,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr


def test_a_trained_binary_network_is_saved_before_it_is_packed(tmp_path):
    network, transform = trained(build(BUILDER.target, **BUILDER.arguments), Quantizer(3))
    folder = thinet.save(network, tmp_path, Spec(BUILDER, transforms=(transform,)))
    assert torch.equal(outputs(thinet.load(folder)), outputs(network))


def test_halves_stay_halves(tmp_path):
    network, spec = made()
    folder = thinet.save(thinet.load(thinet.save(network, tmp_path, spec)).half(), tmp_path, spec)
    again = thinet.load(folder)
    assert again.features[3].scales.dtype == torch.float16
    assert again.features[3].bits.dtype == torch.uint8


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_it_is_exported(kind, saved, capsys):
    if kind == "onnx" and not all(map(importlib.util.find_spec, ("onnxscript", "onnxruntime"))):
        pytest.skip("needs thinet[export]")
    assert main(["export", str(saved), f"--{kind}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{saved / f'model.{kind}'}: outputs equal the original's within ")
    assert ("no faster" in out) == (kind == "onnx")
    assert [one.name for one in saved.iterdir() if one.suffix == f".{kind}"] == [f"model.{kind}"]


# -- damaged files


def test_a_flipped_bit_or_a_missing_block_is_refused(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [0, 9, header // 2, header - 1, *range(header, len(whole), 499), len(whole) - 1]
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    damaged += [whole[:-1], whole[: header + 64], whole + b"\0", whole[:-512] + bytes(512)]
    for content in damaged:
        path.write_bytes(content)
        for load in (
            lambda: thinet.load(saved),
            lambda: thinet.load(saved, build(BUILDER.target, **BUILDER.arguments)),
        ):
            with pytest.raises(ThinetError) as caught:
                load()
            assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    thinet.load(saved)


def rewrite(folder, change, **spec):
    """Change tensors and say in the spec that they were meant."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    spec_path = folder / "spec.json"
    spec_path.write_text(json.dumps({**json.loads(spec_path.read_text()), "sha256": "", **spec}))


def swap(tensors, one, other):
    tensors[one], tensors[other] = tensors[other], tensors[one]


def narrow(tensors, name, axis):
    tensors[name] = tensors[name].narrow(axis, 0, tensors[name].shape[axis] - 1).clone()


def put(tensors, name, place, value):
    tensors[name].view(-1)[place] = value


DAMAGES = {
    "missing": (lambda t: t.pop("features.3.bits"), "first features.3.bits"),
    "extra": (lambda t: t.update(more=torch.zeros(1)), "first more"),
    "latent": (lambda t: t.update({"features.3.weight": torch.zeros(24, 24, 3, 3)}), "3.weight"),
    "fewer bits": (lambda t: narrow(t, "features.3.bits", 1), "first features.3.bits"),
    "fewer filters": (lambda t: narrow(t, "features.3.bits", 0), "first features.3.bits"),
    "fewer factors": (lambda t: narrow(t, "features.3.scales", 0), "first features.3.scales"),
    "shorter bias": (lambda t: narrow(t, "features.3.bias", 0), "first features.3.bias"),
    "swapped": (lambda t: swap(t, "features.3.bits", "features.7.bits"), "another architecture"),
    "signed bits": (lambda t: t.update({"features.3.bits": t["features.3.bits"].char()}), "3.bits"),
    "factor": (lambda t: put(t, "features.3.scales", 2, -0.1), "features.3 in .* has factors"),
    "no number": (lambda t: put(t, "features.3.scales", 2, torch.nan), "features.3 in .* has fac"),
    "order": (lambda t: put(t, "features.7.form", 0, 3), "features.7 in .* packed with order 3"),
    "scale": (lambda t: put(t, "features.7.form", 1, 9), "packed with order 2 and scale 9, and"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_tensors_that_no_packed_layer_has(damage, saved):
    change, words = DAMAGES[damage]
    rewrite(saved, change)
    network = thinet.load(thinet.save(*_at(made(), saved.parent / "whole")))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = load_file(saved / "model.safetensors")
    for work in (lambda: thinet.load(saved), lambda: load_state_(network, found)):
        with pytest.raises(ThinetError, match=words.replace("in .* ", "in .*")) as caught:
            work()
        assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], one) for name, one in named_state(network).items())


def test_bits_beyond_the_weights_are_refused(tmp_path):
    network, spec = made("sample", 0.75)  # 162 weights a filter: 6 bits are left over
    folder = thinet.save(network, tmp_path, spec)
    rewrite(folder, lambda t: put(t, "features.3.bits", 20, int(t["features.3.bits"][0, 20]) | 128))
    with pytest.raises(ThinetError, match=r"features\.3 in .*bits beyond the 162 weights"):
        thinet.load(folder)


def test_swapped_tensors_of_one_shape_are_refused(tmp_path):
    network, spec = made()
    folder = thinet.save(network, tmp_path, spec)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    swap(tensors, "features.3.scales", "features.3.bias")
    save_file(tensors, path)
    with pytest.raises(ThinetError, match="is damaged or not the file that was saved with"):
        thinet.load(folder)


def transforms(**changes):
    first, second = made()[1].transforms
    arguments = {**first.arguments, **changes}
    return [{"target": first.target, "arguments": arguments}, {"target": second.target}]


SPECS = {
    "order": (lambda: transforms(order=3), "packed with order 2 and scale sample, and the network"),
    "scale": (lambda: transforms(scale="patch"), "scale sample, and the network has order 2 and"),
    "constant": (lambda: transforms(scale="constant"), "another architecture"),
    "fewer layers": (lambda: transforms(binary=["features.3"], norms=[]), "another architecture"),
    "no layers": (lambda: transforms(binary=[], norms=[]), "no binary layer to pack"),
    "other layers": (lambda: transforms(binary=["features.0", "features.3"]), "norms has|another"),
    "no norms": (lambda: transforms(norms=[]), "another architecture"),
    "order 9": (lambda: transforms(order=9), "order=9 is not a whole number"),
    "not packed": (lambda: transforms()[:1], "another architecture"),
    "packed twice": (lambda: [*transforms(), transforms()[1]], "no binary layer to pack"),
    "the other way round": (lambda: transforms()[::-1], "no binary layer to pack"),
    "a layer of nobody": (lambda: transforms(binary=["x"] * 1000, norms=[]), "called 'x'"),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_spec_of_other_bits_is_refused(case, saved):
    make, words = SPECS[case]
    rewrite(saved, lambda tensors: None, transforms=make())
    with pytest.raises(ThinetError, match=words) as caught:
        thinet.load(saved)
    assert "\n" not in str(caught.value)


def test_a_spec_of_another_width_is_refused(saved):
    arguments = {**BUILDER.arguments, "widths": [25, 32]}
    rewrite(saved, lambda t: None, builder={"target": BUILDER.target, "arguments": arguments})
    with pytest.raises(ThinetError, match=r"another architecture \(.*first features\.\d"):
        thinet.load(saved)


def test_no_memory_is_taken_for_bits_that_the_file_does_not_hold(saved, monkeypatch):
    arguments = {"num_classes": 1000, "image_size": 224}
    layers = ["features.2", "classifier.0"]
    steps = transforms(binary=layers, norms=[], removed=[])
    rewrite(
        saved, lambda t: None, transforms=steps, keep={},
        builder={"target": "thinet.models.vgg.vgg16", "arguments": arguments},
    )  # fmt: skip
    taken = []
    pad = nn.functional.pad
    monkeypatch.setattr(nn.functional, "pad", lambda *a, **k: taken.append(a[0]) or pad(*a, **k))
    with pytest.raises(ThinetError, match="another architecture"):
        thinet.load(saved)
    assert taken, "layers were packed"
    assert all(tensor.is_meta for tensor in taken)
