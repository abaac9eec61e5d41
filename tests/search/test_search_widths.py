"""``thinet.search_widths``: what it trains, judges and finds is what it says."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import thinet
from tests.search.test_hypernet import laid_out, plain
from thinet.base.errors import ThinetError
from thinet.metrics import cost
from thinet.metrics.top1 import top1_error
from thinet.models.small_vgg import vgg_small
from thinet.search import Course, Evolution, Making, memory
from thinet.search.fitness import judge
from thinet.search.training import drawn, train_

QUICK = {
    "course": Course(epochs=2), "making": Making(hidden=4), "progress": False,
    "evolution": Evolution(population=6, generations=3, parents=2, mutations=3, crossovers=3),
}  # fmt: skip


def data(count, seed, batch=24):
    """Images whose class is the channel that is brightest."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=random)
    images = torch.randn(count, 3, 8, 8, generator=random)
    images[torch.arange(count), labels] += 1.5
    return [(images[k : k + batch], labels[k : k + batch]) for k in range(0, count, batch)]


TRAIN, VALIDATION = data(96, 0), data(48, 1)


def make():
    torch.manual_seed(0)
    return vgg_small(3, 8, widths=(8, 16))


def search(**more):
    return thinet.search_widths(make(), TRAIN, VALIDATION, **{**QUICK, **more})


def test_what_is_found_is_the_best_within_the_budget_and_can_be_pruned_to():
    network = make()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    found = thinet.search_widths(network, TRAIN, VALIDATION, "flops:0.5", **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert len(found.judged) == 18 == len({one.genes for one in found.judged})
    assert all(0.475 <= one.cost <= 0.5 for one in found.judged)
    assert [one.generation for one in found.judged] == [0] * 6 + [1] * 6 + [2] * 6
    assert found.error == min(one.error for one in found.judged)
    slim = thinet.prune(
        network, [images for images, _ in TRAIN], found.ratio, "weight_sum", "none", "all"
    ).model
    full, left = (thinet.cost(one, (3, 8, 8)).flops for one in (network, slim))
    assert left / full == pytest.approx(found.cost, rel=1e-9)
    widths = {name: module.out_channels for name, module in slim.named_modules()
              if isinstance(module, nn.Conv2d)}  # fmt: skip
    assert {name: widths[name] for name in found.counts} == found.counts
    assert found.uniform is not None
    assert len(set(found.uniform.genes)) == 1


def test_a_seed_is_a_search():
    one, two, other = search(seed=3), search(seed=3), search(seed=4)
    assert one == two
    assert one.judged != other.judged


def test_parameters_are_a_budget_too():
    found = search(target="params:0.3", tolerance=0.1)
    assert all(0.27 <= one.cost <= 0.3 for one in found.judged)


def test_it_learns_what_can_be_learnt():
    torch.manual_seed(0)
    net, _ = laid_out(make(), TRAIN[0][0], Making(hidden=8))
    told = []
    train_(net, TRAIN, Course(epochs=12, lr=0.1), 0, told.append)
    first, last = (float(line.rpartition(" ")[2]) for line in (told[0], told[-1]))
    assert last < 0.85 * first
    rng = np.random.default_rng(0)
    images = [one for one, _ in TRAIN]
    errors = [judge(net, drawn(net.space, rng), images, VALIDATION) for _ in range(5)]
    assert np.mean(errors) < 0.45  # of three classes


def test_the_rate_falls_in_a_line_once_the_length_of_an_epoch_is_known(monkeypatch):
    rates, step = [], torch.optim.SGD.step

    def note(self, closure=None):
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    net, _ = laid_out(make(), TRAIN[0][0], Making(hidden=4))
    train_(net, TRAIN, Course(epochs=3, lr=0.3), 0)
    assert len(TRAIN) == 4
    assert rates == pytest.approx([0.3] * 4 + [0.3 * (1 - k / 12) for k in range(4, 12)])


def test_a_judgement_is_that_of_the_plain_network_with_statistics_over_all_images():
    network = make()
    net, graph = laid_out(network, TRAIN[0][0], Making(hidden=8))
    rng = np.random.default_rng(0)
    images = [one for one, _ in TRAIN]
    before = copy.deepcopy(net.state_dict())
    for _ in range(4):
        genes = drawn(net.space, rng)
        slim = plain(network, graph, net, genes)
        for module in slim.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # a mean over all batches
        slim.train()
        with torch.no_grad():
            for one in images:
                slim(one)
        wrong = [(slim.eval()(x).argmax(1) != y).sum().item() for x, y in VALIDATION]
        found = judge(net, genes, images, VALIDATION)
        assert found == sum(wrong) / 48
        assert found == judge(net, genes, images, VALIDATION), "of what was judged before"
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


def test_errors_are_counted_over_all_images():
    class Third(nn.Module):
        """Sees class 0 everywhere."""

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

        def forward(self, images):
            return self.bias.expand(len(images), 3)

    labels = torch.cat([labels for _, labels in VALIDATION])
    assert top1_error(Third(), VALIDATION) == int((labels != 0).sum()) / 48


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))


def test_an_amount_is_the_fraction_that_it_is():
    full = cost(make(), (3, 8, 8)).macs
    found, same = search(target=f"macs:{full / 2e3!r}K"), search(target="flops:0.5")
    assert [one.genes for one in found.judged] == [one.genes for one in same.judged]
    assert all(0.475 <= one.cost <= 0.5 for one in found.judged)


REFUSED = {
    "an iterator": (make, {"train": iter(TRAIN)}, "train can be gone through only once"),
    "images alone": (make, {"train": [TRAIN[0][0]]}, r"where pairs of images \(N, C, H, W\)"),
    "few images to rank by": (
        make, {"validation": data(16, 2)}, r"16 images, too few to rank .* of up to 12 points",
    ),
    "no table": (
        make, {"target": "latency:0.5", "table": "nowhere.json"}, "table=nowhere.json is not there",
    ),
    "no budget": (make, {"target": "flops"}, "is not one of flops, macs, params, latency "),
    "more than there is": (make, {"target": "params:9M"}, "params:9M leaves nothing to save"),
    "out of reach": (make, {"target": "flops:0.001"}, r"out of reach: .* between 0\.0\d+ and 1"),
    "no group": (linear, {}, "no layer is left to prune"),
    "a wrong tolerance": (make, {"tolerance": "x"}, "tolerance"),
    "a window between two widths": (
        make, {"tolerance": 1e-7, "target": "flops:0.503"}, "pass a larger tolerance",
    ),
    "a wrong network": (lambda: 3, {}, "network"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_one_sentence(what):
    build, more, message = REFUSED[what]
    asked = {"train": TRAIN, "validation": VALIDATION, **QUICK, **more}
    with pytest.raises(ThinetError, match=message):
        thinet.search_widths(build(), **asked)


def test_a_rate_that_diverges_is_one_sentence():
    with pytest.raises(ThinetError, match=r"loss is nan .* course=Course\(lr=1e\+19\)"):
        search(course=Course(epochs=3, lr=1e20))


def test_a_hypernetwork_larger_than_memory_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10_000)
    with pytest.raises(ThinetError, match=r"takes about [\d.]+ GiB .*making=Making\(hidden=8\)"):
        search()


@pytest.mark.parametrize("hidden", [1, 9])
def test_the_size_on_paper_is_the_size(hidden):
    network = make()
    net, graph = laid_out(network, TRAIN[0][0], Making(hidden=hidden))
    made = sum(one.numel() for one in net.parameters())
    assert memory.count_parameters(network, graph, net.space, Making(hidden=hidden)) == made


def test_on_a_pretended_gpu_it_finds_what_the_cpu_finds(gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = thinet.search_widths(make().to(gpu), TRAIN, VALIDATION, **QUICK)
    assert there.judged == search().judged


def test_progress_is_told(capsys):
    search(progress=True)
    told = capsys.readouterr().err
    assert "hypernetwork: epoch 2 of 2, loss " in told
    assert "search: generation 3 of 3, error " in told


def test_a_judgement_draws_nothing():
    """Dropout stays off while statistics are estimated, and a last image alone is left out."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    net, _ = laid_out(network, torch.zeros(2, 3, 8, 8), Making(hidden=2))
    images = torch.randn(9, 3, 8, 8).split(4)
    held = [(torch.randn(200, 3, 8, 8), torch.randint(4, (200,)))]
    errors = {judge(net, net.space.top, images, held) for _ in range(4)}
    assert len(errors) == 1
    assert errors == {judge(net, net.space.top, images[:2], held)}
