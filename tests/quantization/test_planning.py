"""Which layers become binary, and what stands in front of them: by hand, of each architecture."""

from __future__ import annotations

from fnmatch import fnmatchcase
from unittest import mock

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from thinet.base.errors import ThinetError
from thinet.models.shift import Shift
from thinet.quantization import running
from thinet.quantization.convert import binarized
from thinet.quantization.planning import plan_conversion
from thinet.surgery import shared_copy

IMAGES = torch.empty(1, 3, 16, 16)
FIRST, LAST = "it is the first layer", "it is the last layer"


def reasons(conversion):
    return {one.layer: one.reason for one in conversion.decisions if one.reason}


def zoo(name, size):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    return network, plan_conversion(network, torch.empty(1, 3, size, size))


def matching(names, *globs):
    return {name for name in names if any(fnmatchcase(name, glob) for glob in globs)}


def test_vgg_with_batchnorm_loses_the_relus_before_its_convolutions():
    network, found = zoo("vgg11_bn", 32)
    # Convolutions 4, 8, 15, 22 and classifier.0 read a max-pool, classifier.3 a ReLU without norm.
    convs = ["4", "8", "11", "15", "18", "22", "25"]
    assert found.binary == (*(f"features.{one}" for one in convs), "classifier.0", "classifier.3")
    pooled = ["features.4", "features.8", "features.15", "features.22"]
    assert found.norms == (*pooled, "classifier.0", "classifier.3")
    relus = [path for path, one in network.named_modules() if isinstance(one, nn.ReLU)]
    assert found.removed == tuple(relus[:8])
    assert found.in_front == ("features.9", "features.16", "features.23")
    assert reasons(found) == {"features.0": FIRST, "classifier.6": LAST}
    assert [one.layer for one in found.decisions][:2] == ["features.0", "features.4"]
    assert {one.kind for one in found.decisions} == {"conv 3x3", "linear"}


def test_vgg_without_batchnorm_keeps_all_relus_and_gets_all_norms():
    _, found = zoo("vgg11", 32)
    assert len(found.binary) == 9
    assert found.norms == found.binary
    assert found.removed == ()


def test_resnet_keeps_the_relus_that_several_layers_share():
    network, found = zoo("resnet18", 32)
    convs = [path for path, one in network.named_modules() if isinstance(one, nn.Conv2d)]
    assert set(found.binary) == {*convs} - {"conv1"}
    assert found.norms == found.binary
    assert found.removed == ()
    assert reasons(found) == {"conv1": FIRST, "fc": LAST}


def test_densenet_has_the_right_order_already():
    network, found = zoo("densenet121", 32)
    modules = dict(network.named_modules())
    convs = [path for path, one in modules.items() if isinstance(one, nn.Conv2d)]
    assert set(found.binary) == {*convs} - {"features.conv0"}
    assert found.norms == ()
    relus = {path for path, one in modules.items() if isinstance(one, nn.ReLU)}
    assert set(found.removed) == relus - {"features.relu0"}
    norms = {path for path, one in modules.items() if isinstance(one, nn.BatchNorm2d)}
    assert set(found.in_front) == norms - {"features.norm0", "features.norm5"}


def test_mobilenet_keeps_depthwise_convolutions_in_floating_point():
    network, found = zoo("mobilenet_v2", 32)
    grouped = {
        path for path, one in network.named_modules()
        if isinstance(one, nn.Conv2d) and one.groups > 1
    }  # fmt: skip
    stay = reasons(found)
    assert {path for path, why in stay.items() if "grouped" in why} == grouped
    assert {*stay} - grouped == {"features.0.0", "classifier.1"}
    # An expansion reads a BatchNorm itself where the block before it adds no shortcut.
    blocks = network.features
    plain = [k for k in range(1, 18) if not blocks[k].use_res_connect]
    direct = {f"features.{k + 1}.conv.0.0" for k in plain if k < 17} | {"features.18.0"}
    assert {*found.binary} - {*found.norms} == direct
    assert len(direct) == 7
    assert found.removed == ()  # ReLU6 is another thing


def test_a_vision_transformer_has_binary_mlps_alone():
    _, found = zoo("vit_b_32", 224)
    mlps = {f"encoder.layers.encoder_layer_{k}.mlp.{part}" for k in range(12) for part in (0, 3)}
    assert set(found.binary) == mlps
    assert found.norms == found.binary  # behind LayerNorm or GELU
    stay = reasons(found)
    assert len(matching(stay, "*.self_attention.out_proj")) == 12
    assert {*stay} - matching(stay, "*.out_proj") == {"conv_proj", "heads.head"}


def test_inception_leaves_its_auxiliary_head_alone():
    network, found = zoo("inception_v3", 299)
    convs = [path for path, one in network.named_modules() if isinstance(one, nn.Conv2d)]
    aside = {"AuxLogits.conv0.conv", "AuxLogits.conv1.conv", "AuxLogits.fc"}
    assert set(found.binary) == {*convs} - {"Conv2d_1a_3x3.conv"} - aside
    assert found.norms == found.binary  # functional ReLUs
    assert {reasons(found)[path] for path in aside} == {"it does not run in eval() mode"}
    assert [one.layer for one in found.decisions][-3:] == sorted(aside)


class Chain(nn.Module):
    """A stem, what is between, a layer that may become binary, and a head."""

    def __init__(self, *between, layer=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.between = nn.Sequential(*between)
        self.layer = layer or nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        return self.head(self.layer(self.between(self.stem(images))).flatten(2).mean(2))


class Also(nn.Module):
    """Something else reads the rectified map."""

    def __init__(self, change=lambda x: x + 1):
        super().__init__()
        self.bn, self.relu, self.change = nn.BatchNorm2d(16), nn.ReLU(), change

    def forward(self, x):
        x = self.relu(self.bn(x))
        self.change(x)
        return x


class Early(Also):
    """Something reads the BatchNorm before a ReLU writes over it."""

    def forward(self, x):
        x = self.bn(x)
        early = x * 2
        x = self.relu(x)
        return torch.cat([x, early[:, :0]], 1) if self.change is None else x


class Act(nn.BatchNorm2d):
    """BatchNorm with its activation inside, as in timm."""

    def __init__(self, inplace=False):
        super().__init__(16)
        self.act = nn.ReLU(inplace)

    def forward(self, x):
        return self.act(super().forward(x))


class Inner(nn.BatchNorm2d):
    """BatchNorm with a functional activation inside."""

    def forward(self, x):
        return F.relu(super().forward(x))


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.bn, self.function = nn.BatchNorm2d(16), function

    def forward(self, x):
        return self.function(self.bn(x))


def bn():
    return nn.BatchNorm2d(16)


# What is between; whether the layer gets a norm; which modules go.
BETWEEN = {
    "nothing": ([], True, ()),
    "a norm": ([bn()], False, ()),
    "a norm without weights": ([nn.BatchNorm2d(16, affine=False)], False, ()),
    "a norm and a shift": ([bn(), Shift(16)], False, ()),
    "a shift alone": ([Shift(16)], True, ()),
    "another norm": ([nn.GroupNorm(4, 16)], True, ()),
    "a norm of each image": ([nn.InstanceNorm2d(16, track_running_stats=True)], True, ()),
    "relu": ([bn(), nn.ReLU()], False, ("between.1",)),
    "relu in place": ([bn(), nn.ReLU(inplace=True)], False, ("between.1",)),
    "relu without a norm": ([nn.ReLU()], True, ()),
    "relu before the norm": ([nn.ReLU(), bn()], False, ()),
    "relu and dropout": ([bn(), nn.ReLU(), nn.Dropout()], False, ("between.1",)),
    "relu and identity": ([bn(), nn.Identity(), nn.ReLU()], False, ("between.2",)),
    "relu and a pool": ([bn(), nn.ReLU(True), nn.MaxPool2d(2)], True, ("between.1",)),
    "relu and two pools": (
        [bn(), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)], True, ("between.1",),
    ),
    "a pool before relu": ([bn(), nn.MaxPool2d(2), nn.ReLU()], True, ()),
    "two relus": ([bn(), nn.ReLU(), nn.ReLU()], True, ()),
    "relu6": ([bn(), nn.ReLU6()], True, ()),
    "silu": ([bn(), nn.SiLU()], True, ()),
    "gelu": ([bn(), nn.GELU()], True, ()),
    "leaky": ([bn(), nn.LeakyReLU()], True, ()),
    "sigmoid": ([bn(), nn.Sigmoid()], True, ()),
    "functional relu": ([Functional(F.relu)], True, ()),
    "functional relu in place": ([Functional(F.relu_)], True, ()),
    "functional pool": ([bn(), nn.ReLU(), Functional(lambda x: F.max_pool2d(x, 2))], True, ()),
    "a view": ([Functional(lambda x: x.flatten(2).unflatten(2, (16, 16)))], False, ()),
    "a copy": ([Functional(lambda x: x.clone().contiguous())], False, ()),
    "a change in place": ([Functional(lambda x: x.abs_())], True, ()),
    "a change of a view": ([Functional(lambda x: (x[:, 2:].abs_(), x)[1])], True, ()),
    "relu in a norm": ([Act()], False, ("between.0.act",)),
    "relu in a norm in place": ([Act(inplace=True)], False, ("between.0.act",)),
    "functional relu in a norm": ([Inner(16)], True, ()),
    "relu read by others": ([Also()], True, ()),
    "relu changed by others": ([Also(lambda x: x.mul_(2))], True, ()),
    "relu whose shape others read": ([Also(lambda x: x.shape)], False, ("between.0.relu",)),
    "a norm read before its relu": ([Early()], False, ("between.0.relu",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_what_stands_between(case):
    between, norm, removed = BETWEEN[case]
    network = Chain(*between)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = plan_conversion(network, IMAGES)
    assert found.binary == ("layer",)
    assert found.norms == (("layer",) if norm else ())
    assert found.removed == removed
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    with mock.patch.object(running, "shared_copy", with_numbers):
        assert plan_conversion(network, IMAGES) == found
    assert plan_conversion(network.to("meta"), IMAGES) == found


def with_numbers(network, device=None):
    """As of a network that does not run without."""
    if device is not None:
        raise NotImplementedError
    return shared_copy(network)


def test_a_relu_that_is_used_twice_stays():
    relu = nn.ReLU()
    found = plan_conversion(Chain(relu, bn(), relu), IMAGES)
    assert (found.norms, found.removed) == (("layer",), ())


def test_a_relu_stays_if_a_layer_in_floating_point_reads_it():
    class Fork(Chain):
        def forward(self, images):
            x = self.between(self.stem(images))
            return self.head((self.layer(x) + self.beside(x)).mean((2, 3)))

    network = Fork(bn(), nn.ReLU())
    network.beside = nn.Conv2d(16, 16, 3)
    both = plan_conversion(network, IMAGES)
    assert (both.binary, both.norms, both.removed) == (("layer", "beside"), (), ("between.1",))
    one = plan_conversion(network, IMAGES, ["layer"])
    assert (one.binary, one.norms, one.removed) == (("layer",), ("layer",), ())


def test_a_relu_that_is_part_of_the_output_stays():
    class Features(Chain):
        def forward(self, images):
            x = self.between(self.stem(images))
            return self.head(self.layer(x).mean((2, 3))), [x[:, :4]]

    found = plan_conversion(Features(bn(), nn.ReLU()), IMAGES)
    assert (found.norms, found.removed) == (("layer",), ())


def test_a_relu_with_a_hook_of_its_owner_stays():
    network = Chain(bn(), nn.ReLU())
    network.between[1].register_forward_hook(lambda *_: None)
    assert plan_conversion(network, IMAGES).removed == ()


class Odd(nn.Module):
    """Layers in unusual places."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.tied, self.tie = nn.Linear(16, 16), nn.Linear(16, 16)
        self.tie.weight = self.tied.weight
        self.read, self.named = nn.Linear(16, 16), nn.Linear(16, 16)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.hooked, self.asleep = nn.Linear(16, 16), nn.Linear(16, 16)
        self.hooked.register_forward_hook(lambda *_: None)
        self.flat = nn.Conv1d(16, 16, 1)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(16, 5), nn.Linear(16, 7)])
        self.again = self.named

    def forward(self, images):
        x = self.twice(self.twice(self.stem(images))).mean((2, 3))
        x = self.tie(self.tied(x)) + F.linear(x, self.read.weight)
        x = self.hooked(self.normed(self.again(x)))
        if self.training:
            x = self.asleep(x)
        x = self.encoder(self.flat(x.unsqueeze(2)).squeeze(2).unsqueeze(1)).squeeze(1)
        return {"one": self.heads[0](x), "two": [self.heads[1](x)]}


def test_odd_layers_stay_with_a_reason():
    found = plan_conversion(Odd(), IMAGES)
    assert found.binary == ("twice", "named")
    plain = "is no plain Conv2d or Linear"
    assert reasons(found) == {
        "stem": FIRST,
        "tied": "its weight is shared with another layer",
        "tie": "its weight is shared with another layer",
        "read": "other code reads its weight",
        "normed": "its weight is computed from other tensors",
        "hooked": "it has hooks, which a new layer would lose",
        "asleep": "it does not run in eval() mode",
        "flat": f"Conv1d {plain}",
        "encoder.self_attn.out_proj": f"NonDynamicallyQuantizableLinear {plain}",
        "encoder.linear1": "other code reads its weight",
        "encoder.linear2": "other code reads its weight",
        "heads.0": LAST,
        "heads.1": LAST,
    }
    with mock.patch.object(running, "shared_copy", with_numbers):
        assert plan_conversion(Odd(), IMAGES) == found
    with torch.device("meta"):
        assert plan_conversion(Odd(), IMAGES) == found


class Held(Chain):
    """Layers in a plain list, which is not looked into when modules are replaced."""

    def __init__(self):
        super().__init__(bn(), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.held = [self.between[1], self.layer]

    def forward(self, images):
        x = self.between[2](self.held[0](self.between[0](self.stem(images))))
        return self.head(self.held[1](x).mean((2, 3)))


class Direct(Chain):
    def forward(self, images):
        return self.head(self.layer.forward(self.between(self.stem(images))).mean((2, 3)))


class Read(Chain):
    def forward(self, images):
        x = self.stem(images)
        x = self.layer(x) + F.conv2d(x, self.layer.weight.data)
        return self.head(self.between(x).mean((2, 3)))


class Single(Chain):
    """Runs a layer image by image, without an axis for them."""

    def forward(self, images):
        x = torch.stack([self.layer(one) for one in self.stem(images)])
        return self.head(self.between(x).mean((2, 3)))


class Position(Chain):
    def forward(self, images):
        x = self.stem(images)
        x = x + self.layer(torch.ones(2, 16, 3, 3, device=x.device)).mean(0)
        return self.head(self.between(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Direct, "other code reads its weight"),
        (Read, "other code reads its weight"),
        (Single, "it reads something that is no batch"),
        (Position, "what it reads does not depend on the images"),
    ],
)
def test_layers_in_odd_use_stay(kind, reason):
    found = plan_conversion(kind(nn.Conv2d(16, 16, 3)), IMAGES)
    assert found.binary == ("between.0",)
    assert reasons(found)["layer"] == reason


def test_what_is_held_beside_its_name_stays():
    found = plan_conversion(Held(), IMAGES)
    assert (found.binary, found.norms, found.removed) == (("between.2",), ("between.2",), ())
    assert reasons(found)["layer"] == "its network holds it in a place beside its name"


def test_wrappers_and_scripted_parts_are_looked_through():
    network = Chain(bn(), nn.ReLU(), torch.jit.script(nn.Sequential(nn.Conv2d(16, 16, 3))))
    found = plan_conversion(network, IMAGES)
    assert (found.binary, found.norms, found.removed) == (("layer",), ("layer",), ())
    found = plan_conversion(nn.DataParallel(Chain(bn(), nn.ReLU())), IMAGES)
    assert (found.binary, found.removed) == (("module.layer",), ("module.between.1",))


def test_a_network_that_cannot_be_copied_is_one_sentence():
    network = Chain()
    prune.l1_unstructured(network.layer, "weight", 0.5)
    with pytest.raises(ThinetError, match=r"cannot be copied .* call prune\.remove first"):
        plan_conversion(network, IMAGES)
    prune.remove(network.layer, "weight")
    assert plan_conversion(network, IMAGES).binary == ("layer",)


def test_a_network_that_needs_two_images_gets_them():
    class Two(Chain):
        def forward(self, images):
            assert len(images) > 1
            return super().forward(images)

    assert plan_conversion(Two(), torch.empty(3, 3, 16, 16)).binary == ("layer",)


def test_a_network_that_needs_numbers_is_planned_alike():
    class Needs(Chain):
        def forward(self, images):
            x = self.stem(images)
            return super().forward(images) if x.sum().item() > -1e9 else x

    network = Needs(bn(), nn.ReLU())
    found = plan_conversion(network, IMAGES)
    assert (found.binary, found.norms, found.removed) == (("layer",), (), ("between.1",))
    with pytest.raises(ThinetError, match="does not run on images of shape"):
        plan_conversion(network.to("meta"), IMAGES)


def test_names_overrule_what_is_only_advised():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(2304, 5)
    )
    with pytest.raises(ThinetError, match=r"all layers are too narrow: 1 .* a wider network"):
        plan_conversion(network, IMAGES)
    assert plan_conversion(network, IMAGES, "1").binary == ("1",)
    assert plan_conversion(network, IMAGES, ["0", "3"]).binary == ("0", "3")
    with pytest.raises(ThinetError, match="all layers are too narrow"):
        plan_conversion(network, IMAGES, "*")


def test_layers_that_are_not_named_stay():
    found = plan_conversion(Chain(bn(), nn.Conv2d(16, 16, 3)), IMAGES, ["bet*"])
    assert found.binary == ("between.1",)
    assert reasons(found)["layer"] == "it is not among layers"


def poisoned(value=float("nan"), dtype=torch.float32):
    network = Chain()
    network.layer.weight = nn.Parameter(torch.full((16, 16, 3, 3), value, dtype=dtype))
    return network


def poisoned_stem():
    network = Chain(bn(), nn.Conv2d(16, 16, 3))
    network.between[0].running_var[3] = float("nan")
    return network


def already():
    return binarized(Chain(), 2, "sample", 1.0, ["layer"], [], [])


def grouped():
    return Chain(layer=nn.Conv2d(16, 16, 3, groups=2))


def two():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.Linear(16, 5))


@pytest.mark.parametrize(
    ("network", "layers", "sentence"),
    [
        (Chain(), "layre", r"'layre' matches no layer; did you mean 'layer'\? choose among stem"),
        (Chain(), ["layer", 3], "is not a name, a glob or a list"),
        (Chain(), [], "is not a name, a glob or a list"),
        (grouped(), "layer", "layer cannot become binary: .*grouped"),
        (grouped(), "auto", "no layer is left .*grouped: 1 of 3"),
        (two(), "auto", "a first and a last layer alone"),
        (nn.Flatten(), "auto", "no convolution and no linear layer"),
        (poisoned(), "auto", r"layer\.weight holds values that are not finite"),
        (poisoned(float("inf")), "auto", r"layer\.weight holds values that are not finite"),
        (poisoned(1.0, torch.complex64), "auto", r"layer\.weight holds torch\.complex64"),
        (poisoned_stem(), "auto", r"between\.0\.running_var holds values that are not finite"),
        (Chain().to(torch.complex64), "auto", r"stem\.weight holds torch\.complex64"),
        (already(), "auto", "layer is binary already"),
        (nn.Sequential(nn.LazyConv2d(16, 3), nn.Conv2d(16, 16, 3)), "auto", "has no shape yet"),
        (nn.Sequential(nn.Conv2d(7, 16, 3)), "auto", "does not run on images of shape"),
        ("resnet18", "auto", "it has to be a torch.nn.Module"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(network, layers, sentence):
    with pytest.raises(ThinetError, match=sentence) as error:
        plan_conversion(network, IMAGES, layers)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_precision_are_fine(dtype):
    assert plan_conversion(Chain().to(dtype), IMAGES).binary == ("layer",)
