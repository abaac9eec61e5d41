"""What a student of the digits network learns from: each loss alone and together, and controls.

Usage: python -m experiments.datafree_digits.run --others data/cifar10
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.cifar import read_rows, splice
from experiments.datafree import ORDER, TINY, Pair, Study, draw, make_parser, tables
from experiments.smoke import parse
from thinet.datasets.digits import Digits

HERE = Path(__file__).parent
VGG = "thinet.models.small_vgg.vgg_small"
PAIR = Pair((VGG, {"widths": [32, 64, 128]}), (VGG, {"widths": [16, 32, 64]}), None, None, ORDER)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then the tables."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--iterations", type=int, default=320)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--teacher-epochs", type=int, default=8)
    options = parse(parser, words, **TINY)
    torch.set_num_threads(options.threads)
    if not options.draw:
        if options.smoke:
            options.work = options.out
        elif options.others is None:
            parser.error("give other images: --others <folder with train/>, or --smoke")
        Study(options, PAIR, _digits).fill(options.out / "results.csv")
    rows = read_rows(options.out / "results.csv")
    text = tables(rows, paper=False)
    draw(rows, "digits", options.out / "figure.png")
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(text)


def _digits(seed: int) -> Digits:
    return Digits(
        image_size=32, batch_size=64, num_classes=10, seed=seed, resize="none", crop="none",
        flip=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
