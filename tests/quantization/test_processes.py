"""Binary layers in two processes: at the same global batch they learn what one process learns."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.app.conftest import ROOT, environment
from thinet.quantization.layers import BinaryConv2d, BinaryLinear
from thinet.quantization.settings import Quantizer

STEPS, RATE = 3, 0.1


def network(scale: str) -> nn.Module:
    torch.manual_seed(0)
    quantizer = Quantizer(2, scale)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        BinaryConv2d.like(nn.Conv2d(6, 8, 3, padding=1), quantizer, None),
        nn.Flatten(),
        BinaryLinear.like(nn.Linear(8 * 16, 5), quantizer, None),
    ).double()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 6, 6, generator=generator).double(), torch.arange(8) % 5)
        for _ in range(STEPS)
    ]


def learn(model: nn.Module, rank: int, world: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for images, labels in batches():
        loss = F.cross_entropy(model(images[rank::world]), labels[rank::world])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def share(rank: int, port: int, scale: str) -> None:
    """One of two processes; prints what it ends with."""
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    model = network(scale)
    learn(DistributedDataParallel(model), rank, 2)
    print(json.dumps([tensor.flatten().tolist() for tensor in model.state_dict().values()]))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
def test_two_processes_equal_one(scale):
    alone = copy.deepcopy(network(scale))
    learn(alone, 0, 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from tests.quantization.test_processes import share; share(%d, %d, %r)"
    started = [
        subprocess.Popen([sys.executable, "-c", program % (rank, port, scale)], cwd=ROOT,
                         env=environment(), text=True, stdout=subprocess.PIPE)
        for rank in range(2)
    ]  # fmt: skip
    try:
        found = [json.loads(one.communicate(timeout=120)[0]) for one in started]
    finally:
        for one in started:
            one.kill()
    for place, (key, wanted) in enumerate(alone.state_dict().items()):
        for ended in found:
            made = torch.tensor(ended[place], dtype=torch.float64)
            expected = wanted.flatten().double()
            torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-12, msg=key)
