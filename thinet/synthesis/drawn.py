"""Images of a finished generator, and of nothing but noise: the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thinet.base.seeding import derive_seed
from thinet.models.classifier import logits_in
from thinet.surgery import evaluating
from thinet.synthesis.batchnorm import alone
from thinet.synthesis.generator import Generator


@torch.no_grad()
def draw(generator: Generator, count: int, batch: int, seed: int) -> Tensor:
    """Images that a generator draws.

    It sees whole batches of the size that it was trained with, since its BatchNorms look at the
    batch; what is too many of the last one is left out.

    Args:
        generator: On any device.
        count: How many images.
        batch: Images of a batch.
        seed: What the noise derives from.

    Returns:
        ``(count, C, H, W)`` in float32 on the CPU.
    """
    with alone(generator):
        found = [
            generator(noise.to(generator.device)).float().cpu()
            for noise in _noise(count, batch, seed, (generator.latent,))
        ]
    return torch.cat(found)[:count].contiguous()


def draw_noise(count: int, batch: int, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Normal noise in the place of images, ``(count, *shape)``."""
    return torch.cat(list(_noise(count, batch, seed, shape)))[:count]


def _noise(count: int, batch: int, seed: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    for number in range(-(-count // batch)):
        random = torch.Generator().manual_seed(derive_seed(seed, "drawn", number))
        yield torch.randn(batch, *shape, generator=random)


@torch.no_grad()
def classes_of(network: nn.Module, images: Tensor, batch: int, device: torch.device) -> Tensor:
    """The class ``(N,)`` that a network sees in each of some images, on the CPU."""
    with evaluating(network):
        found = [
            logits_in(network(some.to(device))).argmax(1).cpu() for some in images.split(batch)
        ]
    return torch.cat(found)
