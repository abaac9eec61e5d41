"""The law is judged in full float32, whatever the caller has set up for speed.

GPUs convolve in TensorFloat-32 by default. Here a convolution errs as much as theirs do, as long as
torch's own switch allows it.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress

import pytest
import torch
from torch import nn

import thinet
from thinet.surgery import trace, trial, try_cut, without_autocast
from thinet.surgery.modes import full_float32

CPU = torch.device("cpu")
BACKENDS = torch.backends


def places():
    return (
        BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cuda.matmul,
        BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn, BACKENDS.mkldnn.matmul,
    )  # fmt: skip


def precisions():
    return [place.fp32_precision for place in places()]


@pytest.fixture(autouse=True)
def _as_before():
    before = precisions()
    flags = BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32
    yield
    # The older way to say so is kept apart by torch, which minds if both disagree.
    BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32 = flags
    for place, precision in zip(places(), before, strict=True):
        place.fp32_precision = precision


class TensorFloat32(nn.Conv2d):
    """Errs in the tenth bit of the mantissa, at another width in another way."""

    def forward(self, x):
        exact = super().forward(x)
        if BACKENDS.cudnn.conv.fp32_precision == "ieee":
            return exact
        return exact * (1 + 2.0**-11 * x.shape[1] / 24)


def deep(kind=nn.Conv2d, depth=12):
    torch.manual_seed(0)
    layers = []
    for place in range(depth):
        layers += [kind(3 if not place else 24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 64, 5)).eval()


def plan(network, images):
    with full_float32(CPU):
        graph = trace(network, images[:1])
    counts = dict.fromkeys(list(graph.groups)[:-2], 7)
    return graph, counts


def test_tensor_float_32_neither_refuses_a_right_cut_nor_stays_off():
    images = torch.randn(2, 3, 8, 8)
    network = deep(TensorFloat32)
    graph, counts = plan(network, images)
    BACKENDS.cudnn.conv.fp32_precision = "tf32"
    before = precisions()
    assert try_cut(network, graph, counts, images) is None
    assert precisions() == before


def test_the_simulated_rounding_is_beyond_the_tolerance(monkeypatch):
    # Or the test above would pass without any care for precision.
    images = torch.randn(2, 3, 8, 8)
    network = deep(TensorFloat32)
    graph, counts = plan(network, images)
    BACKENDS.cudnn.conv.fp32_precision = "tf32"
    monkeypatch.setattr(trial, "full_float32", lambda device: nullcontext())
    assert "changes its output" in try_cut(network, graph, counts, images)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
        lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
        lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    ],
)
def test_settings_come_back_even_after_an_error(ask):
    before = torch.get_float32_matmul_precision()
    try:
        ask()
        asked = precisions()
        inside = []
        with suppress(ZeroDivisionError), full_float32(CPU):
            inside += precisions()
            raise ZeroDivisionError
        assert set(inside) == {"ieee"}
        assert precisions() == asked
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_the_trial_does_not_refuse_a_right_cut(dtype):
    images = torch.randn(2, 3, 8, 8)
    network = deep()
    graph, counts = plan(network, images)
    with torch.autocast("cpu", dtype):
        assert network(images).dtype == dtype
        assert try_cut(network, graph, counts, images) is None
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_half_precision_are_judged_in_float32(dtype):
    images = torch.randn(2, 3, 8, 8).to(dtype)
    network = deep().to(dtype)
    graph, counts = plan(network, images)
    assert try_cut(network, graph, counts, images) is None
    assert network[0].weight.dtype == dtype


def test_prune_under_autocast_gives_the_same_bits():
    images = torch.randn(8, 3, 8, 8)
    network = deep(depth=3)
    alone = thinet.prune(network, [images])
    with torch.autocast("cpu", torch.bfloat16):
        under = thinet.prune(network, [images])
    assert [layer.kept for layer in under.layers] == [layer.kept for layer in alone.layers]
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(under.model.state_dict()[name], tensor), name


def test_autocast_is_off_only_inside():
    @without_autocast
    def look(weight, images):
        return (images @ weight).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert look(torch.ones(2, 2), torch.ones(2, 2)) == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
