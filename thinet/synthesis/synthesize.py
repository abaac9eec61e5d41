"""``thinet.synthesize``: images for any classifier, from nothing but its weights."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.base.values import flag, number, whole
from thinet.datasets.steps import Step
from thinet.engine.objective import Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.models.classifier import logits_in
from thinet.surgery import evaluating, without_autocast
from thinet.synthesis.alarms import SAME
from thinet.synthesis.drawn import draw
from thinet.synthesis.generator import Generator
from thinet.synthesis.noise import Noise
from thinet.synthesis.request import (
    answer,
    check_classes,
    critic_for,
    first_parameter,
    image_shape,
)
from thinet.synthesis.settings import Losses
from thinet.synthesis.updates import Batches, Turn, generator_update

LINES = 10
"""How often ``progress=True`` says how far it is."""
FEW = 16
"""Images below which nothing is said of their classes."""


@torch.inference_mode(False)  # where nothing could be trained
@without_autocast
def synthesize(
    network: nn.Module,
    n: int,
    image_size: int | tuple[int, int, int],
    *,
    iterations: int = 300,
    batch_size: int = 128,
    losses: Losses | Mapping[str, Any] | None = None,
    lr: float = 0.01,
    latent: int = 100,
    width: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Draw images that mean something to a network whose own images are gone.

    A generator is trained against the network, which is left as it was: its images are to be sure
    of a class, to excite the features, to be of all classes, and to have the BatchNorm statistics
    that the network has stored (Chen et al. 2019, Yin et al. 2020). They are no realistic pictures,
    but activations on them are like those on real ones, as far as pruning looks at them.

    Args:
        network: Any classifier, with its trained weights.
        n: How many images.
        image_size: Side of the images in pixels, or ``(C, H, W)``.
        iterations: Of the generator's training.
        batch_size: Images an iteration, at least one of each class.
        losses: Weights of the terms and how they are computed, by the names of
            :class:`thinet.synthesis.settings.Losses`, or one of those. None takes what the network
            allows: ``batchnorm`` where it has BatchNorm layers, ``activation`` where its features
            can be read.
        lr: Learning rate of the generator (Adam, falling to 0 along a cosine).
        latent: Numbers an image is drawn from.
        width: Channels of the generator's first maps; 128 in the paper.
        seed: The same seed draws the same images.
        progress: Print now and then how far it is.

    Returns:
        ``(n, C, H, W)``, normalised as the network's images were, in its type and on its device.

    Raises:
        ThinetError: If the request makes no sense, the network cannot be looked through, or the
            training leaves the finite numbers.

    Example:
        >>> import thinet, torchvision
        >>> net = torchvision.models.resnet18(num_classes=10)
        >>> images = thinet.synthesize(net, 8, 32, iterations=2, batch_size=16, width=8)
        >>> images.shape
        torch.Size([8, 3, 32, 32])
        >>> slim = thinet.prune(net, [images], ratio=0.5).model
    """
    shape = image_shape(image_size)
    count, size = whole("n", n, "100"), whole("batch_size", batch_size, "128", least=2)
    turn = Turn(Phase(1, number("lr", lr, "0.01", least=1e-12), "cosine"), Training(_adam))
    steps = whole("iterations", iterations, "300")
    made = {"latent": whole("latent", latent, "100"), "width": whole("width", width, "32", least=2)}
    whole("seed", seed, "0", least=0)
    tell = _teller(steps) if flag("progress", progress) else None
    first = first_parameter(network)
    devices = [first.device] if first.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(network), _fixed(network), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "synthesize"))
        generator = Generator(shape, **made).to(first.device)
        critic = critic_for(network, losses, torch.zeros(2, *shape).to(first))
        check_classes(network, torch.zeros(2, *shape).to(first), size, critic.losses)
        batches = _Typed(generator, Noise(derive_seed(seed, "noise"), size), first.dtype)
        _train(generator_update(critic, batches, turn), steps, tell)
        images = draw(generator, count, size, derive_seed(seed, "images"))
        _warn_of_collapse(network, images.to(first).split(size))
    return images.to(first)


class _Typed(Batches):
    """Batches in the type of the network's weights.

    Args:
        generator: See :class:`Batches`; ``noise`` too.
        noise: As above.
        dtype: Of the network.
    """

    def __init__(self, generator: Generator, noise: Noise, dtype: torch.dtype) -> None:
        super().__init__(generator, noise)
        self.dtype = dtype

    def fresh(self, step: Step) -> Tensor:
        """As there."""
        return super().fresh(step).to(self.dtype)


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1.0)


@contextmanager
def _fixed(network: nn.Module) -> Iterator[None]:
    """Within, parameters gather no gradients."""
    before = {one: one.requires_grad for one in network.parameters()}
    network.requires_grad_(False)
    try:
        yield
    finally:
        for one, needed in before.items():
            one.requires_grad_(needed)


def _train(update: Update, iterations: int, tell: Callable[[int, float], None] | None) -> None:
    """A plain loop.

    Raises:
        ThinetError: If the loss is no longer finite.
    """
    optimizer, rate = update.make_optimizer(), update.rate()
    for done in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = rate(done / iterations)
        loss = update.losses(Step(0, done, 0))[update.name]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        last = done + 1 == iterations
        if last or done % max(iterations // LINES, 1) == 0:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ThinetError(
                    f"the generator's loss is {value} after {done + 1} iterations: pass a "
                    "smaller lr, for example lr=0.001."
                )
            if tell is not None:
                tell(done + 1, value)


def _warn_of_collapse(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Say so if images are all alike, or all of one class: nothing can be learnt from them."""
    with torch.no_grad():
        seen = torch.cat([logits_in(answer(network, images)).argmax(1) for images in batches])
    if len(seen) < FEW:
        return
    spread = float(torch.cat(list(batches)).float().std(0, correction=0).mean())
    wrong = f"all alike (spread {spread:.3f} of 1)" if spread < SAME else ""
    if not wrong and len(seen.unique()) == 1:
        wrong = f"all of one class ({int(seen[0])})"
    if wrong:
        warnings.warn(
            f"the generator has collapsed, its images are {wrong}: pass another seed, more "
            'iterations, a larger batch_size, or losses={"entropy": 10}.',
            stacklevel=5,  # the caller of synthesize, two wrappers further
        )


def _teller(iterations: int) -> Callable[[int, float], None]:
    def tell(done: int, loss: float) -> None:
        print(f"synthesize: {done} of {iterations} iterations, loss {loss:.4f}", file=sys.stderr)

    return tell
