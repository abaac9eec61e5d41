"""Loading weights: exact where it should be exact, and one sentence for every kind of bad file."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from thinet.base.errors import ThinetError
from thinet.models import build
from thinet.models.weights import load_weights

SHARED = Path(os.environ.get("THINET_SHARED", Path(__file__).parents[3] / "shared"))
CIFAR_WEIGHTS = SHARED / "weights" / "resnet56_cifar10.safetensors"


def resnet20(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("thinet.models.cifar_resnet.resnet20", num_classes=classes, image_size=32)


def small(name: str, family: str, classes: int = 10) -> nn.Module:
    return build(f"thinet.models.{family}.{name}", num_classes=classes, image_size=32)


@pytest.fixture
def saved(tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    state = resnet20(seed=1).state_dict()
    save_file(state, tmp_path / "r20.safetensors")
    return tmp_path / "r20.safetensors", state


def assert_equal(network: nn.Module, state: dict[str, torch.Tensor], but: str = "-") -> None:
    ours = network.state_dict()
    for key, tensor in state.items():
        if not key.startswith(but):
            assert torch.equal(ours[key], tensor), key


def test_none_changes_nothing():
    network, twin = resnet20(), resnet20()
    report = load_weights(network, "none", "resnet20")
    assert (report.loaded, report.replaced_head, report.adapted) == (0, False, [])
    assert_equal(network, twin.state_dict())


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "data_parallel"])
def test_every_form_of_file(form, saved, tmp_path):
    path, state = saved
    if form != "safetensors":
        path = tmp_path / "r20.pth"
        content = {f"module.{k}": w for k, w in state.items()} if "para" in form else state
        torch.save({"state_dict": content, "epoch": 3} if form != "plain" else content, path)
    network = resnet20()
    report = load_weights(network, str(path), "resnet20")
    assert (report.loaded, report.replaced_head, report.adapted) == (len(state), False, [])
    assert_equal(network, state)


def test_head_of_other_classes_keeps_its_initialisation(saved):
    path, state = saved
    network = resnet20(classes=3)
    before = network.linear.weight.clone()
    report = load_weights(network, str(path), "resnet20")
    assert report.replaced_head
    assert report.loaded == len(state) - 2
    assert torch.equal(network.linear.weight, before)
    assert_equal(network, state, but="linear")


def test_missing_batch_counters_are_forgiven(saved, tmp_path):
    _, state = saved
    old = {k: w for k, w in state.items() if not k.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "old.safetensors")
    network = resnet20()
    assert load_weights(network, str(tmp_path / "old.safetensors")).loaded == len(old)
    assert_equal(network, old)


@pytest.mark.skipif(not CIFAR_WEIGHTS.exists(), reason="set THINET_SHARED to the shared folder")
def test_cifar_weights_trained_elsewhere_load_strictly():
    network = build("thinet.models.cifar_resnet.resnet56", num_classes=10, image_size=32)
    state = load_file(CIFAR_WEIGHTS)
    network.load_state_dict(state, strict=True)
    report = load_weights(network, str(CIFAR_WEIGHTS), "resnet56")
    assert (report.loaded, report.replaced_head) == (len(state), False)
    assert sum(w.numel() for w in network.parameters()) == 853_018


def test_summed_pool_positions_give_the_same_output(tmp_path):
    with torch.device("meta"):
        large = torchvision.models.vgg11(num_classes=10)
    large.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in large.parameters():
        weight.data.normal_(0, (2 / max(weight[0].numel(), 1)) ** 0.5, generator=generator)
    path = tmp_path / "vgg11.safetensors"
    save_file(large.state_dict(), path)
    network = small("vgg11", "vgg")
    report = load_weights(network, str(path), "vgg11")
    assert report.adapted == ["classifier.0.weight"]
    images = torch.randn(4, 3, 32, 32, generator=generator)
    with torch.no_grad():
        expected = large.eval()(images)
        torch.testing.assert_close(
            network.eval()(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item()
        )


def test_published_weights_from_the_cache_with_a_cropped_stem(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = torchvision.models.resnet18(weights=None).state_dict()
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    cached = tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1]
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    network = small("resnet18", "resnet")
    report = load_weights(network, "DEFAULT", "resnet18")
    assert report.adapted == ["conv1.weight"]
    assert report.replaced_head
    assert torch.equal(network.conv1.weight, state["conv1.weight"][:, :, 2:5, 2:5])
    del state["conv1.weight"]
    assert_equal(network, state, but="fc.")


@pytest.mark.parametrize("classes", [10, 1000])
def test_gap_takes_the_convolutions_of_vgg16(classes, tmp_path):
    state = small("vgg16", "vgg", classes).state_dict()
    torch.save(state, tmp_path / "vgg16.pth")
    network = small("vgg16_gap", "vgg")
    report = load_weights(network, str(tmp_path / "vgg16.pth"), "vgg16_gap")
    assert report.replaced_head
    assert report.loaded == 26
    assert_equal(network, state, but="classifier")
    save_file(network.state_dict(), tmp_path / "gap.safetensors")
    again = small("vgg16_gap", "vgg")
    assert not load_weights(again, str(tmp_path / "gap.safetensors")).replaced_head
    assert_equal(again, network.state_dict())


def test_v1_takes_the_weights_of_resnet50(tmp_path):
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "r50.pth")
    network = build("thinet.models.resnet.resnet50_v1", num_classes=1000, image_size=224)
    report = load_weights(network, str(tmp_path / "r50.pth"), "resnet50_v1")
    assert (report.loaded, report.replaced_head, report.adapted) == (len(state), False, [])
    assert_equal(network, state)


def write_bad_file(kind: str, folder: Path) -> Path:
    state = resnet20(seed=1).state_dict()
    good, pth = folder / "good.safetensors", folder / "file.pth"
    save_file(state, good)
    bad = folder / "bad.safetensors"
    if kind == "folder":
        return folder
    if kind == "missing":
        return folder / "no.safetensors"
    if kind == "truncated safetensors":
        bad.write_bytes(good.read_bytes()[:-1000])
    elif kind == "truncated header":
        bad.write_bytes(good.read_bytes()[:100])
    elif kind == "empty":
        pth.touch()
        return pth
    elif kind == "truncated pth":
        torch.save(state, pth)
        pth.write_bytes(pth.read_bytes()[: pth.stat().st_size // 2])
        return pth
    elif kind == "text":
        pth.write_text("these are not weights\n")
        return pth
    elif kind == "image":
        bad = folder / "photo.png"
        bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    elif kind == "pickled model":
        torch.save(resnet20(), pth)
        return pth
    elif kind == "other pickle":
        pth.write_bytes(pickle.dumps({"a": 1}))
        return pth
    elif kind == "no tensors":
        torch.save({"epoch": 3, "loss": 0.5}, pth)
        return pth
    return bad


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "is a folder"),
        ("missing", "does not exist"),
        ("truncated safetensors", "damaged or holds no weights"),
        ("truncated header", "damaged or holds no weights"),
        ("empty", "damaged or holds no weights"),
        ("truncated pth", "damaged or holds no weights"),
        ("text", "damaged or holds no weights"),
        ("image", "damaged or holds no weights"),
        ("pickled model", "damaged or holds no weights"),
        ("other pickle", "holds no"),
        ("no tensors", "holds no state dict"),
    ],
)
def test_unreadable_files(kind, message, tmp_path):
    path = write_bad_file(kind, tmp_path)
    with pytest.raises(ThinetError, match=message) as caught:
        load_weights(resnet20(), str(path), "resnet20")
    text = str(caught.value)
    assert str(path) in text
    assert "model.weights=" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("deeper", r"layer1.3.conv1.weight of shape 16x16x3x3 is missing \(\d+ missing, 0 unex"),
        ("extra", r"extra.weight of shape 2x2 is not in the network \(0 missing, 1 unexpected"),
        ("shape", r"layer2.0.conv1.weight is 31x16x3x3 instead of 32x16x3x3 \(0 missing, 0 un"),
        ("wider head", r"linear.weight is 10x128 instead of 10x64"),
    ],
)
def test_weights_of_another_architecture(change, message, saved):
    path, state = saved
    name = "resnet32" if change == "deeper" else "resnet20"
    network = small(name, "cifar_resnet")
    before = {k: w.clone() for k, w in network.state_dict().items()}
    if change == "extra":
        state["extra.weight"] = torch.zeros(2, 2)
    elif change == "shape":
        state["layer2.0.conv1.weight"] = torch.zeros(31, 16, 3, 3)
    elif change == "wider head":
        state["linear.weight"] = torch.zeros(10, 128)
    save_file(state, path)
    with pytest.raises(ThinetError, match=message) as caught:
        load_weights(network, str(path), name)
    assert "another architecture" in str(caught.value)
    assert "model.weights=none" in str(caught.value)
    assert_equal(network, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named_and_nothing_is_copied(value, saved):
    path, state = saved
    state["layer3.1.conv2.weight"][3, 2, 1, 0] = value
    save_file(state, path)
    network, twin = resnet20(), resnet20()
    with pytest.raises(ThinetError, match=r"layer3.1.conv2.weight .* NaN or infinite"):
        load_weights(network, str(path), "resnet20")
    assert_equal(network, twin.state_dict())


def test_a_failed_download_says_how_to_do_without(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ThinetError, match=r"vgg16-397923af\.pth .*model\.weights=<file>"):
        load_weights(small("vgg16", "vgg"), "DEFAULT", "vgg16")


@pytest.mark.parametrize(
    ("architecture", "source", "message"),
    [
        ("resnet56", "DEFAULT", "no published weights for resnet56: type model.weights=none"),
        (None, "DEFAULT", "no published weights for None"),
        ("vgg16", "IMAGENET1K_V2", "vgg16 has no published weights called IMAGENET1K_V2.*DEFAULT"),
    ],
)
def test_weights_that_were_never_published(architecture, source, message):
    with pytest.raises(ThinetError, match=message):
        load_weights(resnet20(), source, architecture)
