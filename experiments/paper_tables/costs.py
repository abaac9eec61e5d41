"""What the networks of the paper's tables cost, from the plans of the recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import nn
from torchvision.models import squeezenet1_0

from thinet.app.config import build, check
from thinet.metrics import Cost, cost
from thinet.run.identity import register_resolvers

CONF = Path(__file__).parents[2] / "conf"
Costs = dict[str, Any]


@cache
def composed(overrides: tuple[str, ...]) -> DictConfig:
    """The configuration that ``python run.py`` would see."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # No weights are loaded, and the sizes of the network do not depend on the trainer.
        return compose("config", [*overrides, "trainer=cpu"])


@cache
def planned(overrides: tuple[str, ...]) -> tuple[Costs, Costs]:
    """Costs of the network before and after pruning, as the plan of a dry run states them.

    Raises:
        ThinetError: If the recipe is wrong.
    """
    setup, method = build(check(composed(overrides)))
    plan = method.plan(setup, method.remembers())
    keys = ("flops", "params", "weights")
    # A method that cuts nothing has the costs of its network for a plan.
    both = (plan, plan) if isinstance(plan, Cost) else (plan.before, plan.after)
    before, after = ({key: getattr(one, key) for key in keys} for one in both)
    return before, after


def built(builder: dict[str, Any], image_size: int) -> Costs:
    """Costs of a network that no recipe trains."""
    arguments = {key: value for key, value in builder.items() if key != "target"}
    make = {"caffe_alexnet": caffe_alexnet, "caffe_squeezenet": caffe_squeezenet}[builder["target"]]
    with torch.device("meta"):
        network = make(**arguments)
    return asdict(cost(network, (3, image_size, image_size)))


def row_costs(row: dict[str, Any]) -> Costs | None:
    """Costs of the network of a row, or None if its widths are not known."""
    if "builder" in row:
        return built(row["builder"], row["image_size"])
    if "plan" not in row:
        return None
    before, after = planned(tuple(row["plan"]))
    return before if row.get("before") else after


def cells(table: dict[str, Any], row: dict[str, Any]) -> dict[str, str | None]:
    """The two cost cells of a row, written as the paper writes them; None where not computed."""
    costs = row_costs(row)
    if costs is None:
        return {"params": None, "flops": None}
    counted = costs["weights"]
    flops = f"{costs['flops'] / 1e9:.2f}B"
    if table.get("factors"):
        full, _ = planned(tuple(table["of"]))
        return {
            "params": f"{full['weights'] / counted:.2f}x",
            "flops": f"{full['flops'] / costs['flops']:.2f}x",
        }
    if table.get("removed"):
        full, _ = planned(tuple(table["of"]))
        flops = f"{100 * (1 - costs['flops'] / full['flops']):.1f} %"
    return {"params": f"{counted / 1e6:.2f}M", "flops": flops}


def differing(table: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """The cost cells in which we and the paper differ."""
    own = cells(table, row)
    return [
        key for key in own if own[key] and key in row["paper"] and own[key] != row["paper"][key]
    ]


def caffe_squeezenet(num_classes: int) -> nn.Module:
    """SqueezeNet 1.0 as its authors published it for Caffe, for 227 pixels.

    Its last convolution is padded, which torchvision's is not.
    """
    network = squeezenet1_0(weights=None, num_classes=num_classes)
    last: Any = network.classifier[1]
    last.padding = (1, 1)
    return network


def caffe_alexnet(num_classes: int) -> nn.Sequential:
    """AlexNet as Caffe ships it (two groups, local response normalisation), for 227 pixels.

    Source: Krizhevsky et al. 2012. torchvision's is another one, of 2014.
    """

    def conv(inputs: int, outputs: int, side: int, **more: int) -> Sequence[nn.Module]:
        return nn.Conv2d(inputs, outputs, side, **more), nn.ReLU()

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2)

    return nn.Sequential(
        *conv(3, 96, 11, stride=4), pool(), nn.LocalResponseNorm(5),
        *conv(96, 256, 5, padding=2, groups=2), pool(), nn.LocalResponseNorm(5),
        *conv(256, 384, 3, padding=1), *conv(384, 384, 3, padding=1, groups=2),
        *conv(384, 256, 3, padding=1, groups=2), pool(), nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, num_classes),
    )  # fmt: skip
