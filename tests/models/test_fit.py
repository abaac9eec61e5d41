"""Weights with old names, auxiliary heads, another image size or another kind of head."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from thinet.base.errors import ThinetError
from thinet.models import build
from thinet.models.weights import load_weights


def make(name: str, size: int = 224, classes: int = 7) -> nn.Module:
    target = "thinet.models.torchvision_net.torchvision_net"
    return build(target, architecture=name, num_classes=classes, image_size=size)


def assert_loaded(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def published(monkeypatch, name: str, state: dict[str, torch.Tensor]) -> None:
    """Let torchvision's own loader and ours find this as the published file."""
    weights = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(weights, "get_state_dict", lambda self, *args, **kwargs: dict(state))


def test_densenets_old_names_load_as_torchvision_loads_them(monkeypatch):
    torch.manual_seed(1)
    state = torchvision.models.densenet121(num_classes=1000).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): tensor
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")  # younger than those files
    }
    assert len(set(old) - set(state)) == 58 * 2 * (4 + 1)
    published(monkeypatch, "densenet121", old)
    network = make("densenet121", classes=1000)
    load_weights(network, "DEFAULT", "densenet121")
    assert_loaded(network, torchvision.models.densenet121(weights="DEFAULT").state_dict())


def test_vits_old_names_load_as_torchvision_loads_them(monkeypatch):
    torch.manual_seed(1)
    state = torchvision.models.vit_b_32(num_classes=1000).state_dict()
    old = {k.replace(".mlp.0.", ".mlp.linear_1."): w for k, w in state.items()}
    old = {k.replace(".mlp.3.", ".mlp.linear_2."): w for k, w in old.items()}
    assert len(set(old) - set(state)) == 12 * 4
    published(monkeypatch, "vit_b_32", old)
    network = make("vit_b_32", classes=1000)
    load_weights(network, "DEFAULT", "vit_b_32")
    assert_loaded(network, torchvision.models.vit_b_32(weights="DEFAULT").state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_behind_and_the_output_is_the_same(name, monkeypatch):
    torch.manual_seed(1)
    theirs = torchvision.models.get_model(
        name, num_classes=1000, aux_logits=True, transform_input=True, init_weights=False
    ).eval()
    state = theirs.state_dict()
    published(monkeypatch, name, state)
    network = make(name, classes=1000)
    report = load_weights(network, "DEFAULT", name)
    assert not report.replaced_head
    dropped = [key for key in state if key.lower().startswith("aux")]
    assert report.loaded == len(state) - len(dropped) < len(state)
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), theirs(images))


def test_auxiliary_heads_of_a_strange_kind_are_not_left_behind(tmp_path):
    state = make("squeezenet1_1").state_dict()
    save_file({**state, "aux1.fc.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(ThinetError, match=r"aux1\.fc\.weight of shape 2x2 is not in the net"):
        load_weights(make("squeezenet1_1"), str(tmp_path / "w.safetensors"))


def test_vits_positions_are_interpolated(tmp_path):
    torch.manual_seed(1)
    state = make("vit_b_32", size=64).state_dict()  # 2x2 patches
    state["encoder.pos_embedding"] = torch.zeros(1, 5, 768)
    state["encoder.pos_embedding"][0, :, 0] = torch.tensor([9.0, 0, 1, 2, 3])
    save_file(state, tmp_path / "w.safetensors")
    network = make("vit_b_32", size=96)  # 3x3 patches
    report = load_weights(network, str(tmp_path / "w.safetensors"))
    assert report.adapted == ["encoder.pos_embedding"]
    ours = network.encoder.pos_embedding[0, :, 0]
    assert ours[0] == 9, "the class token has no position"
    grid = ours[1:].view(3, 3)
    corners = grid[[0, 0, 2, 2], [0, 2, 0, 2]]
    torch.testing.assert_close(corners, torch.tensor([0.0, 1, 2, 3]))
    torch.testing.assert_close(grid[1, 1], torch.tensor(1.5))


@pytest.mark.parametrize("classes", [7, 12])
def test_squeezenet_classifies_with_a_convolution(classes, tmp_path):
    torch.manual_seed(1)
    state = make("squeezenet1_1", classes=12).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = make("squeezenet1_1", classes=classes)
    before = network.classifier[1].weight.clone()
    report = load_weights(network, str(tmp_path / "w.safetensors"))
    assert report.replaced_head == (classes == 7)
    kept = before if classes == 7 else state["classifier.1.weight"]
    assert torch.equal(network.classifier[1].weight, kept)
    assert torch.equal(network.features[0].weight, state["features.0.weight"])


def test_weights_without_a_head_leave_it_new(tmp_path):
    state = make("resnet18", classes=12).state_dict()
    backbone = {key: w for key, w in state.items() if not key.startswith("fc.")}
    save_file(backbone, tmp_path / "w.safetensors")
    network = make("resnet18")
    before = network.fc.weight.clone()
    report = load_weights(network, str(tmp_path / "w.safetensors"))
    assert (report.loaded, report.replaced_head) == (len(backbone), True)
    assert torch.equal(network.fc.weight, before)


def test_mnasnets_weights_need_no_version(tmp_path):
    torch.manual_seed(1)
    state = make("mnasnet0_5").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = make("mnasnet0_5")
    assert load_weights(network, str(tmp_path / "w.safetensors")).loaded == len(state)
    assert_loaded(network, state)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_v2_l"])
def test_the_report_states_how_images_were_normalised(name, monkeypatch):
    with torch.device("meta"):
        network = make(name, size=64, classes=1000)
    state = {k: torch.zeros(w.shape, dtype=w.dtype) for k, w in network.state_dict().items()}
    published(monkeypatch, name, state)
    report = load_weights(network, "DEFAULT", name)
    half = (0.5, 0.5, 0.5)
    expected = (half, half) if "v2_l" in name else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (report.mean, report.std) == expected
