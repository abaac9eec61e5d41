"""Beginning with what an earlier run left."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import densenet121, mobilenet_v2, squeezenet1_1

import thinet
from thinet.artifacts.inherit import in_original, narrow_
from thinet.artifacts.names import saved_folder
from thinet.artifacts.store import Spec, layer_widths, load_state_, read_state
from thinet.base.errors import ThinetError
from thinet.models.cifar_resnet import resnet20
from thinet.models.resnet import resnet18
from thinet.models.small_vgg import vgg_small
from thinet.models.vgg import vgg16, vgg16_gap

IMAGES = torch.randn(2, 3, 32, 32)


def torchvisions(make):
    return lambda: make(weights=None, num_classes=10)


NETWORKS = {
    "vgg_small": lambda: vgg_small(10, 32),
    "resnet18": lambda: resnet18(10, 32),
    "resnet20": lambda: resnet20(10, 32),
    "mobilenet_v2": torchvisions(mobilenet_v2),
    "densenet121": torchvisions(densenet121),
    "squeezenet1_1": torchvisions(squeezenet1_1),
}


def slim(network, folder, layers="all"):
    result = thinet.prune(
        network, [IMAGES], 0.4, "weight_sum", "none", layers, recalibrate_bn=False
    )
    thinet.save(result, folder)
    return result.model


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_gets_the_saved_widths(name, tmp_path):
    wanted = slim(NETWORKS[name](), tmp_path)
    shapes = {key: value.shape for key, value in wanted.state_dict().items()}
    for device in ("meta", "cpu"):
        with torch.device(device):
            made = NETWORKS[name]()
        narrow_(made, tmp_path, (3, 32, 32))
        assert layer_widths(made) == layer_widths(wanted)
        assert {key: value.shape for key, value in made.state_dict().items()} == shapes
    load_state_(made, read_state(tmp_path / "model.safetensors"))
    torch.testing.assert_close(made.eval()(IMAGES), wanted.eval()(IMAGES))


def test_another_head_gets_as_many_inputs_as_are_left(tmp_path):
    wanted = slim(vgg16(10, 32), tmp_path, ["features.24", "features.28"])
    made = narrow_(vgg16_gap(7, 32), tmp_path, (3, 32, 32))
    assert made.classifier.weight.shape == (7, int(512 * 0.4))
    assert made.features[28].weight.shape == wanted.features[28].weight.shape
    assert made.features[26].weight.shape == (512, int(512 * 0.4), 3, 3)


def test_a_network_that_was_saved_whole_changes_nothing(tmp_path):
    thinet.save(vgg_small(10, 32), tmp_path, Spec())
    made = narrow_(vgg_small(10, 32), tmp_path, (3, 32, 32))
    assert layer_widths(made) == layer_widths(vgg_small(10, 32))


def test_another_architecture_is_refused(tmp_path):
    slim(vgg_small(10, 32), tmp_path)
    with pytest.raises(ThinetError, match="another architecture"):
        narrow_(vgg_small(10, 32, widths=(4, 8, 16)), tmp_path, (3, 32, 32))


def test_two_prunings_in_coordinates_of_the_full_network():
    first, second = {"a": [1, 3, 5, 7], "b": [0, 2]}, {"a": [0, 3], "c": [1]}
    assert in_original(first, second) == {"a": [1, 7], "b": [0, 2], "c": [1]}
    entries = torch.arange(9)
    twice = entries[first["a"]][second["a"]]
    assert entries[in_original(first, second)["a"]].tolist() == twice.tolist()


def test_the_folder_of_the_run_or_of_the_network(tmp_path):
    thinet.save(vgg_small(10, 32), tmp_path / "run" / "model")
    assert saved_folder(tmp_path / "run") == tmp_path / "run" / "model"
    assert saved_folder(tmp_path / "run" / "model") == tmp_path / "run" / "model"
    assert saved_folder(tmp_path) is None
    assert saved_folder("none") is None
