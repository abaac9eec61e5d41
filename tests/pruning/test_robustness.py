"""Networks and images as users have them: the right result, or one clear sentence.

Pains of the peers' users that are tested here: frozen parameters of which nothing is pruned,
tensor subclasses that break the graph, parametrised layers, silent no-ops, choices that differ from
device to device and batch to batch, errors that say nothing.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models, tv_tensors
from torchvision.models import swin_transformer

import thinet
from tests import warm
from thinet.base.errors import ThinetError
from thinet.pruning.reconstruction import Refit
from thinet.pruning.statistics import Sampling

IMAGES = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 5
CRITERIA = ["thinet", "thinet_omp", "thinet_refit", "lasso", "taylor", "activation_mean", "apoz",
            "l2", "bn_scale", "fpgm"]  # fmt: skip


def make(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(),
        nn.Conv2d(10, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 9, 5),
    )  # fmt: skip
    for k in (1, 4, 8):
        net[k].running_mean.normal_(0, 0.2)
        net[k].bias.data.normal_(0, 0.2)
        net[k].weight.data.uniform_(0.5, 1.5)
    return net


@pytest.fixture
def network():
    return make()


def outputs(net, images=IMAGES):
    with torch.no_grad():
        return copy.deepcopy(net).eval()(images)


def kept(result):
    return [record.kept for record in result.layers]


def sentence(*match):
    """An error of one line that holds these texts, in this order."""
    between = r"[^\n]*"
    return pytest.raises(ThinetError, match=r"\A" + between.join(["", *match, r"\Z"]))


# -- channels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reconstruction", ["none", "scale", "refit"])
@pytest.mark.parametrize("criterion", ["thinet", "thinet_omp", "thinet_refit", "lasso", "apoz"])
def test_a_dead_channel_goes_and_nothing_changes(network, criterion, reconstruction):
    network[1].weight.data[[2, 5]] = 0
    network[1].bias.data[[2, 5]] = -1.0
    result = thinet.prune(
        network, [IMAGES], 0.8, criterion, reconstruction, "0", recalibrate_bn="never"
    )
    assert kept(result) == [[0, 1, 3, 4, 6, 7, 8, 9]]
    torch.testing.assert_close(outputs(result.model), outputs(network), rtol=1e-3, atol=1e-4)


def test_of_duplicated_channels_one_is_enough(network):
    for tensor in (*network[0].parameters(), *network[1].parameters(), *network[1].buffers()):
        if tensor.dim():
            tensor.data[6:] = tensor.data[:4]
    result = thinet.prune(
        network, [IMAGES], 0.6, "thinet_refit", "refit", "0", recalibrate_bn="never"
    )
    (units,) = kept(result)
    assert sorted(unit % 6 for unit in units) == [0, 1, 2, 3, 4, 5]  # one of each
    torch.testing.assert_close(outputs(result.model), outputs(network), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("reconstruction", ["scale", "refit"])
def test_images_without_any_content(network, criterion, reconstruction):
    for value in (0.0, 0.7):
        batches = [(torch.full_like(IMAGES[:10], value), LABELS[:10])]
        result = thinet.prune(network, batches, 0.5, criterion, reconstruction)
        assert [len(units) for units in kept(result)] == [5, 4, 3]
        assert outputs(result.model).isfinite().all()


def test_a_network_that_maps_everything_to_zero(network):
    for parameter in network.parameters():
        parameter.data.zero_()
    result = thinet.prune(network, [IMAGES], 0.5, "thinet", "refit")
    assert outputs(result.model).isfinite().all()


def test_a_layer_of_one_filter_stays_and_the_others_go():
    net = nn.Sequential(
        nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)
    )
    result = thinet.prune(net, [IMAGES], 0.25, "thinet", "refit")
    assert [record.layer for record in result.layers] == ["2"]
    assert (result.model[0].out_channels, result.model[2].out_channels) == (1, 1)
    with sentence("0 cannot be pruned: one filter is all"):
        thinet.prune(net, [IMAGES], 0.5, layers=["0"])


class Shared(nn.Module):
    """A module used twice, and one that two modules read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)
        self.alias = self.b

    def forward(self, x):
        x = self.twice(F.relu(self.twice(F.relu(self.a(x)))))
        return self.head((F.relu(self.b(x)) * self.alias(-x).sigmoid()).mean((2, 3)))


@pytest.mark.parametrize("reconstruction", ["none", "scale", "refit", Refit(target="original")])
def test_a_shared_module_stays_shared(reconstruction):
    result = thinet.prune(Shared(), [IMAGES], 0.5, "thinet", reconstruction)
    assert {record.layer: len(record.kept) for record in result.layers} == {
        "a": 4, "twice": 4, "b": 3,
    }  # fmt: skip
    slim = result.model
    assert slim.alias is slim.b
    assert slim.twice.weight.shape == (4, 4, 3, 3)
    assert kept(result)[0] == kept(result)[1]  # the module reads what it makes
    assert outputs(slim).isfinite().all()


# -- parameters and modes ---------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
def test_frozen_layers_are_pruned_and_stay_frozen(network, criterion):
    expected = kept(thinet.prune(network, [(IMAGES, LABELS)], 0.5, criterion))
    frozen = copy.deepcopy(network).requires_grad_(False)
    partly = copy.deepcopy(network)
    partly[3].requires_grad_(False)
    for net in (frozen, partly):
        flags = {name: p.requires_grad for name, p in net.named_parameters()}
        result = thinet.prune(net, [(IMAGES, LABELS)], 0.5, criterion)
        assert kept(result) == expected
        assert {name: p.requires_grad for name, p in result.model.named_parameters()} == flags
        assert {name: p.requires_grad for name, p in net.named_parameters()} == flags


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_modes_and_weights_are_left_as_they_were(network, mode):
    network.train(mode != "eval")
    if mode == "mixed":  # a frozen BatchNorm in a network that trains
        network[1].eval()
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    flags, hooks = [p.requires_grad for p in network.parameters()], len(network._forward_hooks)
    result = thinet.prune(
        network, [(IMAGES, LABELS)], 0.5, "taylor", Refit(target="original"), recalibrate_bn="each"
    )
    for net in (network, result.model):
        assert [module.training for module in net.modules()] == modes
        assert [p.requires_grad for p in net.parameters()] == flags
        assert all(p.grad is None for p in net.parameters())
        assert [m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1] * 3
    assert len(network._forward_hooks) == hooks
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])
    other = thinet.prune(make().eval(), [IMAGES], 0.5)
    assert kept(other) == kept(thinet.prune(make().train(), [IMAGES], 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("criterion", ["thinet", "thinet_refit", "taylor", "lasso", "l2"])
@pytest.mark.parametrize("reconstruction", ["scale", "refit"])
def test_half_precision(network, dtype, criterion, reconstruction):
    batches = [(IMAGES.to(dtype), LABELS)]
    result = thinet.prune(network.to(dtype), batches, 0.5, criterion, reconstruction)
    assert [len(units) for units in kept(result)] == [5, 4, 3]
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert {b.dtype for b in result.model.buffers()} == {dtype, torch.int64}
    # The same network and images with exact arithmetic lead to much the same result.
    network, images = network.float(), IMAGES.to(dtype).float()
    single = thinet.prune(network, [(images, LABELS)], 0.5, criterion, reconstruction)
    if kept(result) == kept(single):
        half = outputs(result.model, IMAGES.to(dtype)).float()
        full = outputs(single.model, images)
        assert (half - full).norm() < 0.1 * full.norm()
    else:  # rounding decided between filters that are as good
        assert sum(a != b for a, b in zip(kept(result), kept(single), strict=True)) <= 2


def test_other_number_formats_are_one_sentence(network):
    with sentence("images are float16 but the network's weights are float32", "torch.float32"):
        thinet.prune(network, [IMAGES.half()])
    with sentence("images are float32 but the network's weights are bfloat16"):
        thinet.prune(network.bfloat16(), [IMAGES])
    with sentence("images are uint8"):
        thinet.prune(make(), [(IMAGES * 10).to(torch.uint8)])


def test_channels_last_is_kept(network):
    last = network.to(memory_format=torch.channels_last)
    result = thinet.prune(last, [IMAGES.contiguous(memory_format=torch.channels_last)], 0.5)
    for net in (last, result.model):
        for name, tensor in net.named_parameters():
            if tensor.dim() == 4:
                assert tensor.is_contiguous(memory_format=torch.channels_last), name
                assert not tensor.is_contiguous()
    plain = thinet.prune(make(), [IMAGES], 0.5)
    assert kept(plain) == kept(result)
    assert all(tensor.is_contiguous() for tensor in plain.model.parameters())
    torch.testing.assert_close(outputs(plain.model), outputs(result.model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("criterion", ["thinet", "taylor"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_all_the_same(network, criterion, context):
    expected = thinet.prune(network, [(IMAGES, LABELS)], 0.5, criterion)
    with context():
        batches = [(IMAGES.clone(), LABELS.clone())]
        result = thinet.prune(network, batches, 0.5, criterion)
    assert kept(result) == kept(expected)
    result.model(IMAGES).sum().backward()  # and the result can be trained
    assert all(p.grad is not None for p in result.model.parameters())


def test_images_may_be_a_subclass_of_tensor(network):
    result = thinet.prune(network, [(tv_tensors.Image(IMAGES), LABELS)], 0.5)
    assert kept(result) == kept(thinet.prune(network, [IMAGES], 0.5))
    assert all(type(p) is nn.Parameter for p in result.model.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.orthogonal,
    ],
)  # fmt: skip
def test_parametrised_layers_are_named_and_left_whole(network, wrap):
    wrap(network[3])
    result = thinet.prune(network, [IMAGES], 0.5)
    assert [record.layer for record in result.layers] == ["7"]
    assert result.skipped["3"] == "its weight is computed from other tensors"
    assert "computed weight" in result.skipped["0"]  # its channels are read by such a layer
    with sentence("layer 3 cannot be pruned: its weight is computed", "choose among 7"):
        thinet.prune(network, [IMAGES], layers=["3"])


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_that_cannot_be_copied(network):
    nn.utils.weight_norm(network[3])
    with sentence("cannot be copied", "parametrizations.weight_norm"):
        thinet.prune(network, [IMAGES])


# -- what is not possible ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 3, 7, 11])
def test_weights_that_are_not_finite(network, place, value):
    network[place].weight.data.view(-1)[0] = value
    for criterion, reconstruction in (("thinet", "scale"), ("l2", "none")):
        with sentence(rf"{place}\.weight holds values that are not finite"):
            thinet.prune(network, [IMAGES], 0.5, criterion, reconstruction)


def test_images_that_are_not_finite(network):
    with sentence("not finite", "NaN"):
        thinet.prune(network, [IMAGES * torch.nan])
    late = torch.cat([IMAGES, IMAGES[:1] * torch.nan])
    with sentence("not finite"):
        thinet.prune(network, [late])


def test_images_of_other_sizes(network):
    with sentence(r"does not run on images of shape \(2, 3, 7, 9\)", "size and type"):
        thinet.prune(network, [torch.randn(4, 3, 7, 9)])
    with sentence(r"does not run on images of shape \(2, 1, 6, 6\)"):
        thinet.prune(network, [torch.randn(4, 1, 6, 6)])
    with sentence(r"\(3, 6, 6\) and \(3, 8, 8\) are mixed"):
        thinet.prune(network, [IMAGES, torch.randn(4, 3, 8, 8)])


def test_networks_that_cannot_be_pruned():
    with sentence("no parameters"):
        thinet.prune(nn.Sequential(nn.ReLU(), nn.Flatten()), [IMAGES])
    with sentence("no layer is left to prune", "output"):
        thinet.prune(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), [IMAGES])
    softmax = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(64, 3))
    with sentence("no layer is left to prune", "_softmax is not known"):
        thinet.prune(softmax, [IMAGES])
    lazy = nn.Sequential(nn.LazyConv2d(6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    with sentence("0.weight has no shape yet"):
        thinet.prune(lazy, [IMAGES])


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(network):
    with sentence("TorchScript", "nn.Module"):
        thinet.prune(torch.jit.trace(network.eval(), IMAGES[:1]), [IMAGES])


def test_nothing_removed_is_an_error(network):
    for ratio in (1.0, 1, {"0": 1.0}):
        with sentence("nothing to prune", "smaller ratio"):
            thinet.prune(network, [IMAGES], ratio)
    with sentence("keeps every filter", "round_to=1"):
        thinet.prune(network, [IMAGES], 0.5, round_to=32)


def test_one_image_where_batch_norm_needs_two():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8),
        nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    with sentence("no variance", "at least two"):
        thinet.prune(net, [IMAGES[:1]])
    result = thinet.prune(net, [IMAGES[:1]], recalibrate_bn="never")
    assert outputs(result.model).isfinite().all()
    assert outputs(thinet.prune(net, [IMAGES[:5]], batch_size=1).model).isfinite().all()


# -- networks with layers that do not see the images -------------------------------------------


@pytest.mark.parametrize("criterion", ["thinet", "activation_mean", "taylor", "l2"])
def test_layers_that_do_not_depend_on_the_images_stay(criterion):
    """A table of position biases, as Swin v2 has it, has no rows that belong to an image."""
    torch.manual_seed(0)
    net = swin_transformer.SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=5, stochastic_depth_prob=0.0,
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    )  # fmt: skip
    result = thinet.prune(net, [(torch.randn(5, 3, 16, 16), LABELS[:5])], 0.5, criterion)
    layers = [record.layer for record in result.layers]
    assert layers == ["features.1.0.mlp.0", "features.3.0.mlp.0"]
    assert result.skipped["features.1.0.attn.cpb_mlp.0"] == "they do not depend on the images"


# -- the same choice however the images come ----------------------------------------------------


class Varied(nn.Module):
    """A stream, a depthwise and a grouped convolution, and linear units."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.deep = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.b, self.bn2 = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.grouped, self.fc = nn.Conv2d(8, 12, 3, groups=2), nn.Linear(12, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.b(F.relu(self.deep(F.relu(self.a(x)))))))
        return self.head(F.relu(self.fc(F.relu(self.grouped(x)).mean((2, 3)))))


VARIANTS = [
    ("thinet", "scale", {}), ("thinet", "refit", {"recalibrate_bn": "each"}),
    ("thinet", Refit(target="original"), {"recalibrate_bn": "each"}),
    ("thinet_refit", Refit(target="original"), {"target": "flops:0.5", "allocation": "error"}),
    ("thinet", "refit", {"sampling": Sampling(exact=True, positions=9)}),
    ("lasso", "refit", {}), ("taylor", "scale", {}), ("activation_mean", "scale", {}),
    ("thinet_omp", "scale", {}), ("l2", Refit(target="original"), {"layers": "inner"}),
]  # fmt: skip


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_the_batch_size_does_not_matter(variant):
    criterion, reconstruction, options = VARIANTS[variant]
    net, images = Varied().double(), IMAGES.double()
    results = [
        thinet.prune(
            net, [(images, LABELS)], 0.5, criterion, reconstruction,
            **{"layers": "all", **options}, batch_size=size,
        )
        for size in (1, 7, 64)
    ]  # fmt: skip
    assert kept(results[0]) == kept(results[1]) == kept(results[2])
    for other in results[1:]:
        for ours, theirs in zip(
            results[0].model.state_dict().values(), other.model.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    again = thinet.prune(  # nor does how the batches come
        net, [(images[:9], LABELS[:9]), (images[9:], LABELS[9:])], 0.5, criterion, reconstruction,
        **{"layers": "all", **options},
    )  # fmt: skip
    assert kept(again) == kept(results[0])


SCRIPT = """
import json, sys
import torch
from torch import nn
from torch.nn import functional as F
from thinet.pruning.criteria import *
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.reconstruction import Refit, Scale
from thinet.pruning.statistics import Reference, Sampling
from thinet.surgery import trace
{network}
def main(folder, rank, world):
    if world > 1:
        meeting = f"file://{{folder}}/meeting"
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=world)
    images = torch.randn(13, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for criterion, reconstruction, exact in [
        (ThiNetRefit(), Refit(target="original"), False), (ThiNet(), Refit(), True),
        (Lasso(), Scale(), False), (Taylor(), Refit(), False),
    ]:
        net = Varied().double().eval()
        reference = Reference(Varied().double().eval()) if reconstruction.aims_at_original else None
        calibration = Calibration(
            images, Sampling(seed=2, exact=exact), 3, rank, world, torch.arange(13) % 5, reference
        )
        graph = trace(net, images[:1])
        for name, count in (("stem", 4), ("a", 6), ("fc", 5)):
            records, graph = prune_groups_(
                net, graph, {{name: count}}, criterion, reconstruction, calibration,
                recalibrate=True,
            )
            found.append([[record.kept, record.rows] for record in records])
        found.append([float(tensor.double().abs().sum()) for tensor in net.state_dict().values()])
    with open(f"{{folder}}/{{world}}-{{rank}}.json", "w") as file:
        json.dump(found, file)
if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def test_two_processes_choose_as_one_does(tmp_path):
    """Pain of the peers' users: each device pruned other filters."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(network=inspect.getsource(Varied)))
    root = str(Path(thinet.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    running = [warm.start([*command, str(rank), "2"], env=environment) for rank in range(2)]
    alone: dict = {"__name__": "script"}
    exec(script.read_text(), alone)
    alone["main"](tmp_path, 0, 1)
    assert [process.wait(timeout=180) for process in running] == [0, 0]
    one, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    assert first == second  # to the last bit
    assert len(one) == len(first)
    for ours, theirs in zip(one, first, strict=True):
        if isinstance(ours[0], float):
            assert theirs == pytest.approx(ours, rel=1e-8)
        else:
            assert theirs == ours


def test_a_resnet_is_left_sound():
    """Everything at once on a network with shortcuts: forward, backward, train() and eval()."""
    torch.manual_seed(0)
    net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)
    images = torch.randn(6, 3, 32, 32)
    result = thinet.prune(net, [(images, LABELS[:6])], 0.5, layers="all")
    assert result.skipped == {"fc": "they are the network's output"}
    assert result.after.params < 0.3 * result.before.params
    for batch in (images, images[:2]):
        result.model.train()(batch).sum().backward()
    assert result.model.eval()(images[:1]).shape == (1, 5)
