"""The feature of an image: found on any network, read without leaving a trace."""

from __future__ import annotations

import copy
from collections import OrderedDict
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations

from thinet.base.errors import ThinetError
from thinet.models import cifar_resnet, resnet, small_vgg, vgg
from thinet.models.features import Feature, embedded, find_feature, reading
from thinet.models.fit import heads
from thinet.models.torchvision_net import torchvision_net

NAMES = torchvision.models.list_models(module=torchvision.models)
SIZES = {"maxvit_t": 224, "vit_h_14": 56, "inception_v3": 299, "googlenet": 224}
CONVOLUTIONAL = ("squeezenet1_0", "squeezenet1_1")
COMPUTED = "regnet_"  # torchvision's own constructor does not run on the meta device


def make(name: str, device: str = "meta") -> tuple[nn.Module, Tensor]:
    size = SIZES.get(name, 96)
    options = {"vit": {"image_size": size}, "max": {"input_size": (size, size)}}.get(name[:3], {})
    with torch.device(device):
        if name.startswith(COMPUTED):
            network = torchvision_net(name, 7, size)
        else:
            network = torchvision.models.get_model(name, weights=None, num_classes=7, **options)
    return network, torch.randn(2, 3, size, size, device=device)


@contextmanager
def giving(module: nn.Module, output: Tensor):
    """Within, the module gives this, whatever it computed."""
    handle = module.register_forward_hook(lambda *_: output)
    yield
    handle.remove()


def hooks_of(network: nn.Module) -> int:
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_forward_hooks_with_kwargs",
    )
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_every_classifier_of_torchvision(name):
    network, images = make(name)
    feature = find_feature(network, images[:1])
    assert heads(network)[-1:] == [feature.module]
    layer = network.get_submodule(feature.module)
    sizes = (layer.in_channels, layer.out_channels) if name in CONVOLUTIONAL else (
        layer.in_features, layer.out_features)  # fmt: skip
    assert (feature.length, 7) == sizes
    if name not in CONVOLUTIONAL:  # the next test's, with numbers
        marker = torch.empty(2, 7, device="meta")
        with giving(layer, marker), torch.no_grad():
            assert network.eval()(images) is marker, "the logits are not what the layer gives"


def logits_again(layer: nn.Module, given: Tensor) -> Tensor:
    """From what the layer reads, by what follows in torchvision."""
    found = layer(given)
    return F.adaptive_avg_pool2d(F.relu(found), 1).flatten(1) if found.dim() == 4 else found


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_0", "squeezenet1_1", "alexnet", "resnet18", "shufflenet_v2_x0_5", "vit_b_32",
        "regnet_x_400mf", "mnasnet0_5", "googlenet", "swin_t", "mobilenet_v3_small", "densenet121",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_the_logits_computed_again_from_the_feature(name):
    torch.manual_seed(0)
    network, images = make(name, "cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_()  # a head of zeros would hide a mistake
    feature = find_feature(network.train(), images)
    layer, given = network.eval().get_submodule(feature.module), []
    layer.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    with torch.no_grad():
        logits, vectors = embedded(network, feature, images)
        assert logits.std() > 0
        assert vectors.shape == (2, feature.length)
        whole = given[0]
        assert torch.equal(logits, logits_again(layer, whole))
        if whole.dim() == 2:
            assert torch.equal(vectors, whole)
        else:
            torch.testing.assert_close(vectors, whole.flatten(2).sum(2) / whole[0, 0].numel())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_auxiliary_heads(name):
    """Plain torchvision gives a named tuple in training mode, and three heads have no say in it."""
    network, images = make(name)
    feature = find_feature(network, images)
    assert feature.module == "fc"
    logits, vectors = embedded(network.train(), feature, images)
    assert (logits.shape, vectors.shape) == ((2, 7), (2, feature.length))


@pytest.mark.parametrize(
    ("make_own", "size", "module", "length"),
    [
        (cifar_resnet.resnet20, 32, "linear", 64),
        (resnet.resnet18, 32, "fc", 512),
        (small_vgg.vgg_small, 8, "classifier", 128),
        (vgg.vgg11, 32, "classifier.6", 4096),
        (vgg.vgg16_gap, 32, "classifier", 512),
    ],
)
def test_thinets_own_networks(make_own, size, module, length):
    with torch.device("meta"):
        network = make_own(num_classes=5, image_size=size)
    assert find_feature(network, torch.empty(1, 3, size, size, device="meta")) == Feature(
        module, length
    )


@pytest.mark.parametrize(
    ("name", "module", "length"),
    [
        ("resnet26", "fc", 2048),
        ("mobilenetv3_small_050", "classifier", 1024),
        ("convnext_atto", "head.fc", 320),
        ("regnetx_002", "head.fc", 368),
        ("vit_tiny_patch16_224", "head", 192),
        ("swin_tiny_patch4_window7_224", "head.fc", 768),
        ("mixer_s32_224", "head", 512),
    ],
)
def test_networks_of_timm(name, module, length):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=7)
    images = torch.empty(1, 3, 224, 224, device="meta")
    found = find_feature(network, images)
    assert (found.module, found.length) == (module, length)


def test_a_distilled_network_of_timm_has_two_heads():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7)
    images = torch.empty(1, 3, 224, 224, device="meta")
    with pytest.raises(ThinetError, match=r"not come from one layer \(but from head, head_dist\)"):
        find_feature(network, images)
    assert find_feature(network, images, "head_dist") == Feature("head_dist", 192)


# Networks of a user's own, whose classifier has to be found.


class Net(nn.Module):
    """A convolution, pooled, and what ``end`` makes of it with the layers of ``parts``."""

    def __init__(self, end, **parts: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.end = end
        for name, part in parts.items():
            setattr(self, name, part)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images: Tensor):
        self.passes += 1
        maps = self.conv(images).relu()
        return self.end(self, maps)


def pooled(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


class Cosine(nn.Module):
    """A head that is no nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


class Token(nn.Module):
    """Owns a parameter of three axes, a matrix in it, but is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, 3, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.tokens.mean(1))[:, :, None].flatten(1)


def head() -> nn.Module:
    return nn.Linear(6, 4)


def wide() -> nn.Module:
    return nn.Conv2d(6, 6, 1)


def with_scale() -> Net:
    net = Net(lambda net, x: net.fc(pooled(x)) * net.scale.exp() + net.shift, fc=head())
    net.scale, net.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(4))
    return net


FOUND = {
    "last in order, first in the pass": (
        lambda: Net(lambda net, x: net.fc(pooled(net.later(x))), fc=head(), later=wide()),
        "fc",
    ),
    "named by keyword": (lambda: Net(lambda net, x: net.fc(input=pooled(x)), fc=head()), "fc"),
    "dropout before": (
        lambda: Net(lambda net, x: net.fc(pooled(x)), fc=nn.Sequential(nn.Dropout(0.5), head())),
        "fc.1",
    ),
    "dropout and reshaping behind": (
        lambda: Net(
            lambda net, x: F.dropout(net.fc(pooled(x))[:, :, None], 0.5, net.training).squeeze(2),
            fc=head(),
        ),
        "fc",
    ),
    "in place behind": (
        lambda: Net(lambda net, x: net.fc(pooled(x)).relu_().add_(1), fc=head()), "fc",
    ),
    "log-softmax": (lambda: Net(lambda net, x: net.fc(pooled(x)).log_softmax(1), fc=head()), "fc"),
    "a BatchNorm behind": (
        lambda: Net(lambda net, x: net.bn(net.fc(pooled(x))), fc=head(), bn=nn.BatchNorm1d(4)),
        "fc",
    ),
    "scale and shift that are learnt": (with_scale, "fc"),
    "a head of its own kind": (lambda: Net(lambda net, x: net.fc(pooled(x)), fc=Cosine()), "fc"),
    "computed weights": (
        lambda: Net(
            lambda net, x: net.fc(pooled(x)), fc=parametrizations.weight_norm(head())
        ),
        "fc",
    ),
    "computed weights of its own kind": (
        lambda: Net(
            lambda net, x: net.fc(pooled(x)), fc=parametrizations.weight_norm(Cosine())
        ),
        "fc",
    ),
    "in a module with tokens": (
        lambda: Net(lambda net, x: net.top(pooled(x)), top=Token()), "top.head",
    ),
    "a head that is not asked": (
        lambda: Net(
            lambda net, x: (net.aux(pooled(x)), net.fc(pooled(x)))[1], fc=head(), aux=head()
        ),
        "fc",
    ),
    "logits among others": (
        lambda: Net(lambda net, x: {"logits": net.fc(pooled(x)), "maps": x}, fc=head()), "fc",
    ),
    "a convolution, pooled": (
        lambda: Net(lambda net, x: pooled(net.fc(x)), fc=nn.Conv2d(6, 4, 3, padding=1)), "fc",
    ),
    "a convolution of a pooled map": (
        lambda: Net(
            lambda net, x: net.fc(F.adaptive_avg_pool2d(x, 1))[:, :, 0, 0], fc=nn.Conv2d(6, 4, 1)
        ),
        "fc",
    ),
    "each position, then the mean": (
        lambda: Net(lambda net, x: net.fc(x.flatten(2).mT).mean(1), fc=head()), "fc",
    ),
    "images written to": (
        lambda: Net(lambda net, x: net.fc(pooled(x.mul_(2))), fc=head()), "fc",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_users_own_network(case, device):
    make_net, module = FOUND[case]
    torch.manual_seed(0)
    network = make_net().to(device)
    images = torch.randn(2, 3, 4, 4, device=device)
    feature = find_feature(network, images)
    assert (feature.module, feature.length) == (module, 6)
    assert embedded(network, feature, images)[1].shape == (2, 6)


def test_a_network_that_writes_to_its_images_writes_to_copies():
    class Writes(nn.Sequential):
        def forward(self, images):
            return super().forward(images.sub_(1).flatten(1))

    images = torch.zeros(2, 3, 4, 4)
    assert find_feature(Writes(nn.Linear(48, 4)), images) == Feature("0", 48)
    assert not images.any()


def test_a_frozen_network():
    network = FOUND["dropout before"][0]().requires_grad_(False)
    with torch.inference_mode():
        assert find_feature(network, torch.randn(2, 3, 4, 4)).module == "fc.1"


def test_averages_are_those_that_the_logits_are_made_of():
    """A linear layer commutes with the mean: its logits again, from maps and from tokens."""
    torch.manual_seed(0)
    for case in ("each position, then the mean", "a convolution of a pooled map"):
        network, images = FOUND[case][0]().double(), torch.randn(3, 3, 4, 4).double()
        feature = find_feature(network, images)
        logits, vectors = embedded(network, feature, images)
        weight = network.fc.weight.flatten(1)
        torch.testing.assert_close(logits, vectors @ weight.T + network.fc.bias)


def test_a_module_by_name():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    feature = find_feature(network, images, "layer4")
    assert feature == Feature("layer4", 256, pooled=True)
    maps = []
    network.layer3.register_forward_hook(lambda _, __, output: maps.append(output))
    vectors = embedded(network, feature, images)[1]
    torch.testing.assert_close(vectors, maps[0].mean((2, 3)))


def test_what_overwrites_its_input_is_read_before():
    network = Net(lambda net, x: net.fc(net.act(pooled(x) - 1)), fc=head(), act=nn.ReLU(True))
    images = torch.randn(2, 3, 4, 4)
    feature = find_feature(network, images, "act")
    assert (embedded(network, feature, images)[1] < 0).any()


# What is refused.


def several() -> Net:
    return Net(lambda net, x: net.a(pooled(x)) + net.b(pooled(x)), a=head(), b=head())


class Around(nn.Module):
    """Adds to its logits what it reads from the images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(pooled(images)) + images.mean((1, 2, 3))[:, None]


def twice() -> Net:
    return Net(lambda net, x: net.fc(pooled(x)) + net.fc(pooled(x.flip(0))), fc=head())


def lstm() -> Net:
    end = lambda net, x: net.fc(net.rnn(x.flatten(2).permute(2, 0, 1))[0])[-1]  # noqa: E731
    return Net(end, rnn=nn.LSTM(6, 5), fc=nn.Linear(5, 4))


NOT = "the logits are not what fc gives"
REFUSED = {
    "a tuple": (lambda: Net(lambda net, x: (net.fc(pooled(x)), x), fc=head()), None,
                "gives a tuple where logits are expected: wrap it"),
    "a list": (lambda: Net(lambda net, x: [net.fc(pooled(x))], fc=head()), None, "gives a list"),
    "a dict": (lambda: Net(lambda net, x: OrderedDict(out=x), fc=head()), None,
               "gives a OrderedDict"),
    "maps": (lambda: Net(lambda net, x: net.fc(x), fc=nn.Conv2d(6, 4, 1)), None,
             "for 2 images it gives 2x4x4x4 and not 2 rows of logits"),
    "one number": (lambda: Net(lambda net, x: net.fc(pooled(x)).sum(), fc=head()), "fc",
                   "for 2 images it gives one number"),
    "two heads": (several, None, r"not come from one layer \(but from a, b\)"),
    "five heads": (
        lambda: Net(
            lambda net, x: sum(fc(pooled(x)) for fc in net.all),
            all=nn.ModuleList(head() for _ in range(5)),
        ), None, r"but from all\.0, all\.1, all\.2 and 2 more"),
    "a way around": (lambda: Net(lambda net, x: net.fc(pooled(x)) + x.mean((1, 2, 3))[:, None],
                                 fc=head()), None, r"from conv, fc"),
    "from the images too": (
        lambda: Around(), None, r"but from fc and from the images by another way"),
    "a normalisation of maps": (
        lambda: Net(lambda net, x: net.norm(net.fc(pooled(x)).unflatten(1, (2, 2))).flatten(1),
                    fc=head(), norm=nn.LayerNorm((2, 2))), None,
        rf"{NOT} \(NativeLayerNorm stands between\)"),
    "softmax": (lambda: Net(lambda net, x: net.fc(pooled(x)).softmax(1), fc=head()), None,
                rf"{NOT} \(Softmax stands between\)"),
    "squared": (lambda: Net(lambda net, x: (lambda y: y * y)(net.fc(pooled(x))), fc=head()), None,
                rf"{NOT} \(Mul stands between\)"),
    "one position of many": (
        lambda: Net(lambda net, x: net.fc(x)[:, :, 0, 0], fc=nn.Conv2d(6, 4, 1)), None,
        rf"{NOT} \(Select stands between\)"),
    "written in part": (
        lambda: Net(lambda net, x: _written(net.fc(pooled(x))), fc=head()), None, NOT),
    "a functional head": (
        lambda: Net(lambda net, x: F.linear(pooled(x), net.fc.weight), fc=head()), None,
        r"not what conv gives \(Mm stands between\)"),
    "no layer": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), None,
                 "no linear layer or convolution that its logits come from"),
    "no gradient": (lambda: Net(lambda net, x: (net.fc(pooled(x)) > 0).float(), fc=head()), None,
                    "no linear layer or convolution that its logits come from"),
    "called twice": (twice, "fc", "fc is called 2 times in a forward pass"),
    "called twice, found": (
        lambda: Net(lambda net, x: (net.fc(pooled(x)), net.fc(pooled(x)))[0], fc=head()), None,
        "fc is called 2 times in a forward pass"),
    "never called": (lambda: Net(lambda net, x: net.fc(pooled(x)), fc=head(), rest=head()), "rest",
                     "rest is called 0 times"),
    "not batch-first": (lstm, "fc", "fc reads 16x2x5 for 2 images, but the first axis"),
    "not batch-first, found": (
        lambda: Net(lambda net, x: net.fc(pooled(x)[None]).squeeze(0), fc=head()), None,
        "fc reads 1x2x6 for 2 images"),
    "two inputs": (
        lambda: Net(lambda net, x: net.fc(pooled(x), pooled(x)), fc=nn.Bilinear(6, 6, 4)), None,
        "fc reads 2 tensors, but the feature is one"),
    "tokens of what kind": (
        lambda: Net(lambda net, x: net.fc(pooled(net.odd(x.flatten(2)).unflatten(2, (4, 4)))),
                    fc=head(), odd=nn.Dropout()), "odd",
        "odd reads torch.float32 of 2x6x16, but the feature is a vector or a map"),
    "no floats": (
        lambda: Net(lambda net, x: net.fc(net.table(pooled(x).argmax(1, True)).squeeze(1)),
                    table=nn.Embedding(6, 6), fc=head()), "table",
        "table reads torch.int64 of 2x1"),
    "another name": (lambda: Net(lambda net, x: net.classifier(pooled(x)), classifier=head()),
                     "clasifier", "called 'clasifier'; did you mean classifier"),
    "a name of nothing": (several, "zzz", "called 'zzz'; type distill.feature=<module>"),
    "no name": (several, "", "no module called ''"),
    "weights without a shape": (
        lambda: Net(lambda net, x: net.fc(pooled(x)), fc=nn.LazyLinear(4)), None, "run it once"),
    "it does not run": (lambda: Net(lambda net, x: net.fc(x.flatten(1)), fc=head()), None,
                        r"does not run on images of 3x4x4 \(.+\): .*dataset.image_size"),
}  # fmt: skip


def _written(logits: Tensor) -> Tensor:
    logits[:, 0] *= 2
    return logits


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_is_refused_is_refused_in_a_sentence(case):
    make_net, name, message = REFUSED[case]
    network = make_net()
    hooks = hooks_of(network)
    with pytest.raises(ThinetError, match=message) as caught:
        find_feature(network, torch.randn(2, 3, 4, 4), name)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert any(word in text for word in ("type ", "Type ", "choose ", "wrap ", "run it", "give "))
    assert hooks_of(network) == hooks
    assert network.training


def test_one_image_shows_the_axis_of_the_batch():
    with pytest.raises(ThinetError, match="fc reads 1x2x6 for 2 images"):
        find_feature(REFUSED["not batch-first, found"][0](), torch.randn(1, 3, 4, 4))


def test_an_operation_without_a_meta_version_says_nothing():
    network = Net(lambda net, x: net.fc(pooled(x)) * x.sum().item(), fc=head()).to("meta")
    with pytest.raises(NotImplementedError, match="meta tensors"):
        find_feature(network, torch.empty(2, 3, 4, 4, device="meta"))


# No side effects.


def state_of(network: nn.Module) -> dict[str, object]:
    return {
        "tensors": {key: one.clone() for key, one in network.state_dict().items()},
        "objects": [id(one) for one in [*network.parameters(), *network.buffers()]],
        "modes": [module.training for module in network.modules()],
        "grads": [one.grad for one in network.parameters()],
        "hooks": hooks_of(network),
        "random": torch.get_rng_state(),
    }


def assert_same(one, other):
    for key in ("objects", "modes", "grads", "hooks"):
        assert one[key] == other[key], key
    assert torch.equal(one["random"], other["random"])
    assert all(torch.equal(one["tensors"][key], w) for key, w in other["tensors"].items())


def noisy() -> Net:
    """Writes to a buffer, replaces another and draws a number in every pass."""

    def run(net, x):
        net.last = torch.rand(2)
        net.bn.running_mean += 1
        return net.fc(net.bn(pooled(x)))

    network = Net(run, fc=nn.Sequential(nn.Dropout(), head()), bn=nn.BatchNorm1d(6))
    network.register_buffer("last", torch.zeros(2))
    network.bn.eval()  # a mode of its own
    return network


@pytest.mark.parametrize("name", [None, "bn", "conv"])
def test_finding_changes_nothing(name):
    torch.manual_seed(0)
    network = noisy()
    before, images = state_of(network), torch.randn(2, 3, 4, 4)
    before["random"] = torch.get_rng_state()
    given = images.clone()
    feature = find_feature(network, images, name)
    assert feature.module == (name or "fc.1")
    assert_same(before, state_of(network))
    assert torch.equal(images, given)
    assert not images.requires_grad


@pytest.mark.parametrize("refused", ["two heads", "it does not run"])
def test_nor_does_an_error(refused):
    network = REFUSED[refused][0]()
    before = state_of(network)
    with pytest.raises(ThinetError):
        find_feature(network, torch.ones(2, 3, 4, 4))
    assert_same(before, state_of(network))


# Reading.


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net(
        lambda net, x: net.fc(pooled(net.bn(x))),
        fc=nn.Sequential(nn.Dropout(0.5), head()),
        bn=nn.BatchNorm2d(6),
    )


IMAGES = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def test_features_of_a_training_step_carry_gradient(network):
    feature = find_feature(network, IMAGES)
    network.train()
    with reading(network, feature) as read:
        logits = network(IMAGES)
        torch.testing.assert_close(logits, network.fc[1](read()))  # after the dropout, as it fell
        network.zero_grad()
        read().square().sum().backward()
    assert network.conv.weight.grad.abs().sum() > 0
    assert network.fc[1].weight.grad is None
    assert hooks_of(network) == 0


def test_the_last_pass_is_read(network):
    feature = find_feature(network, IMAGES)
    network.eval()
    with reading(network, feature) as read:
        network(IMAGES)
        first = read()
        network(2 * IMAGES)
        assert not torch.equal(first, read())
        assert torch.equal(embedded(network, feature, 2 * IMAGES)[1], read())


def test_no_pass_no_feature_and_no_hook_after_an_error(network):
    feature = find_feature(network, IMAGES)
    with (
        pytest.raises(ThinetError, match=r"fc\.1 was called 0 times"),
        reading(network, feature) as read,
    ):
        read()
    with pytest.raises(ThinetError, match="was called 0 times"):
        read()
    with pytest.raises(RuntimeError):
        embedded(network, feature, IMAGES[:, :2])
    assert hooks_of(network) == 0
    with reading(network, feature) as read:
        network(IMAGES)
    with pytest.raises(ThinetError, match="was called 0 times"):
        read()  # and nothing is held on to


def test_what_runs_otherwise_in_training_is_told():
    network = Net(
        lambda net, x: net.fc(pooled(x)) + (net.fc(pooled(x)) if net.training else 0), fc=head()
    )
    feature = find_feature(network, IMAGES)
    with pytest.raises(ThinetError, match="fc was called 2 times in a forward pass"):
        embedded(network.train(), feature, IMAGES)


def test_no_gradient_where_none_is_recorded(network):
    feature = find_feature(network, IMAGES)
    with torch.no_grad():
        logits, vectors = embedded(network, feature, IMAGES)
    assert not logits.requires_grad
    assert not vectors.requires_grad


def test_a_copy_is_read_by_itself(network):
    feature = find_feature(network, IMAGES)
    network.eval()
    with reading(network, feature) as read:
        network(IMAGES)
        before = read().clone()
        twin = copy.deepcopy(network)
        twin(2 * IMAGES)
        assert torch.equal(read(), before)
    twin = copy.deepcopy(network)
    assert hooks_of(twin) == 0
    with torch.no_grad():
        twin.conv.weight.zero_()
    assert torch.equal(embedded(network, feature, IMAGES)[1], before)
    assert not torch.equal(embedded(twin, feature, IMAGES)[1], before)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_within_autocast(network, half):
    feature = find_feature(network, IMAGES)
    network.train()
    with torch.autocast("cpu", half):
        logits, vectors = embedded(network, feature, IMAGES)
        assert find_feature(network, IMAGES) == feature
    assert logits.dtype == half
    assert vectors.requires_grad
    vectors.float().sum().backward()
    assert torch.isfinite(network.conv.weight.grad).all()


def test_inside_a_ddp_wrapper(network, tmp_path):
    torch.manual_seed(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/ddp", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(network)
        feature = find_feature(wrapped, IMAGES)
        assert feature == find_feature(network, IMAGES) == Feature("fc.1", 6)
        for _ in range(2):  # a second step fails if the first left the wrapper waiting
            for one in (network, wrapped):
                with reading(one, feature) as read:
                    logits = wrapped(IMAGES)
                    torch.testing.assert_close(logits, network.fc[1](read()))
                    (logits.sum() + read().square().sum()).backward()
            find_feature(wrapped, IMAGES)
        assert embedded(wrapped, feature, IMAGES)[1].shape == (4, 6)
    finally:
        distributed.destroy_process_group()


def test_on_a_gpu(network, gpu):
    expected = embedded(network.eval(), find_feature(network, IMAGES), IMAGES)
    network, images = network.to(gpu), IMAGES.to(gpu)
    before = torch.cuda.get_rng_state()
    feature = find_feature(network, images)
    assert feature == Feature("fc.1", 6)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    found = embedded(network, feature, images)
    for one, other in zip(found, expected, strict=True):
        assert one.device == gpu
        torch.testing.assert_close(one.cpu(), other)
    with torch.autocast("cuda", torch.bfloat16):
        vectors = embedded(network.train(), feature, images)[1]
    vectors.float().sum().backward()
    assert network.conv.weight.grad.device == gpu


def test_random_numbers_of_the_gpu_stay(gpu):
    network, images = noisy().to(gpu), IMAGES.to(gpu)
    run = network.end
    network.end = lambda net, x: (torch.rand(2, device=gpu), run(net, x))[1]
    before = torch.cuda.get_rng_state()
    find_feature(network, images)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    network.eval()(images)
    assert not torch.equal(torch.cuda.get_rng_state(), before)
