"""The embedded default: 1,797 handwritten digits of 8x8 pixels that scikit-learn ships."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms.v2 import functional

from thinet.base.seeding import derive_seed
from thinet.datasets.images import TensorImages
from thinet.datasets.module import ImageData, Parts
from thinet.datasets.split import stratified_split

TEST_FRACTION = 0.2


class Digits(ImageData):
    """UCI optical digits (E. Alpaydin, C. Kaynak, 1998), enlarged bilinearly to the input size.

    They come without a test part. A fifth of every class is set aside for it, the same for every
    seed, so that the figures of runs with different seeds are about the same images.

    Args:
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    default_mean = (0.3055, 0.3055, 0.3055)  # of the training part, enlarged to 32x32
    default_std = (0.3238, 0.3238, 0.3238)

    def __init__(self, **common: Any) -> None:
        super().__init__(**{"flip": False, "crop": "none", "resize": "none", **common})

    def check(self) -> None:
        """Nothing can be missing: the images come with scikit-learn."""
        self._set_classes([str(digit) for digit in range(10)], "digits")

    def load_parts(self) -> Parts:
        """Enlarge all images once and set the test part aside."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        grey = torch.from_numpy(bunch.images).float()[:, None] / 16
        grey = functional.resize(grey, [self.image_size, self.image_size], antialias=True)
        labels = torch.from_numpy(bunch.target)
        seed = derive_seed("digits", "test")
        train, test = stratified_split(labels.tolist(), TEST_FRACTION, seed)
        return Parts(
            TensorImages(grey[train], labels[train]), test=TensorImages(grey[test], labels[test])
        )
