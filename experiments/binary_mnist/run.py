"""The same arms as in :mod:`experiments.binary_cifar10`, on MNIST.

Usage: python -m experiments.binary_mnist.run --root data    (with data/MNIST/raw/)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from experiments.binary import TINY, Study, make_parser
from experiments.binary_tables import draw, tables
from experiments.cifar import Data, Images, noise, parsed, read_rows, splice, split
from thinet.datasets.mnist import MNIST

HERE = Path(__file__).parent


def read_data(root: Path) -> Data:
    """The published files, with a black border to 32 pixels, grey in three channels."""
    found = MNIST(root=str(root), image_size=32)

    def part(train: bool) -> Images:
        some = found.read_part(train)
        pixels = F.pad(some.images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        return Images(pixels, torch.from_numpy(some.labels))

    return split(part(True), part(False))


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then the tables."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=int, default=4, help="in full precision")
    parser.add_argument("--activations", type=int, default=1)
    parser.add_argument("--weights", type=int, default=4)
    parser.add_argument("--images", type=int, default=15_000, help="an epoch, of 55,000")
    options = parsed(parser, words, **TINY)
    torch.set_num_threads(options.threads)
    if not options.draw:
        if options.smoke:
            options.work = options.out
        data = noise(64) if options.smoke else read_data(options.root)
        Study(options, data, flip=False).fill(options.out / "results.csv")
    rows = read_rows(options.out / "results.csv")
    text = tables(rows)
    draw(rows, "MNIST", options.out / "figure.png")
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(text)


if __name__ == "__main__":
    main()
