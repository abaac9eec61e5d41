"""Binary layers in two processes: at the same global batch they learn what one process learns."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tests import warm
from tests.app.conftest import ROOT, environment
from thinet.quantization.layers import BinaryConv2d, BinaryLinear
from thinet.quantization.settings import SCALES, Quantizer

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


def share(rank: int, port: int) -> None:
    """One of two processes; prints what it ends with, by scale."""
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    found = {}
    for scale in SCALES:
        model = network(scale)
        learn(DistributedDataParallel(model), rank, 2)
        found[scale] = [tensor.flatten().tolist() for tensor in model.state_dict().values()]
    print(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shares():
    """What both processes end with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from tests.quantization.test_processes import share; share(%d, %d)"
    started = [
        warm.start([sys.executable, "-c", program % (rank, port)], cwd=ROOT,
                   env=environment(), text=True, stdout=subprocess.PIPE)
        for rank in range(2)
    ]  # fmt: skip
    try:
        return [json.loads(one.communicate(timeout=120)[0]) for one in started]
    finally:
        for one in started:
            one.kill()


@pytest.mark.parametrize("scale", SCALES)
def test_two_processes_equal_one(scale, shares):
    alone = network(scale)
    learn(alone, 0, 1)
    for place, (key, wanted) in enumerate(alone.state_dict().items()):
        for ended in shares:
            made = torch.tensor(ended[scale][place], dtype=torch.float64)
            expected = wanted.flatten().double()
            torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-12, msg=key)
