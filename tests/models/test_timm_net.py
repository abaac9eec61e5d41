"""Networks of timm: only those in its own list, and a sentence where it is not installed."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from thinet.artifacts.store import Spec, load, save
from thinet.base.errors import ThinetError
from thinet.models import build
from thinet.models.weights import load_weights

timm = pytest.importorskip("timm")

TARGET = "thinet.models.timm_net.timm_net"


def make(name: str, size: int = 224, classes: int = 7, device: str = "meta") -> nn.Module:
    with torch.device(device):
        return build(TARGET, architecture=name, num_classes=classes, image_size=size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet26", 224),
        ("resnet26.bt_in1k", 64),
        ("mobilenetv3_small_050", 32),
        ("convnext_atto", 96),
        ("regnetx_002", 224),
        ("vit_tiny_patch16_224", 96),
        ("swin_tiny_patch4_window7_224", 448),
        ("deit_tiny_distilled_patch16_224", 224),
        ("inception_v3", 299),
    ],
)
def test_networks_are_timms_and_run_at_the_size(name, size):
    network = make(name, size)
    with torch.no_grad():
        assert network.eval()(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    with torch.device("meta"):
        options = {"img_size": size} if fixed else {}
        theirs = timm.create_model(name, num_classes=7, **options)
    assert str(network) == str(theirs)
    assert {k: w.shape for k, w in network.state_dict().items()} == {
        k: w.shape for k, w in theirs.state_dict().items()
    }


def test_a_saved_network_comes_back(tmp_path):
    network = make("resnet10t", size=64, device="cpu").eval()
    arguments = {"architecture": "resnet10t", "num_classes": 7, "image_size": 64}
    save(network, tmp_path, Spec(builder={"target": TARGET, "arguments": arguments}))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(images), network(images))


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/resnet26.bt_in1k",
        "hf_hub:timm/resnet26.bt_in1k",
        "local-dir:/tmp",
        "timm/resnet26",
        "/tmp/resnet26",
        "resnet26.no_such_tag",
        "resnet_26",
        "timm",
        "",
    ],
)
def test_other_sources_and_unknown_names_never_reach_timm(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("timm was asked to build it")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ThinetError, match="timm has no classification network") as caught:
        make(name)
    assert "timm.list_models()" in str(caught.value)
    assert name != "resnet_26" or "did you mean resnet26" in str(caught.value)


def test_a_machine_without_timm_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ThinetError, match=r"pip install 'thinet\[timm\]'"):
        make("resnet26")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("mobilenetv5_300m_enc", 768, "does not classify"),
        ("inception_v4", 32, "does not run on 32-pixel images .* dataset.image_size=299"),
        ("halonet_h1", 200, "does not run on 200-pixel images .* dataset.image_size=256"),
    ],
)
def test_networks_that_cannot_be_used(name, size, message):
    with pytest.raises(ThinetError, match=message) as caught:
        make(name, size)
    assert "\n" not in str(caught.value)


def pretend_published(monkeypatch, content, classes):
    """Let timm find the tensors of a network as if they had been published."""
    original = timm.create_model

    def create_model(name, pretrained=False, **kwargs):
        if pretrained:
            overlay = {**kwargs.pop("pretrained_cfg_overlay"), "num_classes": classes}
            overlay |= {"state_dict": content, "source": "state_dict"}
            kwargs["pretrained_cfg_overlay"] = overlay
        return original(name, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_model)


@pytest.mark.parametrize("classes", [7, 12])
def test_published_weights_and_a_head_for_other_classes(classes, monkeypatch):
    torch.manual_seed(1)
    source = timm.create_model("resnet10t", num_classes=12).state_dict()
    pretend_published(monkeypatch, dict(source), classes=12)
    network = make("resnet10t", classes=classes, device="cpu")
    head = network.fc.weight.clone()
    seed = torch.random.get_rng_state()
    report = load_weights(network, "DEFAULT", "resnet10t")
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert report.replaced_head == (classes != 12)
    assert report.mean == tuple(timm.get_pretrained_cfg("resnet10t").mean)
    for key, tensor in network.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(tensor, source[key]), key
    assert torch.equal(network.fc.weight, source["fc.weight"] if classes == 12 else head)


def test_timm_fits_published_weights_to_the_image_size(monkeypatch):
    torch.manual_seed(1)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    pretend_published(monkeypatch, dict(source.state_dict()), classes=1000)
    network = make("vit_tiny_patch16_224", size=96, device="cpu")
    assert load_weights(network, "DEFAULT", "vit_tiny_patch16_224").replaced_head
    source.set_input_size(img_size=96)
    torch.testing.assert_close(network.pos_embed, source.pos_embed)
    assert torch.equal(network.cls_token, source.cls_token)


def test_both_heads_of_a_distilled_network_are_replaced(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    torch.manual_seed(1)
    source = timm.create_model(name, num_classes=5).state_dict()
    save_file(source, tmp_path / "deit.safetensors")
    network = make(name, device="cpu")
    report = load_weights(network, str(tmp_path / "deit.safetensors"), name)
    assert report.replaced_head
    assert report.loaded == len(source) - 4
    assert network.head_dist.weight.shape == (7, 192)


def test_weights_are_chosen_by_tag(monkeypatch):
    network = make("resnet26", device="cpu")
    with pytest.raises(ThinetError, match=r"model.name=resnet26.<tag>"):
        load_weights(network, "IMAGENET1K_V1", "resnet26")


def test_a_network_without_published_weights():
    name = next(
        n for n in timm.list_models("resnet*") if not timm.get_pretrained_cfg(n).has_weights
    )
    with pytest.raises(ThinetError, match=f"no published weights for {name}"):
        load_weights(make(name, device="cpu"), "DEFAULT", name)


def test_a_failed_download_says_how_to_do_without(monkeypatch):
    from timm.models import _builder

    def refuse(*args, **kwargs):
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", refuse)
    message = r"\(Name or service not known\): .*huggingface.co/timm/resnet26.* model.weights=none"
    with pytest.raises(ThinetError, match=message):
        load_weights(make("resnet26", device="cpu"), "DEFAULT", "resnet26")
