"""Every classification network of torchvision, through the same door as a saved network's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinet.artifacts.store import Spec, load, save
from thinet.base.errors import ThinetError
from thinet.models import build

TARGET = "thinet.models.torchvision_net.torchvision_net"
NAMES = torchvision.models.list_models(module=torchvision.models)
AUXILIARY = {"inception_v3", "googlenet"}


class NothingLarge(TorchDispatchMode):
    """Within, no tensor of the size of a network's weights comes to be."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if torch.is_tensor(leaf):
                assert leaf.is_meta or leaf.numel() < 100_000, "something has been built"
        return made


def make(name: str, size: int = 224, classes: int = 7, device: str = "meta") -> nn.Module:
    with torch.device(device):
        return build(TARGET, architecture=name, num_classes=classes, image_size=size)


def theirs(name: str, **options) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=7, **options)


def logits(network: nn.Module, size: int, device: str = "meta") -> torch.Size:
    with torch.no_grad():
        return network(torch.zeros(2, 3, size, size, device=device)).shape


def test_the_list_holds_all_that_classify():
    families = {"alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet"}
    families |= {"inception_v3", "maxvit_t", "mnasnet1_0", "mobilenet_v2", "regnet_y_400mf"}
    families |= {"resnet50", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "vgg16", "vit_b_16"}
    assert families < set(NAMES)
    other = ("quantized_resnet50", "raft_large", "r3d_18", "fcn_resnet50", "ssd300_vgg16")
    assert not any(name in NAMES for name in other)


@pytest.mark.parametrize("name", NAMES)
def test_every_classifier_runs_at_its_own_size(name):
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    size = weights.transforms().crop_size[0]
    network = make(name, size)
    assert logits(network.eval(), size) == (2, 7)
    tensors = [*network.parameters(), *network.buffers()]
    assert all(tensor.is_meta for tensor in tensors), "halfway between devices"
    # One network's count for 1000 classes follows from its head, whose input width w is unknown:
    # both differ by 993 (w + 1), so the difference must be a multiple, and of a plausible width.
    published = weights.meta["num_params"]
    if name not in AUXILIARY:  # published with auxiliary heads
        width, rest = divmod(published - sum(w.numel() for w in network.parameters()), 993)
        assert rest == 0
        assert 0 < width <= 7393


@pytest.mark.parametrize("name", ["regnet_x_400mf", "inception_v3", "mnasnet0_5", "vit_b_32"])
def test_a_real_network_is_torchvisions(name):
    options = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    torch.manual_seed(3)
    ours = make(name, device="cpu")
    torch.manual_seed(3)
    expected = theirs(name, **options)
    assert str(ours) == str(expected)
    state = ours.state_dict()
    assert all(torch.equal(state[key], w) for key, w in expected.state_dict().items())


@pytest.mark.parametrize("name", sorted(AUXILIARY))
def test_auxiliary_heads_are_off_in_training_too(name):
    assert logits(make(name).train(), 224) == (2, 7)


@pytest.mark.parametrize("name", sorted(AUXILIARY))
def test_images_are_normalised_again_for_the_published_weights(name):
    network = make(name)
    assert network.transform_input
    pixels = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406),
                                                          (0.229, 0.224, 0.225)))  # fmt: skip
    torch.testing.assert_close(network._transform_input((pixels - mean) / std), 2 * pixels - 1)
    with torch.device("meta"):
        plain = build(
            TARGET, architecture=name, num_classes=7, image_size=224, transform_input=False
        )
    assert not plain.transform_input


@pytest.mark.parametrize("name", ["vit_b_16", "swin_v2_t", "efficientnet_b0", "maxvit_t"])
@pytest.mark.parametrize("size", [96, 448])
def test_transformers_are_built_for_the_size(name, size):
    if (name, size) == ("maxvit_t", 96):
        with pytest.raises(ThinetError, match="does not run on 96-pixel images"):
            make(name, size)
    else:
        assert logits(make(name, size).eval(), size) == (2, 7)


@pytest.mark.parametrize(
    ("name", "size", "usual"),
    [("inception_v3", 32, 299), ("alexnet", 32, 224), ("vit_h_14", 64, 518), ("maxvit_t", 64, 224)],
)
def test_images_that_do_not_fit_are_refused_before_anything_is_built(name, size, usual):
    message = rf"{name} does not run on {size}-pixel images \(.+\): type dataset.image_size={usual}"
    with pytest.raises(ThinetError, match=message) as caught, NothingLarge():
        make(name, size, device="cpu")
    assert "\n" not in str(caught.value)
    assert logits(make(name, usual).eval(), usual) == (2, 7), "the advice is of no use"


def test_the_trial_does_not_move_the_seed():
    torch.manual_seed(0)
    first = make("squeezenet1_1", size=64, device="cpu").state_dict()
    torch.manual_seed(0)
    again = make("squeezenet1_1", size=64, device="cpu").state_dict()  # not tried again
    assert all(torch.equal(again[key], w) for key, w in first.items())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("efficentnet_b0", "did you mean efficientnet_b0"),
        ("resnet_50", "resnet50"),
        ("torchvision", "called 'torchvision': type model=torchvision model.name="),
        ("fasterrcnn_resnet50_fpn", "list_models"),
        ("r3d_18", "list_models"),
        ("", "list_models"),
    ],
)
def test_unknown_names(name, near):
    with pytest.raises(ThinetError, match="has no classification network") as caught:
        make(name)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_x_400mf", "googlenet"])
def test_a_saved_network_comes_back(name, tmp_path):
    network = make(name, size=64, device="cpu").eval()
    arguments = {"architecture": name, "num_classes": 7, "image_size": 64}
    save(network, tmp_path, Spec(builder={"target": TARGET, "arguments": arguments}))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(images), network(images))


@pytest.mark.parametrize("extra", [{"weights": "DEFAULT"}, {"pretrained": True}])
def test_a_saved_networks_spec_cannot_ask_for_downloads(extra):
    with pytest.raises(ThinetError, match="unexpected keyword argument"):
        build(TARGET, architecture="resnet18", num_classes=7, image_size=224, **extra)


@pytest.mark.parametrize("name", ["_make", "_try", "check_runs", "partial", "torchvision"])
def test_nothing_else_in_the_file_is_a_builder(name):
    with pytest.raises(ThinetError, match="does not name a network builder"):
        build(f"thinet.models.torchvision_net.{name}")
