"""Every network of conf/model against torchvision's own and the paper's figures."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import torchvision
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinet.base.errors import ThinetError
from thinet.models import build

CONF = Path(__file__).parents[2] / "conf" / "model"
LIBRARIES = {"torchvision", "timm"}  # one option for all their networks; their own tests
NAMES = sorted({path.stem for path in CONF.glob("*.yaml")} - LIBRARIES)
TORCHVISION = [f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")]
TORCHVISION += ["resnet18", "resnet34", "resnet50", "resnet101"]
BINARY = ["vgg_binary", "vgg_binary_small", "resnet20_binary", "resnet18_binary"]
LARGE = {*TORCHVISION, "vgg16_gap", "resnet50_v1", "mobilenet_v2", "resnet18_binary"}
LARGE |= {"alexnet", "alexnet_half", "mobilenet_v1", "mobilenet_v2_wide"}
UNPUBLISHED = ["alexnet_half", "mobilenet_v1", "mobilenet_v2_wide"]
LINEAR = ["hinton_net", "hinton_net_half"]  # of 28 pixels
ALEXNETS = ["alexnet", "alexnet_half"]  # from 63 pixels on
MOBILE = ["mobilenet_v1", "mobilenet_v2", "mobilenet_v2_wide"]
UNPAPERED = [*MOBILE, *BINARY, *LINEAR, *ALEXNETS, "lenet5", "lenet5_half"]


def build_configured(name: str, classes: int, size: int, device: str = "cpu") -> nn.Module:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    with torch.device(device):
        return instantiate(config.build, num_classes=classes, image_size=size)


def gflops(network: nn.Module, size: int) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops() / 1e9


def test_all_models_of_the_issue_are_configured():
    others = ["vgg16_gap", "resnet50_v1", "vgg_small", "vgg_tiny", *MOBILE]
    others += ["vgg_half", "lenet5", "lenet5_half", "resnet18_cifar", "resnet34_cifar"]
    others += [*LINEAR, *ALEXNETS]
    others += [f"resnet{depth}" for depth in (14, 20, 32, 44, 56, 110)]
    assert set(NAMES) == {*TORCHVISION, *BINARY, *others}


@pytest.mark.parametrize("name", NAMES)
def test_forward_on_small_images(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    size = 64 if name in ALEXNETS else 32
    network = build_configured(name, 10, size).eval()
    if name in MOBILE:  # its initialisation counts on BatchNorm's batches
        network.train()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
    assert logits.std() > 1e-6, "uninitialised or dead"
    assert config.name == name
    assert config.image_size == (224 if name in LARGE else 28 if name in LINEAR else 32)
    raw = OmegaConf.to_container(config, resolve=False)
    published = config.image_size == 224 and name not in [*BINARY, *UNPUBLISHED]
    assert raw["weights"] == ("${dataset.pretrained}" if published else "none")


@pytest.mark.parametrize("name", sorted({*NAMES} - {*UNPAPERED}))
def test_paper_layers_leave_out_what_the_paper_leaves_out(name):
    globs = OmegaConf.load(CONF / f"{name}.yaml").paper_layers
    network = build_configured(name, 10, 32, "meta")
    convs = [n for n, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    chosen = [n for n in convs if any(fnmatchcase(n, glob) for glob in globs)]
    assert all(any(fnmatchcase(n, glob) for n in chosen) for glob in globs)
    if name in ("vgg_small", "vgg_half", "vgg_tiny"):
        assert chosen == convs[:-1]
    elif name.startswith("vgg"):
        kept = {"11": 2, "13": 2, "16": 3, "19": 4}[name[3:5]]
        assert chosen == convs[:-kept]
    else:  # every convolution inside a block but its last, and neither stem nor shortcuts
        last = "conv3" if any(n.endswith("conv3") for n in convs) else "conv2"
        inner = [n for n in convs if n.startswith("layer") and "downsample" not in n]
        assert chosen == [n for n in inner if not n.endswith(last)]


@pytest.mark.parametrize("name", TORCHVISION)
def test_large_images_get_exactly_torchvision(name):
    ours = build_configured(name, 1000, 224, "meta")
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
    assert {k: w.shape for k, w in ours.state_dict().items()} == {
        k: w.shape for k, w in theirs.state_dict().items()
    }
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("name", TORCHVISION)
def test_small_images_keep_the_parameter_names(name):
    small, large = (build_configured(name, 10, size, "meta").state_dict() for size in (32, 224))
    assert list(small) == list(large)
    changed = [k for k in small if small[k].shape != large[k].shape]
    assert changed == (["classifier.0.weight"] if "vgg" in name else ["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vgg16", 30.94), ("resnet50", 8.18), ("resnet50_v1", 7.72)],
)
def test_flops_at_224_are_the_papers(name, expected):
    assert round(gflops(build_configured(name, 1000, 224, "meta"), 224), 2) == expected


def test_gap_network_is_vgg16_without_its_linear_layers():
    gap = build_configured("vgg16_gap", 1000, 224, "meta")
    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None).features
        maps = gap.features(torch.empty(1, 3, 224, 224))
    assert maps.shape == (1, 512, 14, 14)
    linear = 2 * 512 * 1000 / 1e9
    assert gflops(gap, 224) == pytest.approx(gflops(features, 224) + linear, rel=1e-12)
    expected = {f"features.{k}" for k in features.state_dict()}
    assert set(gap.state_dict()) == expected | {"classifier.weight", "classifier.bias"}


def test_vgg16_weights_without_biases_are_the_papers():
    network = build_configured("vgg16", 1000, 224, "meta")
    assert sum(w.numel() for k, w in network.named_parameters() if "weight" in k) == 138_344_128


def test_v1_moves_every_stride_into_the_first_convolution():
    strided = {
        name: module.stride
        for name, module in build_configured("resnet50_v1", 10, 224, "meta").named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1) and "layer" in name
    }
    blocks = [f"layer{i}.0.{part}" for i in (2, 3, 4) for part in ("conv1", "downsample.0")]
    assert strided == dict.fromkeys(blocks, (2, 2))


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_cifar_resnets_have_the_published_sizes(depth, millions):
    # He et al. 2016, table 6
    network = build_configured(f"resnet{depth}", 10, 32, "meta")
    total = sum(w.numel() for w in network.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.035)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) + 1 == depth


@pytest.mark.parametrize(("depth", "millions", "gmacs"), [(18, 11.17, 0.557), (34, 21.28, 1.16)])
def test_wide_cifar_resnets_cost_what_the_paper_says(depth, millions, gmacs):
    # Chen et al. 2019, table 2: 11 M and 557 M, 21 M and 1.16 G
    network = build_configured(f"resnet{depth}_cifar", 10, 32, "meta")
    assert round(sum(w.numel() for w in network.parameters()) / 1e6, 2) == millions
    assert gflops(network, 32) / 2 == pytest.approx(gmacs, rel=3e-3)


def test_alexnet_is_torchvisions_and_half_of_it_has_half_of_the_channels():
    ours = build_configured("alexnet", 1000, 224, "meta")
    with torch.device("meta"):
        theirs = torchvision.models.alexnet(weights=None)
    assert str(ours) == str(theirs)
    half = build_configured("alexnet_half", 1000, 224, "meta").state_dict()
    for key, weight in theirs.state_dict().items():
        kept = [1 if key.startswith("classifier.6") else 2, 1 if key == "features.0.weight" else 2]
        shape = [n // k for n, k in zip(weight.shape[:2], kept, strict=False)]
        assert half[key].shape == (*shape, *weight.shape[2:]), key
    with pytest.raises(ThinetError, match=r"dataset\.image_size=63"):
        build("thinet.models.alexnet.alexnet", num_classes=10, image_size=62)
    with pytest.raises(ThinetError, match=r"outside \(0, 1\]"):
        build("thinet.models.alexnet.alexnet", num_classes=10, image_size=64, width=2)
    build_configured("alexnet", 10, 63, "meta").eval()(torch.empty(1, 3, 63, 63, device="meta"))


def test_option_a_shortcut_subsamples_and_pads():
    network = build_configured("resnet20", 10, 32).eval()
    block = network.layer2[0]
    nn.init.zeros_(block.bn2.weight)  # silence the residual branch
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert y.shape == (2, 32, 4, 4)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_small_vgg_starts_with_differences_between_images_alive():
    torch.manual_seed(0)
    images = torch.randn(16, 3, 32, 32)
    small = build_configured("vgg16", 10, 32).features.eval()
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    for module in theirs.modules():  # torchvision's initialisation
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        ours, reference = (net(images).std(0).mean().item() for net in (small, theirs))
    assert ours > 0.02
    assert ours > 5 * reference


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg16_gap", "vgg_small"])
def test_networks_from_the_meta_device_are_fully_initialised(name):
    for key, value in build_configured(name, 10, 32).state_dict().items():
        if value.dim() > 1:
            last = key in {"classifier.6.weight", "classifier.weight"}
            expected = 0.01 if last else (2 / value[0].numel()) ** 0.5
            assert value.std().item() == pytest.approx(expected, rel=0.1), key
        else:
            ones = key.endswith(("running_var", ".weight"))
            assert torch.equal(value, torch.full_like(value, int(ones))), key


@pytest.mark.parametrize(("name", "size"), [("vgg16", 16), ("vgg16_gap", 8), ("vgg_small", 4)])
def test_images_too_small_to_pool_are_refused(name, size):
    smallest = build_configured(name, 10, 2 * size).eval()
    smallest(torch.randn(1, 3, 2 * size, 2 * size))
    with pytest.raises(ThinetError, match=f"dataset.image_size={2 * size}"):
        build(
            f"thinet.models.{'small_vgg' if 'small' in name else 'vgg'}.{name}",
            num_classes=10,
            image_size=size,
        )


def test_build_calls_builders():
    with torch.device("meta"):
        ours = build("thinet.models.cifar_resnet.resnet20", num_classes=7, image_size=32)
        theirs = build("torchvision.models.squeezenet1_1", num_classes=7)
    assert ours.linear.out_features == 7
    assert isinstance(theirs, torchvision.models.SqueezeNet)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "thinet.models",
        "thinet.modelsx.vgg16",
        "torch.nn.Linear",
        "thinet.models.vgg.torch.hub.load",
        "thinet.models.vgg.torchvision.models.vgg16",
        "thinet.models.weights.Path",
        "thinet.models.weights.load_weights",
        "thinet.models.vgg.nn",
        "thinet.models.vgg._vgg",
        "thinet.models.vgg.no_such",
        "thinet.models.no_such.vgg16",
        "torchvision.models.get_weight",
        "torchvision.models._api.get_model",
        "..os.system",
        "",
    ],
)
def test_build_refuses_everything_else(target):
    with pytest.raises(ThinetError, match="does not name a network builder"):
        build(target, num_classes=10)


def test_build_names_arguments_that_do_not_fit():
    with pytest.raises(ThinetError, match="unexpected keyword argument 'depth'"):
        build("thinet.models.vgg.vgg16", num_classes=10, image_size=32, depth=3)
