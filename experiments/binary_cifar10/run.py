"""What does a bit cost? Full precision, int8 and binary networks of order 1 to 3 on CIFAR-10.

Usage: python -m experiments.binary_cifar10.run --root data/cifar10
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.binary import TINY, Study, make_parser
from experiments.binary_tables import draw, tables
from experiments.cifar import noise, parsed, read_data, read_rows, splice

HERE = Path(__file__).parent


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then the tables."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=int, default=8, help="in full precision")
    parser.add_argument("--activations", type=int, default=2)
    parser.add_argument("--weights", type=int, default=6)
    parser.add_argument("--images", type=int, default=15_000, help="an epoch, of 45,000")
    options = parsed(parser, words, **TINY)
    torch.set_num_threads(options.threads)
    if not options.draw:
        if options.smoke:
            options.work = options.out
        data = noise(64) if options.smoke else read_data(options.root)
        Study(options, data, flip=True).fill(options.out / "results.csv")
    rows = read_rows(options.out / "results.csv")
    text = tables(rows)
    draw(rows, "JPEG copy of CIFAR-10", options.out / "figure.png")
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(text)


if __name__ == "__main__":
    main()
