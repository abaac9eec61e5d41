"""DAFL's ablation on the real MNIST: LeNet-5 teaches LeNet-5-Half.

Usage: python -m experiments.datafree_mnist.run --root data --others data/cifar10
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from experiments.cifar import read_rows, splice
from experiments.datafree import ORDER, TINY, Pair, Study, draw, make_parser, tables
from experiments.smoke import parse
from thinet.datasets.digits import Digits
from thinet.datasets.mnist import MNIST
from thinet.datasets.module import ImageData

HERE = Path(__file__).parent
LENET = "thinet.models.lenet"
ARMS = tuple(name for name in ORDER if "BatchNorm" not in name)
PAIR = Pair((f"{LENET}.lenet5", {}), (f"{LENET}.lenet5_half", {}), "fc1", 1, ARMS)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then the tables."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    options = parse(parser, words, **TINY)
    torch.set_num_threads(options.threads)
    if not options.draw:
        if options.smoke:
            options.work = options.out
        elif options.root is None or options.others is None:
            parser.error("give the images: --root <folder with MNIST/raw/> --others <folder>")
        make = _digits if options.smoke else partial(_mnist, options.root)
        Study(options, PAIR, make).fill(options.out / "results.csv")
    rows = read_rows(options.out / "results.csv")
    text = tables(rows, paper=True)
    draw(rows, "MNIST, LeNet-5 to LeNet-5-Half", options.out / "figure.png")
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(text)


def _mnist(root: Path, seed: int) -> ImageData:
    return MNIST(root=str(root), image_size=32, batch_size=128, seed=seed, crop="none", flip=False)


def _digits(seed: int) -> ImageData:
    return Digits(image_size=32, batch_size=64, num_classes=10, seed=seed, flip=False)


if __name__ == "__main__":
    main()
