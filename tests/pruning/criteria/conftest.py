"""Groups of every kind with explicit activations, and the evidence that follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from thinet.pruning.criteria import Candidates, Criterion, Part
from thinet.pruning.statistics import ContributionMoments, Evidence, PatchMoments, ZeroFraction
from thinet.pruning.statistics.activation import Activations, MeanActivation
from thinet.pruning.statistics.contributions import Contributions
from thinet.pruning.statistics.gradients import GateGradients, Gates
from thinet.pruning.statistics.patches import Moments, Patches
from thinet.pruning.statistics.zeros import Zeros
from thinet.surgery import Consumer

CONF = Path(__file__).parents[3] / "conf" / "criterion"
FILES = sorted(CONF.glob("*.yaml"))
C, ROWS = 12, 400


def built(name: str) -> Criterion:
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml")["build"])


@dataclass
class Reader:
    """A consumer, its weight (D, C / groups, taps) and its input patches (rows, inputs, taps)."""

    consumer: Consumer
    weight: Tensor
    inputs: Tensor

    @property
    def grouped(self) -> Tensor:
        """Patches of each group, (groups, rows, P)."""
        return self.inputs.unflatten(1, (self.consumer.groups, -1)).transpose(0, 1).flatten(2)

    def contributions(self, units: int) -> Tensor:
        """What each unit adds to every output at every row, (rows * D, units)."""
        outputs = self.weight.unflatten(0, (self.consumer.groups, -1))
        inputs = self.inputs.unflatten(1, (self.consumer.groups, -1))
        single = torch.einsum("rgct,gdct->rgdc", inputs, outputs)
        channels = self.consumer.channels.view(self.consumer.groups, -1)
        total = torch.zeros(*single.shape[:3], units, dtype=torch.float64)
        for group, own in enumerate(channels):
            there = own >= 0
            total[:, group].index_add_(2, own[there], single[:, group][..., there])
        return total.flatten(0, 2)


@dataclass
class Case:
    """A group, as a criterion sees it."""

    filters: list[Part]
    scales: list[Part]
    readers: list[Reader] = field(default_factory=list)
    units: int = C

    def candidates(self) -> Candidates:
        readers = tuple((reader.consumer, reader.weight) for reader in self.readers)
        return Candidates("conv", self.units, tuple(self.filters), tuple(self.scales), readers)

    def evidence(self) -> Evidence:
        X = torch.cat([reader.contributions(self.units) for reader in self.readers])
        size, zeros = torch.zeros(2, self.units, dtype=torch.float64)
        for reader in self.readers:
            channels = reader.consumer.channels
            own = channels >= 0
            many = torch.bincount(channels[own], minlength=self.units).clamp_min(1)
            mean = reader.inputs.abs().mean(dim=(0, 2))[own] / many[channels[own]]
            size.index_add_(0, channels[own], mean / len(self.readers))
            share = (reader.inputs == 0).double().mean(dim=(0, 2))[own] / many[channels[own]]
            zeros.index_add_(0, channels[own], share / len(self.readers))
        moments = {
            reader.consumer.weight: Moments(
                reader.grouped.mT @ reader.grouped, reader.grouped.sum(dim=1), ROWS
            )
            for reader in self.readers
        }
        return Evidence({
            ContributionMoments: Contributions(X.T @ X, len(X)),
            PatchMoments: Patches(moments, ROWS),
            ZeroFraction: Zeros(zeros, ROWS),
            MeanActivation: Activations(size, ROWS),
            GateGradients: Gates((X.unflatten(0, (8, -1)).sum(dim=1) ** 2).mean(dim=0), 8),
        })  # fmt: skip

    def relabelled(self, order: Tensor) -> Case:
        """The same group with other numbers: new unit j is the old unit order[j]."""
        new = torch.cat([torch.argsort(order), torch.tensor([-1])])  # the last entry is for -1
        readers = []
        for reader in self.readers:
            old = reader.consumer
            consumer = Consumer(
                old.weight, new[old.channels], old.calls, old.unknowns, old.groups, old.shift
            )
            readers.append(Reader(consumer, reader.weight, reader.inputs))
        return Case(
            [Part(part.value, new[part.units]) for part in self.filters],
            [Part(part.value, new[part.units]) for part in self.scales],
            readers,
        )


def reader(
    name: str,
    channels: list[int],
    active: Tensor,
    generator: torch.Generator,
    groups: int = 1,
    shift: str | None = "bn.running_mean",
    alike: bool = False,
) -> Reader:
    """A consumer of 4 outputs a group and 3 taps; inputs of -1 have activations of their own."""
    taps, own = 3, torch.tensor(channels)
    drawn = torch.randn(ROWS, len(own), taps, generator=generator).double()
    often = torch.linspace(-0.5, 1.0, C)[own, None]  # how often a unit fires; the last for -1
    rows = (drawn + often).relu()
    weight = torch.randn(4 * groups, len(own) // groups, taps, generator=generator).double()
    if alike:
        rows, weight = rows[:, :1].expand_as(rows), weight[:, :1].expand_as(weight).contiguous()
    rows = rows * torch.where(own[:, None] >= 0, active[own][:, None], 1.0)
    consumer = Consumer(name, own, 1, taps * len(own) // groups, groups, shift)
    return Reader(consumer, weight, rows)


def make(kind: str, dead: tuple[int, ...] = (), alike: bool = False, seed: int = 0) -> Case:
    """A group of 12 units: ``plain``, ``coupled`` (two layers, two consumers), ``several``."""
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator)
        return drawn[:1].expand(shape).clone() if alike else drawn

    scale = torch.rand(C, generator=generator).double() + 0.5
    active = torch.ones(C).double() if alike else scale
    active[list(dead)] = 0.0
    once = torch.arange(C)
    everyone = list(range(C))
    if kind == "plain":
        case = Case([Part(values(C, 4, 3, 3), once)], [Part(values(C), once)])
        case.readers = [reader("next.weight", everyone, active, generator, alike=alike)]
    elif kind == "coupled":
        case = Case(
            [Part(values(C, 4, 3, 3), once), Part(100 * values(C, 2, 1, 1), once)],
            [Part(values(C), once), Part(10 * values(C), once)],
        )
        features = [unit for unit in everyone for _ in range(2)]
        rest = [] if alike else [-1, -1]
        case.readers = [
            reader("conv.weight", everyone + rest, active, generator, shift=None, alike=alike),
            reader("linear.weight", features, active, generator, shift="linear.bias", alike=alike),
        ]
    else:
        twice = once.repeat(2)
        case = Case([Part(values(2 * C, 4, 3, 3), twice)], [Part(values(2 * C), twice)])
        case.readers = [reader("next.weight", 2 * everyone, active, generator, 2, alike=alike)]
    for part in [*case.filters, *case.scales]:
        part.value[torch.isin(part.units, torch.tensor(list(dead), dtype=torch.int64))] = 0.0
    return case


@pytest.fixture(params=[file.stem for file in FILES])
def name(request: pytest.FixtureRequest) -> str:
    """Every criterion that ``conf/criterion`` offers."""
    return request.param


@pytest.fixture
def criterion(name: str) -> Criterion:
    return built(name)


@pytest.fixture
def make_case() -> Callable[..., Case]:
    return make
