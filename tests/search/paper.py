"""The three networks of the paper with its groups and genes, on paper (the meta device)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from thinet.metrics import cost_model
from thinet.metrics.cost_model import CostModel
from thinet.models.mobilenet_v1 import mobilenet_v1
from thinet.models.mobilenet_v2_wide import mobilenet_v2_wide
from thinet.models.resnet import resnet50
from thinet.search.hypernet import PruningNet
from thinet.search.settings import Making
from thinet.surgery import ChannelGraph, trace
from thinet.widths.space import Genes, Space

SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Paper:
    """A network, its whole groups, tied layers, and how the authors' PruningNet is laid out."""

    build: Callable[[int, int], nn.Module]
    whole: str
    making: Making
    tied: tuple[str, ...] = ()


NETWORKS = {
    "V1": Paper(mobilenet_v1, "blocks.12.pointwise", Making(32, blocks=("blocks.*",))),
    "V2": Paper(
        mobilenet_v2_wide, "features.18.0",
        Making({"features.0.*": 32, "features.18.*": 32, "*": 64}, blocks=("features.*",)),
    ),
    "R50": Paper(
        resnet50, "layer4.0.conv3", Making(32, blocks=("layer?.*",)), ("layer*.*.conv[12]",)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Laid:
    """One of them, traced."""

    network: nn.Module
    graph: ChannelGraph
    space: Space
    flops: CostModel
    params: CostModel
    making: Making

    def pruning_net(self) -> PruningNet:
        """The authors', by its shapes."""
        with torch.device("meta"):
            return PruningNet(self.network, self.graph, self.space, self.making)


def laid(name: str) -> Laid:
    """One of :data:`NETWORKS`."""
    paper = NETWORKS[name]
    with torch.device("meta"):
        network, images = paper.build(1000, 224), torch.empty(1, *SHAPE)
    graph = trace(network, images)
    names = [one for one in graph.prunable(summed=True) if one != paper.whole]
    models = [cost_model(network, graph, names, kind, SHAPE) for kind in ("flops", "params")]
    return Laid(
        network, graph, Space.of(graph, names, tied=paper.tied), models[0], models[1], paper.making
    )


def genes_of(space: Space, told: Callable[[str], int]) -> Genes:
    """Genes by the name of the first group of each."""
    found: dict[int, int] = {}
    for name, place in zip(space.names, space.genes, strict=True):
        if place not in found:
            found[place] = told(name)
    return tuple(found[place] for place in range(space.size))


def resnet50_genes(space: Space, ids: list[int]) -> Genes:
    """From the authors' order: stem, three stages, sixteen inner widths."""
    stages: Mapping[str, int] = {
        "conv1": ids[0], "layer1.0.conv3": ids[1], "layer2.0.conv3": ids[2],
        "layer3.0.conv3": ids[3],
    }  # fmt: skip
    inner: Iterator[int] = iter(ids[4:])
    return genes_of(space, lambda name: stages[name] if name in stages else next(inner))


def mobilenet_v2_genes(space: Space, overall: list[int], inner: list[int]) -> Genes:
    """From the authors' order: the stem and the output of each block; the inside of each block."""

    def told(name: str) -> int:
        block = int(name.split(".")[1])
        outer = block == 0 or name.endswith("conv.2")
        return overall[block] if outer else inner[block - 1]

    return genes_of(space, told)
