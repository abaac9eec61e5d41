"""A generated network is a plain one: same logits, same gradients, and really as small."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinet.models import build
from thinet.models.cifar_resnet import resnet20
from thinet.models.mobilenet_v1 import mobilenet_v1
from thinet.models.small_vgg import vgg_small
from thinet.search.hypernet import Generator, PruningNet
from thinet.search.settings import Making
from thinet.surgery import remove_, trace
from thinet.widths.space import Space

CONF = Path(__file__).parents[2] / "conf" / "model"
OTHERS = ("torchvision", "timm")  # whole libraries
BINARY = ("resnet18_binary", "resnet20_binary", "vgg_small_binary")
MODELS = [path.stem for path in sorted(CONF.glob("*.yaml"))
          if path.stem not in (*OTHERS, *BINARY) and "binary" not in path.stem]  # fmt: skip
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def made(name):
    arguments = yaml.safe_load((CONF / f"{name}.yaml").read_text())["build"]
    size = 64 if name.startswith("alexnet") else 32
    torch.manual_seed(0)
    network = build(arguments.pop("_target_"), **arguments, num_classes=10, image_size=size).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # which would be drawn twice
    return network, images


def laid_out(network, images, making):
    graph = trace(network, images[:1])
    space = Space.of(graph, graph.prunable(summed=True))
    torch.manual_seed(1)
    return PruningNet(network, graph, space, making), graph


def drawn(space, rng):
    return tuple(rng.integers(0, len(space.scales), space.size).tolist())


def plain(network, graph, net, genes):
    """The network cut to the widths, with what the generators make copied into it."""
    keep = {name: range(count) for name, count in net.space.counts(genes).items()}
    slim = remove_(copy.deepcopy(network), graph, keep)
    slim.load_state_dict({name: one.detach().clone() for name, one in net.tensors(genes).items()})
    return slim


LARGE = {"alexnet": 1, "vgg": 1, "resnet": 1, "mobilenet": 5}
"""How many vectors of each family's large networks; 20 of them took 4 minutes and agreed."""


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_it_is_the_plain_network(name):
    """In training mode: with statistics of no images yet deep networks overflow."""
    network, images = made(name)
    net, graph = laid_out(network, images, Making(hidden=1, affine=True))
    large = sum(one.numel() for one in network.parameters()) > 1e6
    vectors = next((n for kind, n in LARGE.items() if large and name.startswith(kind)), 20)
    rng = np.random.default_rng(0)
    net.train()
    for _ in range(vectors):
        genes = drawn(net.space, rng)
        slim = plain(network, graph, net, genes).train()
        found, wanted = net(images, genes), slim(images)
        assert found.isfinite().all()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        after = net.tensors(genes)
        for key, tensor in slim.named_buffers():
            torch.testing.assert_close(after[key], tensor)


@torch.no_grad()
def test_evaluated_it_is_the_plain_network_too():
    network = vgg_small(10, 32)
    net, graph = laid_out(network, IMAGES, Making(hidden=4))
    rng = np.random.default_rng(0)
    for _ in range(20):
        genes = drawn(net.space, rng)
        net.train()(IMAGES, genes)
        slim = plain(network, graph, net, genes).eval()
        torch.testing.assert_close(net.eval()(IMAGES, genes), slim(IMAGES))


@pytest.mark.parametrize("making", [
    Making(hidden=16), Making(hidden=16, rank=2), Making(hidden=16, shared=True),
    Making(hidden=16, blocks=("layer?.*",)), Making(hidden={"conv1.*": 9, "*": 16}, norms="one"),
], ids=["whole", "rank", "shared", "blocks", "one norm"])  # fmt: skip
def test_every_way_to_make_weights(making):
    network = resnet20(10, 32)
    net, graph = laid_out(network, IMAGES, making)
    genes = drawn(net.space, np.random.default_rng(1))
    net.train()
    slim = plain(network, graph, net, genes).train()
    torch.testing.assert_close(net(IMAGES, genes), slim(IMAGES))
    net(IMAGES, genes).square().sum().backward()
    gradients = [one.grad for one in net.generators.parameters()]
    assert all(one is not None and one.abs().sum() > 0 for one in gradients)


def test_ways_to_shrink_it_do():
    def size(making):
        net, _ = laid_out(resnet20(10, 32), IMAGES, making)
        return sum(one.numel() for one in net.parameters())

    whole = size(Making(hidden=8))
    assert size(Making(hidden=4)) < 0.6 * whole
    assert size(Making(hidden=8, rank=2)) < 0.2 * whole
    assert size(Making(hidden=8, shared=True)) < 0.5 * whole


def test_gradients_reach_what_is_used_and_nothing_else():
    network = vgg_small(10, 32, widths=(4, 8, 8))
    net, _ = laid_out(network, IMAGES, Making(hidden=5))
    genes = (10,) * net.space.size
    net.train()(IMAGES, genes).square().sum().backward()
    widths = net.space.counts(genes)
    assert sorted(name for name, one in net.named_parameters() if one.grad is None) == []
    learnt = {name.partition(".")[0] for name, _ in net.named_parameters()}
    assert learnt == {"generators", "learnt"}
    first = net.space.names[0]
    generator = net.generators[f"{first}.weight".replace(".", "/")]
    rows = generator.second.weight.grad.view(*generator.shape, -1)
    assert rows[: widths[first]].abs().sum() > 0
    assert rows[widths[first] :].abs().sum() == 0
    assert generator.first.weight.grad.abs().sum() > 0


def test_it_costs_what_the_drawn_widths_cost():
    network = mobilenet_v1(10, 32)
    net, graph = laid_out(network, IMAGES, Making(hidden=1))
    net.eval()
    for gene in (0, 15):
        genes = (gene,) * net.space.size
        slim = plain(network, graph, net, genes).eval()
        counts = []
        for run in (lambda genes=genes: net.at(genes), lambda slim=slim: slim):
            one = run()  # generated before it is counted
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                one(IMAGES)
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1]


def test_statistics_are_those_of_a_width():
    network = vgg_small(10, 32, widths=(4, 8))
    net, _ = laid_out(network, IMAGES, Making(hidden=2))
    name = next(one for one in net.state_dict() if one.endswith("running_mean"))
    before = net.state_dict()[name].clone()
    genes = (7,) * net.space.size
    net.train()(IMAGES, genes)
    after = net.state_dict()[name]
    changed = [gene for gene in range(31) if not torch.equal(before[gene], after[gene])]
    assert changed == [7]
    one, _ = laid_out(network, IMAGES, Making(hidden=2, norms="one"))
    assert one.state_dict()[name].dim() == 1


def test_a_shared_classifier_is_cut_where_a_group_leads_into_it():
    network = vgg_small(10, 32, widths=(4, 8))
    net, _ = laid_out(network, IMAGES, Making(hidden=2))
    genes = net.space.bottom
    tensors = net.tensors(genes)
    last = net.space.counts(genes)[net.space.names[-1]]
    linear = next(name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    assert tensors[f"{linear}.weight"].shape == (10, last)
    assert net.learnt[f"{linear}.weight".replace(".", "/")].shape == (10, 8)


def test_a_generator_is_two_layers_with_a_relu_between():
    generator = Generator(3, 5, (4, 2, 3, 3))
    scales = torch.tensor([0.4, 1.0, 0.7])
    hidden = (generator.first.weight @ scales + generator.first.bias).clamp_min(0)
    wanted = (generator.second.weight @ hidden + generator.second.bias).view(4, 2, 3, 3)
    torch.testing.assert_close(generator(scales), wanted)
    factors = Generator(3, 5, (4, 2, 3, 3), rank=2)
    made = factors.second(factors.first(scales).relu())
    left, right = made[:8].view(4, 2), made[8:].view(2, 18)
    torch.testing.assert_close(factors(scales), (left @ right).view(4, 2, 3, 3))
