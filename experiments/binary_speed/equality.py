"""Does every binary layer compute in OpenVINO what it computes in PyTorch? The whole product.

Usage: python -m experiments.binary_speed.equality [--limit 100]

The tests take a few of these; this takes all, about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.timing import Row, write_rows
from thinet.artifacts.openvino.checking import NEAR
from thinet.artifacts.openvino.conversion import converted
from thinet.artifacts.openvino.deployed import Deployed
from thinet.quantization.layers import BinaryConv2d
from thinet.quantization.quantizer import Quantizer

WIDTHS = (3, 8, 12, 16, 31, 64, 100, 128, 130)
GEOMETRIES: tuple[dict[str, Any], ...] = (
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": (2, 3), "padding": (0, 2), "stride": (2, 1)},
    {"kernel_size": 5, "padding": 2, "stride": 2},
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    {"kernel_size": 3, "padding": 2, "padding_mode": "circular"},
)
SCALES = ("sample", "patch", "constant")
ORDERS = (1, 2, 3, 4)


@torch.no_grad()
def compare(width: int, order: int, scale: str, geometry: dict[str, Any], threads: int) -> Row:
    """One layer on three images of very different size, odd in height and width.

    Returns:
        ``difference``: largest beyond what rounding decides, relative to an image's largest
        output; ``undecided``: share of outputs that an undecided bit reaches.
    """
    torch.manual_seed(width)
    layer = BinaryConv2d(Quantizer(order, scale), None, width, WIDTHS[-width % 9], **geometry)
    if layer.constant is not None:
        layer.constant.scales.copy_(torch.tensor([0.8, 0.48, 0.27, 0.16])[:order])
    images = torch.randn(3, width, 9, 11) * torch.tensor([1.0, 30.0, 0.02]).view(-1, 1, 1, 1)
    images[torch.rand_like(images) < 0.1] = 0.0
    run = Deployed(converted(torch.nn.Sequential(layer.eval()), (width, 9, 11)).graph,
                   (width, 9, 11), threads)  # fmt: skip
    made, wanted, slack = run(images), layer(images), layer.rounding(images, NEAR)
    return {
        "width": width,
        "order": order,
        "scale": scale,
        "geometry": " ".join(f"{key}={value}" for key, value in geometry.items()),
        "threads": threads,
        "difference": _beyond(made, wanted, slack),
        "undecided": float((slack > 0).float().mean()),
        "binary": run.binary_layers,
    }


def _beyond(made: Tensor, wanted: Tensor, slack: Tensor) -> float:
    apart = ((made - wanted).abs() - slack).clamp_min(0).flatten(1).amax(1)
    return float((apart / wanted.abs().flatten(1).amax(1)).max())


def main(words: Sequence[str] | None = None) -> None:
    """Compare all, print the worst, and write ``equality.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="so many of them, drawn at random")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(words)
    cells = list(itertools.product(WIDTHS, ORDERS, SCALES, GEOMETRIES, (1, 2)))
    if options.limit:
        cells = random.Random(0).sample(cells, options.limit)
    rows = [compare(*cell) for cell in cells]
    write_rows(options.out / "equality.csv", rows)
    wrong = [row for row in rows if not row["difference"] <= 1e-5 or row["binary"] != 1]
    worst = max(row["difference"] for row in rows)
    print(f"{len(rows)} layers, {len(wrong)} wrong, largest difference {worst:.1e}")
    for row in wrong:
        print(row)


if __name__ == "__main__":
    main()
