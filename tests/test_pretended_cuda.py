"""The pretended device refuses what a GPU refuses, takes what it takes, and computes the same."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

MIXED = "same device.*cuda:0 and cpu"
REFUSED = {
    "a sum": lambda x, c: x + c,
    "a scalar of its own with a CPU tensor": lambda x, c: c * x[0],
    "a CPU scalar that is written": lambda x, c: torch.zeros(()).add_(x[0]),
    "a product": lambda x, c: x @ c,
    "a layer": lambda x, c: F.linear(x, c[None]),
    "a convolution": lambda x, c: F.conv1d(x[None, None], c[None, None]),
    "a batch norm": lambda x, c: F.batch_norm(x[None], c, c.abs()),
    "a concatenation": lambda x, c: torch.cat([x, c]),
    "a stack of scalars": lambda x, c: torch.stack([x[0], c[0]]),
    "a CPU mask in where": lambda x, c: torch.where(c > 0, x, x),
    "a CPU mask to fill": lambda x, c: x.masked_fill(c > 0, 0.0),
    "CPU indices of index_select": lambda x, c: x.index_select(0, torch.tensor([0])),
    "CPU indices of gather": lambda x, c: x.gather(0, torch.tensor([0])),
    "CPU indices of index_add_": lambda x, c: x.index_add_(0, torch.tensor([0]), x[:1]),
    "CPU values at indices": lambda x, c: x.__setitem__(torch.tensor([0, 1]), c[:2]),
    "isin": lambda x, c: torch.isin(x, c),
    "equal": lambda x, c: torch.equal(x, c),
    "a loss": lambda x, c: F.cross_entropy(x[None], torch.tensor([0])),
    "out": lambda x, c: torch.add(x, x, out=c),
}


@pytest.fixture
def pair(gpu):
    cpu = torch.tensor([0.5, -1.0, 2.0])
    return cpu.to(gpu), cpu


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses_to_mix(pair, what):
    with pytest.raises(RuntimeError, match=MIXED):
        REFUSED[what](*pair)


def test_it_refuses_the_other_way_too(gpu):
    layer, images = nn.Conv2d(3, 4, 3), torch.ones(1, 3, 4, 4)
    with pytest.raises(RuntimeError, match=MIXED):
        layer(images.cuda())
    with pytest.raises(RuntimeError, match=MIXED):
        layer.cuda()(images)
    with pytest.raises(RuntimeError, match="indices should be either on cpu"):
        images[torch.tensor([0], device=gpu)]
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        images.to("cuda:1")
    with pytest.raises(RuntimeError, match="cuda:0 and meta"):
        layer(images.to("meta"))


def test_it_is_not_for_numpy(pair):
    for read in (lambda x: x.numpy(), np.asarray, lambda x: x.detach().numpy()):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            read(pair[0])
    assert pair[0].cpu().numpy().tolist() == pair[0].tolist() == [0.5, -1.0, 2.0]


def test_it_has_a_generator_of_its_own(gpu):
    own = torch.Generator()
    for draw in (
        lambda: torch.randn(3, generator=own, device=gpu),
        lambda: torch.randperm(3, generator=own, device=gpu),
        lambda: torch.empty(3, device=gpu).uniform_(generator=own),
    ):
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
            draw()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[gpu]):
        first = torch.rand(3, device=gpu)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        assert torch.equal(torch.rand(3, device=gpu), first)
    assert not torch.equal(torch.rand(3, device=gpu), first), "its state was not forked"


def test_what_a_gpu_takes(pair):
    x, c = pair
    expected = c.clone()
    assert torch.equal((x * torch.tensor(2.0)).cpu(), c * 2), "a CPU scalar"
    assert x[torch.tensor([2, 0])].tolist() == [2.0, 0.5], "CPU indices"
    assert x[x > 0].tolist() == [0.5, 2.0]
    x[torch.tensor([0])] = 7.0
    x[1:] = c[1:]
    expected[0] = 7.0
    assert torch.equal(x.cpu(), expected)
    assert x.copy_(c).is_cuda
    assert torch.equal(x.cpu(), c)
    assert x.sum().item() == float(c.sum())
    assert f"{x.sum():.2f}" == "1.50"
    assert "device='cuda:0'" in repr(x)
    assert x.double().dtype == torch.float64
    x.squeeze_().unsqueeze_(0)
    assert x.shape == (1, 3)
    assert x.sum(dim=0).shape == (3,)


def test_where_things_lie(pair, gpu):
    x, c = pair
    there = [
        torch.tensor([1.0], device=gpu), torch.as_tensor([1], device="cuda"), c.cuda(), c.to(x),
        torch.arange(3, device=gpu), torch.zeros_like(c, device=gpu), x.new_tensor([1.0]),
        x.new_zeros(3), torch.zeros_like(x), F.one_hot(torch.tensor([0, 2]).cuda()), x.type_as(x),
        c.type_as(x), torch.eye(3, device=x.device), copy.deepcopy(x), x[0], x[None].T, x.detach(),
    ]  # fmt: skip
    for tensor in there:
        assert tensor.device == gpu
        assert tensor.is_cuda
        assert not tensor.is_meta
    for tensor in (x.cpu(), x.to("cpu"), x.to(c), x.type_as(c), torch.zeros(3), c):
        assert tensor.device.type == "cpu"
        assert not tensor.is_cuda
    for tensor in (torch.zeros(3, device="meta"), x.to("meta"), c.to("meta")):
        assert tensor.is_meta
    with gpu:
        assert nn.Linear(2, 2).weight.is_cuda
    assert x.to("cuda") is x
    assert x.cuda() is x
    assert c.cpu() is c


def test_modules_keep_their_parameters_when_they_move(gpu):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network.append(network[0])  # shared
    before = list(network.parameters())
    for place in ("cuda", "cpu", gpu):
        network.to(place)
        for old, new in zip(before, network.parameters(), strict=True):
            assert new is old
            assert isinstance(new, nn.Parameter)
            assert new.device.type == torch.device(place).type
    twin = copy.deepcopy(network)
    assert twin[0].weight is not network[0].weight
    assert twin[0].weight is twin[2].weight
    assert isinstance(twin[0].weight, nn.Parameter)
    assert network.half()[0].weight.dtype == torch.float16
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    network.load_state_dict(torch.load(file))
    assert network[0].weight.is_cuda


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_training_gives_the_bits_of_the_cpu(gpu, optimizer):
    images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % 3
    trained = []
    for device in ("cpu", gpu):
        network = make().to(device)
        update = optimizer(network.parameters(), lr=0.1)
        for _ in range(3):
            update.zero_grad()
            F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            update.step()
        with torch.inference_mode():
            trained.append([*network.cpu().state_dict().values(), network.eval()(images)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*trained, strict=True))


def test_a_gradient_on_the_wrong_device_is_refused(gpu):
    weight = nn.Parameter(torch.ones(3, device=gpu))
    with pytest.raises(RuntimeError, match="device"):
        weight.grad = torch.ones(3)
    (2 * weight).backward(torch.ones(3))
    with pytest.raises(RuntimeError, match=MIXED):
        torch.optim.SGD([weight], lr=0.1).step()


def test_autocast_lowers_what_it_lowers_on_a_gpu(gpu):
    network, images = make().to(gpu), torch.ones(2, 3, 6, 6, device=gpu)
    with torch.autocast("cuda", torch.bfloat16):
        found = network(images)
        loss = F.cross_entropy(found, torch.tensor([0, 1], device=gpu))
    assert found.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_names_of_operations_are_those_of_a_gpu(gpu):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    network = nn.Sequential(make(), nn.Dropout()).to(gpu)
    with Names():
        network(torch.ones(2, 3, 6, 6, device=gpu))
    assert {"aten::cudnn_batch_norm", "aten::native_dropout", "aten::addmm"} <= set(seen)


def test_it_is_gone_afterwards():
    from tests.pretended_cuda import pretended_cuda

    before = torch.cuda.is_available(), torch.cuda.device_count(), nn.Module._apply
    with pretended_cuda():
        assert torch.cuda.is_available()
        assert torch.cuda.get_device_capability()[0] >= 8
    assert (torch.cuda.is_available(), torch.cuda.device_count(), nn.Module._apply) == before
    assert type(torch.ones(1)) is torch.Tensor
