"""Latency from a table: on a machine of our own, whose times are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.metrics import (
    given_table,
    kept_table,
    latency_timing,
    measure_latency,
    read_table,
    write_table,
)
from thinet.metrics.latency_fit import Reading, design, drawn, fitted, rising
from thinet.metrics.latency_table import Prediction
from thinet.models.cifar_resnet import resnet14
from thinet.models.mobilenet_v1 import mobilenet_v1
from thinet.surgery import remove_, shared_copy, trace

SHAPE = (3, 8, 8)
CONVS = (nn.Conv2d, nn.Linear)


class Machine:
    """Tells the time: so much for each layer's widths, more if a stamp is taken."""

    def __init__(self, seconds=None, stamp=2e-6, noise=0.0):
        self.now, self.stamp, self.seconds = 0.0, stamp, seconds or self.of_products
        self.random, self.noise = np.random.default_rng(0), noise

    def __deepcopy__(self, memo):
        return self  # networks are copied with their hooks, and there is one clock

    def of_products(self, module):
        out, into = module.weight.shape[:2]
        return 1e-5 + 1e-7 * out + 3e-8 * out * into

    def perf_counter(self):
        self.now += self.stamp
        return self.now

    def work(self, module, *_):
        self.now += self.seconds(module) * (1 + self.noise * self.random.random())

    def listen(self, network):
        for module in network.modules():
            if isinstance(module, CONVS):
                module.register_forward_hook(self.work)
        return network

    def whole(self, network):
        """Milliseconds of a network without stamps, but for the one at its end."""
        layers = [one for one in network.modules() if isinstance(one, CONVS)]
        return 1e3 * (self.stamp + sum(self.seconds(one) for one in layers))


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(),
        nn.Conv2d(20, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


NETWORKS = {
    "a sequence": small, "a residual network": lambda: resnet14(10, 8),
    "one with depthwise convolutions": lambda: mobilenet_v1(10, 32),
}  # fmt: skip


def widths_of(graph, step=3):
    units = {name: graph.groups[name].units for name in graph.prunable(summed=True)}
    return {name: sorted({max(1, full * k // 100) for k in range(10, 101, step)})
            for name, full in units.items()}  # fmt: skip


def slim(network, graph, counts):
    return remove_(shared_copy(network), graph, {key: range(one) for key, one in counts.items()})


@pytest.fixture
def machine(monkeypatch):
    def make(network, **more):
        own = Machine(**more)
        monkeypatch.setattr(latency_timing.time, "perf_counter", own.perf_counter)
        return own.listen(network), own

    return make


@pytest.mark.parametrize("kind", NETWORKS)
def test_predictions_are_what_the_machine_takes(kind, machine):
    network, own = machine(NETWORKS[kind]().train())
    before = [tensor.clone() for tensor in network.state_dict().values()]
    hooks = [len(module._forward_pre_hooks) for module in network.modules()]
    graph = trace(network, torch.zeros(1, *SHAPE))
    widths = widths_of(graph)
    table = measure_latency(network, widths, SHAPE, graph=graph, levels=3, rounds=1, passes=1)
    assert network.training
    assert hooks == [len(module._forward_pre_hooks) for module in network.modules()]
    after = network.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    told = Prediction(table, tuple(widths))
    for counts in [*drawn(widths, 6, np.random.default_rng(9)),
                   {name: choice[-1] for name, choice in widths.items()}]:  # fmt: skip
        true = own.whole(slim(network, graph, counts))
        assert told(tuple(counts.values())) == pytest.approx(true, rel=1e-6)
        assert table.ms(counts) == pytest.approx(true, rel=1e-6)
    assert table.between < 0, "stamps cost time that a plain pass does not take"
    assert table.max_error < 1e-6
    assert "random networks are predicted within" in str(table)
    assert "nothing else runs" not in str(table)


def test_groups_that_are_not_named_are_whole(machine):
    network, own = machine(small())
    graph = trace(network, torch.zeros(1, *SHAPE))
    table = measure_latency(network, widths_of(graph), SHAPE, levels=5, rounds=1, passes=1)
    for name, units in (("0", 7), ("3", 9)):
        true = own.whole(slim(network, graph, {name: units}))
        assert table.ms({name: units}) == pytest.approx(true, rel=1e-6)
    with pytest.raises(ThinetError, match="says nothing of 9: measure one"):
        table.ms({"9": 1})


def test_less_is_never_slower_even_where_the_machine_is_uneven(machine):
    """Widths of a multiple of eight take half the time, and every measurement is off."""

    def uneven(module):
        out, into = module.weight.shape[:2]
        return (1e-5 + 3e-8 * out * into) * (0.5 if out % 8 == 0 else 1)

    network, _ = machine(small(), seconds=uneven, noise=0.3)
    graph = trace(network, torch.zeros(1, *SHAPE))
    widths = widths_of(graph, 15)
    table = measure_latency(network, widths, SHAPE, levels=7, rounds=1, passes=1)
    told = Prediction(table, tuple(widths))
    every = list(itertools.product(*widths.values()))
    found = np.array([told(counts) for counts in every])
    found = found.reshape([len(choice) for choice in widths.values()])
    for axis in range(found.ndim):
        assert (np.diff(found, axis=axis) >= -1e-12).all()
    assert np.ptp(found) > 0
    assert "measure it again while nothing else runs" in str(table) or table.max_error <= 0.15


def test_rising():
    random = np.random.default_rng(0)
    rough = random.random((6, 7)) + np.arange(6)[:, None] / 4
    smooth = rising(rough)
    assert (np.diff(smooth, axis=0) >= 0).all()
    assert (np.diff(smooth, axis=1) >= 0).all()
    assert np.abs(smooth - rough).max() < 1
    assert np.array_equal(rising(smooth), smooth), "what rises already is left as it is"
    assert rising(np.array([1.0, 3, 2, 4])).tolist() == [1, 2.5, 2.5, 4]


@pytest.mark.parametrize(("levels", "networks"), [(2, 6), (4, 12), (5, 30), (11, 132)])
def test_every_pair_of_widths_of_a_layer_is_met(levels, networks):
    widths = {name: list(range(10, 101, 3)) for name in "abcd"}
    pairs = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]
    readings = [Reading("", (({left: 1.0}, 0.0), ({right: 2.0}, 0.0))) for left, right in pairs]
    found = design(widths, readings, levels, seed=0)
    assert len(found) == networks
    prime = {2: 2, 4: 3, 5: 5, 11: 11}[levels]
    for left, right in pairs:
        assert len({(one[left], one[right]) for one in found}) == prime**2
    assert all(one[name] in widths[name] for one in found for name in widths)
    assert {tuple(one.values()) for one in found} >= {(10,) * 4, (100,) * 4}
    assert design(widths, readings, levels, seed=0) == found


def test_a_layer_that_reads_several_groups():
    """As in a DenseNet: what counts is the sum of their widths, which lie on no grid."""
    random = np.random.default_rng(0)
    networks = [dict(zip("abc", random.integers(1, 30, 3).tolist(), strict=True))
                for _ in range(90)]  # fmt: skip
    reading = Reading("x", (({"a": 1.0, "b": 2.0}, 3.0), ({"c": 1.0}, 0.0)))
    true = np.array([1 + (3 + one["a"] + 2 * one["b"]) * one["c"] / 100 for one in networks])
    part = fitted(reading, networks, true, levels=7)
    assert [len(axis.points) for axis in part.axes] == [7, 7]
    table = replace(_table(), parts=(part,), full=dict.fromkeys("abc", 30), between=0.0)
    for counts, ms in zip(networks, true, strict=True):
        assert table.ms(counts) == pytest.approx(ms, rel=0.15, abs=0.25)


def _table():
    network = small()
    graph = trace(network, torch.zeros(1, *SHAPE))
    return measure_latency(network, widths_of(graph, 45), SHAPE, levels=2, rounds=1, passes=1)


# -- files


@pytest.fixture
def made():
    network = small()
    graph = trace(network, torch.zeros(1, *SHAPE))
    return network, graph, widths_of(graph, 45)


def test_it_is_read_as_it_was_written_and_used_again(made, tmp_path, monkeypatch):
    network, graph, widths = made
    lines = []
    table = kept_table(tmp_path, network, graph, widths, SHAPE, levels=2, tell=lines.append)
    (file,) = tmp_path.iterdir()
    assert read_table(file) == table == given_table(file, network, widths, SHAPE)
    assert str(table) in lines
    monkeypatch.setattr("thinet.metrics.latency_cache.measure_latency", None)
    again = kept_table(tmp_path, network, graph, widths, SHAPE, levels=2, tell=lines.append)
    assert again == table
    assert str(file) in lines[-1]


@pytest.mark.parametrize(
    "change", ["threads", "shape", "batch", "network", "spoiled", "other widths"]
)
def test_another_one_is_measured_where_it_does_not_fit(made, change, tmp_path, monkeypatch):
    network, graph, widths = made
    kept_table(tmp_path, network, graph, widths, SHAPE, levels=2)
    (file,) = tmp_path.iterdir()
    asked = [network, graph, widths, SHAPE]
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif change == "shape":
        asked[3] = (3, 9, 9)
    elif change == "network":
        network[0].bias = None
        asked[1] = trace(network, torch.zeros(1, *SHAPE))
    elif change == "spoiled":
        file.write_text(file.read_text()[:-40])
    elif change == "other widths":
        asked[2] = {name: choice[1:] for name, choice in widths.items()}
    table = kept_table(tmp_path, *asked, levels=2, batch=2 if change == "batch" else 1)
    assert len(list(tmp_path.iterdir())) == (1 if change == "spoiled" else 2)
    assert any(read_table(one) == table for one in tmp_path.iterdir())


def test_a_file_under_its_name_of_another_machine_is_not_used(made, tmp_path):
    network, graph, widths = made
    table = kept_table(tmp_path, network, graph, widths, SHAPE, levels=2)
    (file,) = tmp_path.iterdir()
    elsewhere = replace(table.conditions, device="Abacus")
    write_table(file, replace(table, conditions=elsewhere))
    again = kept_table(tmp_path, network, graph, widths, SHAPE, levels=2)
    assert again.conditions == table.conditions
    assert read_table(file) == again


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("device", "Abacus", "device Abacus, here "), ("threads", 99, "threads 99, here "),
     ("torch", "0.1", "torch 0.1, here "), ("dtype", "float16", "dtype float16, here float32"),
     ("layout", "channels_last", "layout channels_last, here contiguous"),
     ("batch", 8, "batch 8, here 1"), ("network", "x", "for another network")],
)  # fmt: skip
def test_a_table_of_another_machine_is_refused(made, field, value, words, tmp_path):
    network, _, widths = made
    table = _table()
    other = replace(table, conditions=replace(table.conditions, **{field: value}))
    path = write_table(tmp_path / "table.json", other)
    with pytest.raises(ThinetError, match=words) as caught:
        given_table(path, network, widths, SHAPE, setting="method.table")
    assert str(caught.value).startswith(f"method.table={path} was measured for ")
    assert str(caught.value).endswith(": type method.table=null to measure one here.")


def test_a_table_of_other_layers_or_no_table_is_refused(made, tmp_path):
    network, _, widths = made
    table = _table()
    path = write_table(tmp_path / "table.json", table)
    for more, words in (({"x": [1]}, "the widths of x"), ({"0": [1, 20]}, "0 with 1 to 20 ")):
        with pytest.raises(ThinetError, match=rf"says nothing of {words}.*: type table=null"):
            given_table(path, network, {**widths, **more}, SHAPE)
    with pytest.raises(ThinetError, match="is not there: type table=null"):
        given_table(tmp_path / "nothing.json", network, widths, SHAPE)
    part = replace(table.parts[1], ms=(1.0,))
    unknown = replace(table, full={"9": 1})
    for spoiled in (replace(table, parts=(part,)), unknown, replace(table, between=float("nan")),
                    replace(table, checks=())):  # fmt: skip
        write_table(path, spoiled)
        with pytest.raises(ThinetError, match=r"table.json (is no latency table|cannot be read)"):
            read_table(path)


def test_layers_in_another_order_are_refused():
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.c, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

        def forward(self, x):
            x = self.a(x).relu()
            both = (self.b, self.c) if x.shape[1] > 4 else (self.c, self.b)
            for layer in both:
                x = x + layer(x)
            return self.head(x.mean((2, 3)))

    network = Turning()
    graph = trace(network, torch.zeros(1, *SHAPE))
    with pytest.raises(ThinetError, match=r"another order .*: type for example target=flops:0.5"):
        measure_latency(network, widths_of(graph), SHAPE, levels=3, rounds=1, passes=1)


def test_on_a_gpu_its_own_clock_tells(gpu):
    """The pretended one says 1 ms between any two events, and a whole pass is waited for."""
    network = small().to(gpu)
    graph = trace(network, torch.zeros(1, *SHAPE, device=gpu))
    widths = widths_of(graph, 45)
    table = measure_latency(network, widths, SHAPE, levels=2, rounds=1, passes=1)
    assert (table.conditions.device, table.conditions.threads) == ("pretended GPU", 0)
    assert [part.layer for part in table.parts] == ["", "0", "3", "5", "9"]
    assert all(ms == pytest.approx(1) for part in table.parts for ms in part.ms)
    slowest = max(one.measured for one in table.checks)
    assert table.ms({}) < 5 + max(0, slowest)
