"""Fashion-MNIST: 70,000 grey images of 28x28 in 10 classes."""

from __future__ import annotations

from torchvision import datasets

from thinet.datasets.mnist import MNIST


class FashionMNIST(MNIST):
    """Fashion-MNIST in its published format, that of MNIST, ``<root>/FashionMNIST/raw/``."""

    title = "Fashion-MNIST"
    class_names = tuple(datasets.FashionMNIST.classes)
    source = datasets.FashionMNIST
    default_mean = (0.2860, 0.2860, 0.2860)  # of the 60,000 training images
    default_std = (0.3530, 0.3530, 0.3530)
