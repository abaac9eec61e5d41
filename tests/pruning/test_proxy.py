"""What one-shot pruning says of widths: the networks that it judges, and its errors."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn.datasets import load_digits
from torch import nn

import thinet
from tests.pruning.test_gpu_prune import Residual
from thinet.base.errors import ThinetError
from thinet.metrics.top1 import top1_error
from thinet.models import build
from thinet.models.small_vgg import vgg_small
from thinet.pruning import oneshot
from thinet.pruning.criteria import L2, Criterion, Random
from thinet.pruning.group import Calibration
from thinet.pruning.oneshot import OneShot
from thinet.pruning.proxy import Prune
from thinet.pruning.reconstruction import Correction, Reconstruction, Refit
from thinet.pruning.registry import find, names
from thinet.pruning.statistics import Sampling
from thinet.run.settings import Settings
from thinet.surgery import recalibrate_, remove_, trace
from thinet.training.proxy import Evidence, Task
from thinet.widths.space import Space

CONF = Path(__file__).parents[2] / "conf"
MODELS = [path.stem for path in sorted((CONF / "model").glob("*.yaml"))]
ALIKE = (
    "resnet101", "resnet110", "resnet34", "resnet34_cifar", "resnet44", "resnet50_v1", "resnet56",
    "vgg11", "vgg13", "vgg13_bn", "vgg16_bn", "vgg19", "vgg19_bn", "mobilenet_v2_wide",
    "alexnet_half", "hinton_net_half", "lenet5_half",
)  # fmt: skip
"""Other depths and widths of networks that are tried: all of them passed once."""
LIBRARIES = {"torchvision": "squeezenet1_1", "timm": "resnet26d"}
LARGEST = 600
"""Unknowns of one output above which a fit takes its time."""
CPU = torch.device("cpu")


def images_of(count, size, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def made(name):
    """A network of ``conf/model`` that has seen a few images, and the size of those."""
    node = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["build"]
    if name in LIBRARIES:
        node["architecture"] = LIBRARIES[name]
    size = 64 if name.startswith("alexnet") or name in LIBRARIES else 32
    torch.manual_seed(0)
    network = build(node.pop("_target_"), **node, num_classes=10, image_size=size)
    for tensor in network.parameters():
        if tensor.dim() == 1:
            tensor.data.add_(0.1 * torch.randn(tensor.shape))
    recalibrate_(network, [images_of(8, size, 5)])
    return network.eval(), size


def task_of(network, size, groups=None):
    graph = trace(network, images_of(1, size))
    space = Space.of(graph, groups or graph.prunable(summed=True))
    return Task(network, graph, space, (3, size, size))


def one_shot(task, images, criterion=None, reconstruction=None, **sampling):
    return OneShot(
        task.network, task.graph, task.space.names, criterion or L2(), reconstruction or Refit(),
        Calibration(list(images), Sampling(**sampling), 64),
    )  # fmt: skip


def close(one, other, tolerance=1e-6):
    assert list(one) == list(other)
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=tolerance, atol=tolerance)


def cheap(graph):
    """Six groups or less, from the first to the last, that are fitted in no time."""
    found = [name for name in graph.prunable(summed=True)
             if max(one.unknowns for one in graph.groups[name].consumers) <= LARGEST]  # fmt: skip
    places = np.linspace(0, len(found) - 1, min(len(found), 6)).astype(int)
    return [found[place] for place in places]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ALIKE])
def test_where_one_group_is_cut_it_is_what_prune_gives(name):
    network, size = made(name)
    graph = trace(network, images_of(1, size))
    groups = cheap(graph)
    if not groups:
        pytest.skip("every layer is large, as those of its smaller sisters are not")
    images, rng = images_of(6, size, 1), np.random.default_rng(0)
    task = task_of(network, size, groups)
    shot = one_shot(task, images, positions=8)
    full = [graph.groups[one].units for one in groups]
    tried = 0
    for place in sorted({0, len(groups) // 2}):
        count = int(rng.integers(1, full[place])) if full[place] > 1 else 1
        counts = [*full[:place], count, *full[place + 1 :]]
        ratio = {groups[place]: count / full[place]}
        try:
            wanted = thinet.prune(
                network, [images], ratio, "l2", "refit", [groups[place]], recalibrate_bn="never",
                sampling=Sampling(positions=8),
            ).model.eval()  # fmt: skip
        except ThinetError:  # this layer cannot be cut
            continue
        found = shot.at(counts)
        close(dict(found.state_dict()), dict(wanted.state_dict()))
        with torch.no_grad():
            torch.testing.assert_close(found(images), wanted(images), rtol=1e-5, atol=1e-5)
        tried += 1
    assert tried or "binary" in name


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_any_widths_make_a_network_that_runs_and_is_as_small_as_it_says(name):
    network, size = made(name)
    graph = trace(network, images_of(1, size))
    groups = cheap(graph)
    if not groups:
        pytest.skip("every layer is large, as those of its smaller sisters are not")
    task = task_of(network, size, groups)
    images, rng = images_of(4, size, 1), np.random.default_rng(0)
    shot = one_shot(task, images, Random(), positions=8)
    for _ in range(2):
        counts = task.space.widths(tuple(rng.integers(0, 31, task.space.size).tolist()))
        keep = {one: range(count) for one, count in zip(groups, counts, strict=True)}
        plain = remove_(copy.deepcopy(network), graph, keep)
        found = shot.at(counts)
        shapes = {key: one.shape for key, one in found.state_dict().items()}
        assert shapes == {key: one.shape for key, one in plain.state_dict().items()}
        recalibrate_(found, [images])
        assert found(images).isfinite().all()


class Two(nn.Module):
    """Two layers whose outputs one layer reads."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.reader, self.head = nn.Conv2d(11, 7, 3), nn.Linear(7, 3)

    def forward(self, images):
        both = torch.cat([self.left(images).relu(), self.right(images).tanh()], dim=1)
        return self.head(self.reader(both).relu().mean((2, 3)))


@torch.no_grad()
def test_a_reader_of_two_groups_is_fitted_to_what_is_left_of_both():
    """Against numpy's least squares of the full network's outputs."""
    torch.manual_seed(0)
    network, images = Two().double().eval(), images_of(20, 7).double()
    task = task_of(network.float(), 7, ["left", "right"])
    network.double()
    shot = one_shot(task, images, L2(), Refit(ridge=1e-12), positions=None)
    found = shot.at([4, 2])
    orders = [shot._cuts["reader.weight"][0].orders[k] for k in (0, 1)]
    left, right = orders[0][:4].sort().values, orders[1][:2].sort().values
    assert int(right.max()) < 11
    channels = torch.cat([left, right])  # the right ones are numbered through: 6 to 10
    both = torch.cat([network.left(images).relu(), network.right(images).tanh()], dim=1)
    outputs = network.reader(both).flatten(2).transpose(1, 2).flatten(0, 1)
    rows = F.unfold(both[:, channels], 3).transpose(1, 2).flatten(0, 1)
    rows = np.column_stack([rows.numpy(), np.ones(len(rows))])
    wanted = np.linalg.lstsq(rows, outputs.numpy(), rcond=None)[0]
    weight = torch.from_numpy(wanted[:-1].T).view(7, 6, 3, 3)
    torch.testing.assert_close(found.reader.weight, weight, rtol=1e-5, atol=1e-6)
    bias = torch.from_numpy(wanted[-1])
    torch.testing.assert_close(found.reader.bias, bias, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.left.weight, network.left.weight[left])
    torch.testing.assert_close(found.right.bias, network.right.bias[right - 6])


@torch.no_grad()
@pytest.mark.parametrize("reconstruction", ["none", "scale"])
def test_others_than_a_fit_take_one_group_after_the_other(reconstruction):
    torch.manual_seed(0)
    network, images = Two().eval(), images_of(20, 7)
    task = task_of(network, 7, ["left", "right"])
    shot = one_shot(task, images, L2(), find("reconstruction", reconstruction, Reconstruction))
    found = shot.at([4, 2]).reader.weight.clone()
    alone = [shot.at(counts).reader.weight.clone() for counts in ([4, 5], [6, 2])]
    torch.testing.assert_close(found[:, :4], alone[0][:, :4])
    torch.testing.assert_close(found[:, 4:], alone[1][:, 6:])
    left, right = network.reader.weight[:, :6], network.reader.weight[:, 6:]
    assert torch.equal(shot.at([4, 5]).reader.weight[:, 4:], right), "nothing of it is cut"
    assert torch.equal(shot.at([6, 2]).reader.weight[:, :6], left)
    kept = shot.at([4, 5]).reader.weight[:, :4].unbind(1)
    known = [any(torch.equal(one, own) for own in left.unbind(1)) for one in kept]
    assert all(known) if reconstruction == "none" else not any(known)


class Shifting(Reconstruction):
    """Adds the number of units kept to what each reader puts out."""

    def correct(self, weight, consumer, keep, evidence):
        return Correction(weight, torch.full((len(weight),), float(len(keep))))

    def loss(self, readers, keep, evidence):
        return 0.0


@torch.no_grad()
def test_shifts_by_several_groups_add_up():
    torch.manual_seed(0)
    network = Two().eval()
    shot = one_shot(task_of(network, 7, ["left", "right"]), images_of(4, 7), L2(), Shifting())
    for counts, shift in (([4, 2], 6.0), ([6, 2], 2.0), ([6, 5], 0.0)):
        torch.testing.assert_close(shot.at(counts).reader.bias, network.reader.bias + shift)


def digits(count, start=0):
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None].repeat(1, 3, 1, 1) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = order[start : start + count]
    return images[chosen], torch.from_numpy(found.target)[chosen]


@pytest.fixture(scope="module")
def trained():
    """A small network that knows most of the digits."""
    torch.manual_seed(0)
    network = vgg_small(10, 8, widths=(16, 24)).train()
    images, labels = digits(1000)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(6):
        for part in torch.randperm(1000).split(100):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return network.eval()


def evidence(count=256, device=CPU):
    images, labels = digits(count)
    held = digits(600, 1000)
    batches = [(one.to(device), two.to(device))
               for one, two in zip(*(part.split(200) for part in held), strict=True)]  # fmt: skip
    return Evidence(list(zip(images.split(64), labels.split(64), strict=True)), batches)


def judge_of(network, device=CPU, count=256, **settings):
    engine = SimpleNamespace(seed=0, device=device)
    return Prune(**settings).judge(task_of(network, 8), None, evidence(count, device), engine)


def drawn(network, count, seed=0):
    space, rng = task_of(network, 8).space, np.random.default_rng(seed)
    return [tuple(rng.integers(0, 31, space.size).tolist()) for _ in range(count)]


def test_the_full_width_errs_as_the_network_and_narrow_ones_more(trained):
    network = copy.deepcopy(trained)
    judge = judge_of(network)
    errors = [judge((gene,) * len(drawn(network, 1)[0])) for gene in (30, 20, 14, 7, 2, 0)]
    recalibrate_(network, evidence().images(CPU))
    assert errors[0] == top1_error(network, evidence().validation) < 0.1
    assert errors[-1] > errors[-2] > errors[1] + 0.05
    assert all(after >= before - 0.02 for before, after in itertools.pairwise(errors))


def test_a_fit_errs_less_than_none_and_a_choice_less_than_chance(trained):
    genes = [(14,) * len(drawn(trained, 1)[0]), *drawn(trained, 3)]
    means = {
        kind: np.mean([judge_of(trained, criterion=kind[0], reconstruction=kind[1])(one)
                       for one in genes])
        for kind in (("thinet_refit", "refit"), ("thinet", "refit"), ("random", "none"))
    }  # fmt: skip
    best, second, worst = means.values()
    assert max(best, second) < worst - 0.05


def test_a_judgement_depends_on_nothing_before_it_and_changes_nothing(trained, monkeypatch):
    network = copy.deepcopy(trained)
    state, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    random = torch.get_rng_state()
    genes = drawn(network, 6)
    judge = judge_of(network)
    errors = [judge(one) for one in genes]
    assert len(set(errors)) > 1
    assert [judge(one) for one in reversed(genes)] == errors[::-1]
    assert [judge_of(network)(one) for one in genes[3:]] == errors[3:]
    monkeypatch.setattr(oneshot, "MEMORY", 0)  # nothing is remembered
    assert [judge(one) for one in genes[2:4]] == errors[2:4]
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    assert [m.training for m in network.modules()] == modes
    assert all(one.grad is None for one in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_of_candidates_are_the_same_bit_by_bit_in_any_order(trained):
    task = task_of(trained, 8)
    images, _ = digits(128)
    genes = drawn(trained, 4)
    kept = []
    for order in (genes, genes[::-1]):
        shot, found = one_shot(task, images), {}
        for one in order:
            network = shot.at(task.space.widths(one))
            found[one] = copy.deepcopy(dict(network.state_dict()))
            recalibrate_(network, [images])  # which is its own affair
        kept.append(found)
    for one in genes:
        for key, tensor in kept[0][one].items():
            assert torch.equal(tensor, kept[1][one][key])


@pytest.mark.parametrize("criterion", names("criteria", Criterion))
@pytest.mark.parametrize("reconstruction", names("reconstruction", Reconstruction))
def test_every_criterion_and_reconstruction_judges_alike_on_a_gpu(
    criterion, reconstruction, request
):
    torch.manual_seed(0)
    network = Residual().eval()
    genes = [(20, 9, 14, 5, 25, 17)[: task_of_four(network).space.size], (3,) * 10]
    errors = []
    for place in ("cpu", "gpu"):
        device = CPU if place == "cpu" else request.getfixturevalue("gpu")
        task = task_of_four(copy.deepcopy(network), device)
        images = images_of(32, 4).to(device)
        labels = (torch.arange(32) % 4).to(device)
        seen = Evidence(
            list(zip(images.split(16), labels.split(16), strict=True)), [(images, labels)]
        )
        engine = SimpleNamespace(seed=0, device=device)
        judge = Prune(criterion, reconstruction).judge(task, None, seen, engine)
        errors.append([judge(one[: task.space.size]) for one in genes])
    assert errors[0] == errors[1]


def task_of_four(network, device=CPU):
    graph = trace(network, images_of(1, 4))
    space = Space.of(graph, graph.prunable(summed=True))
    return Task(network.to(device), graph, space, (3, 4, 4))


def test_its_settings_are_those_of_its_file():
    settings = Settings({"proxy": yaml.safe_load((CONF / "proxy/prune.yaml").read_text()),
                         "seed": 0}, ["proxy"])  # fmt: skip
    made = settings.make("proxy.build", Prune)
    assert vars(made) == vars(Prune())
    assert (made.name, made.trained, made.learns) == ("prune", True, False)
    assert settings["proxy.name"] == made.name


SETUP = SimpleNamespace(seed=0)


def test_it_is_checked_on_paper():
    with torch.device("meta"):
        network, images = vgg_small(10, 8, widths=(8, 16)), torch.empty(1, 3, 8, 8)
    graph = trace(network, images)
    task = Task(network, graph, Space.of(graph, graph.prunable()), (3, 8, 8))
    assert all(Prune(one).check(task, SETUP) == 0 for one in names("criteria", Criterion))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"criterion": "best"}, r"there is no criterion 'best': choose among .*thinet"),
        ({"reconstruction": "all"}, r"there is no reconstruction 'all': choose among .*refit"),
        ({"criterion": 3}, r"criterion=3 is neither a name nor"),
        ({"reconstruction": Refit(target="original")}, r"take target=current"),
        ({"positions": 0}, r"calibration\.positions=0 is"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(settings, said):
    with pytest.raises(ThinetError, match=said):
        Prune(**settings)


def test_a_criterion_that_cannot_rank_a_group_is_refused_before_any_work():
    torch.manual_seed(0)
    task = task_of(Two(), 7, ["left"])
    with pytest.raises(ThinetError, match="BatchNorm"):
        Prune("bn_scale").check(task, SETUP)
