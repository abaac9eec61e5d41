"""Are searched widths better than uniform ones, and what should judge them?

Usage: python -m experiments.search_cifar10.run --root data/cifar10

Typed in several shells at once, the processes share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from experiments.cifar import Data, Images, noise, read_data, splice
from experiments.search import Sizes, Study
from experiments.search_cifar10.report import draw, tables
from experiments.search_units import collect, fill, make_parser, units
from experiments.smoke import parse
from thinet.models import build

HERE = Path(__file__).parent
TRAINING = 10_000
SIDE = 16
TINY = Sizes(1, proxy_epochs=1, population=2, generations=2, judging=32, calibration=32, vectors=3)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing; then tables and figures."""
    parser = make_parser(__doc__, HERE)
    parser.add_argument("--root", type=Path, help="folder with train/ and test/")
    options = parse(parser, words, seeds=[0], budgets=[0.5])
    torch.set_num_threads(options.threads)
    if options.smoke:
        options.work = options.out / "work"
    elif options.root is None and not options.draw:
        parser.error("give the images: --root <folder with train/ and test/>, or --smoke")
    widths, sizes = ((4, 8), TINY) if options.smoke else ((32, 64, 128), Sizes())
    make = partial(build, "thinet.models.small_vgg.vgg_small", num_classes=10, image_size=SIDE,
                   widths=widths)  # fmt: skip
    smoke = options.smoke or options.draw  # where nothing is measured no images are needed
    data = noise(64, SIDE) if smoke else reduced(options.root, options.work / "images.pt")
    study = Study(data, make, options.work, sizes)
    todo = units(study, options.budgets, options.seeds)
    if not options.draw:
        fill(options.work, todo)
    collect(study, todo, options.out)
    text = tables(options.out)
    draw(options.out)
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(text)


def reduced(root: Path, cache: Path) -> Data:
    """Means of 2x2 pixels, and part of the training images; kept, since decoding takes a while."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        whole = read_data(root)
        parts = [_smaller(one) for one in (whole.train, whole.validation, whole.test)]
        torch.save([(one.pixels, one.labels) for one in parts], cache)
    train, validation, test = (Images(*pair) for pair in torch.load(cache))
    return Data(train.take(torch.arange(TRAINING)), validation, test)


def _smaller(images: Images) -> Images:
    means = F.avg_pool2d(images.pixels.float(), images.pixels.shape[-1] // SIDE)
    return Images(means.round().to(torch.uint8), images.labels)


if __name__ == "__main__":
    main()
