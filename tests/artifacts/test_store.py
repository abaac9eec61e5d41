"""Saving and loading: the same outputs, no pickle, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import thinet
from thinet.artifacts.store import (
    Spec,
    layer_widths,
    load,
    load_state_,
    read_spec,
    read_state,
    save,
)
from thinet.base.errors import ThinetError
from thinet.models import build

ROOT = Path(__file__).parents[2]
FAMILIES = ["vgg_small", "vgg11", "vgg11_bn", "vgg16_gap", "resnet18", "resnet50_v1", "resnet20"]


def builder_of(name, size=32):
    node = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())["build"]
    target = node.pop("_target_")
    return {"target": target, "arguments": {**node, "num_classes": 5, "image_size": size}}


def shaken(network):
    """BatchNorm statistics as after training, so that losing a buffer would show."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 5)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.num_batches_tracked.fill_(7)
    return network


def pruned(network, shape=(3, 32, 32), **settings):
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    settings = {"criterion": "weight_sum", "reconstruction": "none", **settings}
    return thinet.prune(network.eval(), [images], recalibrate_bn=False, **settings)


@torch.no_grad()
def outputs(network, shape=(3, 32, 32)):
    return network.eval()(torch.randn(3, *shape, generator=torch.Generator().manual_seed(2)))


@pytest.fixture
def slim():
    builder = builder_of("vgg_small")
    builder["arguments"]["widths"] = [4, 8]
    torch.manual_seed(0)
    return pruned(shaken(build(builder["target"], **builder["arguments"]))), builder


@pytest.fixture
def saved(slim, tmp_path):
    result, builder = slim
    return save(result, tmp_path / "model", Spec(builder=builder))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_bit_for_bit(name, tmp_path):
    builder = builder_of(name)
    torch.manual_seed(0)
    network = shaken(build(builder["target"], **builder["arguments"]))
    some = ["layer4.*"] if name == "resnet50_v1" else "all"  # all 33 layers take long
    result = pruned(network, ratio=0.4, layers=some)
    folder = thinet.save(result, tmp_path / "slim", Spec(builder=builder))
    state = torch.get_rng_state()
    again = thinet.load(folder)
    assert torch.equal(torch.get_rng_state(), state), "loading draws from the caller's generator"
    assert not again.training
    assert torch.equal(outputs(again), outputs(result.model))
    assert layer_widths(again) == layer_widths(result.model) != layer_widths(network)
    wanted, found = result.model.state_dict(), again.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    spec = read_spec(folder)
    assert spec.keep == {record.layer: record.kept for record in result.layers}
    assert spec.widths == layer_widths(result.model)
    assert tuple(spec.input_shape) == (3, 32, 32)
    assert thinet.cost(again, (3, 32, 32)) == result.after


def test_a_fresh_process_gives_the_same_bits(saved, slim, tmp_path):
    torch.save(outputs(slim[0].model), tmp_path / "wanted.pt")
    code = f"""
import sys, torch, thinet
images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    found = thinet.load({str(saved)!r})(images)
assert torch.equal(found, torch.load({str(tmp_path / "wanted.pt")!r}))
assert "hydra" not in sys.modules and "pytorch_lightning" not in sys.modules
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr


def test_the_files_are_what_they_say(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["model.safetensors", "spec.json"]
    tensors = load_file(saved / "model.safetensors")
    assert tensors["features.0.weight"].shape == (2, 3, 3, 3)
    spec = json.loads((saved / "spec.json").read_text())
    assert spec["format"] == 3
    assert spec["builder"]["target"] == "thinet.models.small_vgg.vgg_small"
    assert spec["widths"]["features.0"] == 2


def test_no_pickle_is_read_or_written(slim, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was touched")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "dump"), (pickle, "dumps"),
                        (pickle, "Unpickler"), (pickle, "Pickler"),
                        (torch, "load"), (torch, "save")):  # fmt: skip
        monkeypatch.setattr(owner, name, refuse)
    folder = save(slim[0], tmp_path / "m", Spec(builder=slim[1]))
    load(folder)
    load(folder, network=build(slim[1]["target"], **slim[1]["arguments"]))


def test_a_pickle_in_place_of_the_weights_is_refused(saved):
    torch.save({"features.0.weight": torch.zeros(2)}, saved / "model.safetensors")
    with pytest.raises(ThinetError, match="damaged or not a safetensors file"):
        load(saved)


# -- networks of the user's own


class Shared(nn.Module):
    """A convolution that is used twice, and two heads that share one weight."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.other = nn.Linear(8, 5)
        self.other.weight = self.head.weight
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.norm(torch.relu(self.twice(torch.relu(self.twice(x)))))
        x = x.mean((2, 3))
        return (self.head(x) + self.other(x)) * self.scale


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.depth(torch.relu(self.a(x)))))
        return self.head(torch.relu(self.point(x)).mean((2, 3)))


def test_tied_parameters_stay_tied(tmp_path):
    network = shaken(Shared())
    folder = save(network, tmp_path)
    again = load(folder, network=Shared())
    assert again.other.weight is again.head.weight
    assert torch.equal(outputs(again), outputs(network))
    assert "other.weight" not in load_file(folder / "model.safetensors")


def test_depthwise_convolutions(tmp_path):
    network = shaken(Separable())
    result = pruned(network, ratio=0.5, layers=["a"])
    assert result.model.depth.groups == 4
    again = load(save(result, tmp_path), network=network)
    assert again.depth.groups == 4
    assert torch.equal(outputs(again), outputs(result.model))
    assert network.depth.groups == 8, "the network that was passed is left as it was"


def test_a_network_without_a_builder_must_be_passed(tmp_path):
    result = pruned(Separable(), ratio=0.5, layers=["a"])
    folder = thinet.save(result, tmp_path)
    with pytest.raises(ThinetError, match=r"thinet\.load\(folder, network=MyNet\(\)\)"):
        thinet.load(folder)
    assert torch.equal(outputs(thinet.load(folder, network=Separable())), outputs(result.model))


def test_other_types_of_tensors_come_back(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)).to(torch.bfloat16)
    network[0].weight.data = network[0].weight.data.contiguous(memory_format=torch.channels_last)
    network[2].weight.data = network[2].weight.data.t().contiguous().t()
    again = load(save(network, tmp_path), network=network)
    assert again[0].weight.dtype == torch.bfloat16
    images = torch.randn(2, 3, 1, 1, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def test_requires_grad_is_that_of_the_network(saved):
    builder = read_spec(saved).builder
    network = build(builder.target, **builder.arguments)
    network.features[0].weight.requires_grad_(False)
    again = load(saved, network=network)
    assert not again.features[0].weight.requires_grad
    assert again.features[3].weight.requires_grad


def _flat(builder):
    return {"target": builder["target"], **builder["arguments"]}


def test_saving_again_replaces(slim, tmp_path):
    result, builder = slim
    first = save(build(**_flat(builder)), tmp_path, Spec(builder=builder))
    save(result, tmp_path, Spec(builder=builder))
    assert torch.equal(outputs(load(first)), outputs(result.model))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_spec_of_the_caller_is_kept(slim, tmp_path):
    spec = Spec(builder=slim[1], mean=(0.1, 0.2, 0.3), classes=("a", "b"), metrics={"top1": 0.5})
    found = read_spec(save(slim[0], tmp_path, spec))
    assert (tuple(found.mean), tuple(found.classes), found.metrics) == (
        (0.1, 0.2, 0.3), ("a", "b"), {"top1": 0.5},
    )  # fmt: skip


# -- what is wrong gets one sentence


def spec_with(folder, **changes):
    path = folder / "spec.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "truncated": (lambda f: _cut(f / "model.safetensors"), "damaged"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
    "foreign": (lambda f: (f / "model.safetensors").write_text("<html>" * 99), "damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "does not exist"),
    "no spec": (lambda f: (f / "spec.json").unlink(), r"holds no spec\.json"),
    "half a spec": (lambda f: _cut(f / "spec.json"), "cannot be read as JSON"),
    "a list": (lambda f: (f / "spec.json").write_text("[1, 2]"), "not a thinet spec"),
    "other keys": (lambda f: (f / "spec.json").write_text('{"a": 1}'), "not a thinet spec"),
    "newer": (lambda f: spec_with(f, format=4), "newer than this thinet"),
    "older": (lambda f: spec_with(f, format=2), "this version reads format 3: save the network"),
    "newer with more keys": (lambda f: spec_with(f, format=5, quantized={}), "newer than"),
    "odd builder": (lambda f: spec_with(f, builder={"call": "x"}), "not a thinet spec"),
    "odd builder 2": (lambda f: spec_with(f, builder="thinet.models.x"), "not a thinet spec"),
    "odd target": (
        lambda f: spec_with(f, builder={"target": 3, "arguments": {}}), "not a thinet spec",
    ),
    "arguments": (
        lambda f: spec_with(f, builder={**builder_of("vgg_small"), "arguments": {"depth": 3}}),
        "cannot be called",
    ),
    "another architecture": (
        lambda f: spec_with(f, builder=builder_of("resnet20")),
        "another architecture",
    ),
    "more layers": (
        lambda f: spec_with(f, builder=builder_of("vgg_small")),
        "another architecture",
    ),
    "weights of another run": (lambda f: spec_with(f, widths={"features.0": 3}), "widths"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported(damage, saved):
    act, expected = DAMAGES[damage]
    act(saved)
    with pytest.raises(ThinetError, match=expected) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "thinet.artifacts.store.load", "thinet.models.vgg.torch.load",
     "torch.hub.load", "subprocess.run", "thinet.models.weights.load_weights"],
)  # fmt: skip
def test_a_spec_can_only_name_network_builders(target, saved, tmp_path):
    spec_with(saved, builder={"target": target, "arguments": {"command": f"touch {tmp_path}/x"}})
    with pytest.raises(ThinetError, match="does not name a network builder"):
        load(saved)
    assert not (tmp_path / "x").exists()


def test_a_missing_folder(tmp_path):
    with pytest.raises(ThinetError, match="outputs/<name>/model"):
        load(tmp_path / "nothing")


def test_a_network_of_another_architecture_is_refused_and_left_alone(saved):
    other = Separable()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ThinetError, match="another architecture"):
        load(saved, network=other)
    assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())


def test_a_missing_or_extra_tensor_is_refused(saved):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != "features.1.bias"}, path)
    with pytest.raises(ThinetError, match=r"1 tensors differ, first features\.1\.bias"):
        load(saved)
    save_file({**tensors, "more": torch.zeros(1)}, path)
    with pytest.raises(ThinetError, match="first more"):
        load(saved)


def test_a_tensor_with_other_axes_is_refused(saved):
    network = load(saved)
    state = read_state(saved / "model.safetensors")
    state["features.0.weight"] = state["features.0.weight"].flatten(1)
    with pytest.raises(ThinetError, match=r"features\.0\.weight"):
        load_state_(network, state)


def test_a_folder_that_cannot_be_written(slim, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ThinetError, match="cannot write"):
        save(slim[0], tmp_path / "file" / "model")
