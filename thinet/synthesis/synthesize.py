"""``thinet.synthesize``: images for any classifier, from nothing but its weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.errors import SettingError, ThinetError, first_line
from thinet.base.seeding import derive_seed
from thinet.base.values import flag, is_whole, number, shown, whole
from thinet.datasets.steps import Step
from thinet.engine.distilled import Pupil
from thinet.engine.objective import Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.models.classifier import logits_in
from thinet.models.features import Feature, find_feature
from thinet.surgery import check_network, evaluating, without_autocast
from thinet.synthesis.critic import Critic
from thinet.synthesis.drawn import draw
from thinet.synthesis.generator import Generator
from thinet.synthesis.noise import Noise
from thinet.synthesis.settings import Losses
from thinet.synthesis.statistics import batchnorms
from thinet.synthesis.updates import Batches, Turn, generator_update

BATCHNORM = 1.0
"""Weight of the BatchNorm statistics where the network has any and nothing else is asked for."""
LINES = 10
"""How often ``progress=True`` says how far it is."""


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
    shape = _shape(image_size)
    count, size = whole("n", n, "100"), whole("batch_size", batch_size, "128", least=2)
    turn = Turn(Phase(1, number("lr", lr, "0.01", least=1e-12), "cosine"), Training(_adam))
    steps = whole("iterations", iterations, "300")
    made = {"latent": whole("latent", latent, "100"), "width": whole("width", width, "32", least=2)}
    whole("seed", seed, "0", least=0)
    tell = _teller(steps) if flag("progress", progress) else None
    first = _first_parameter(network)
    devices = [first.device] if first.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluating(network), _fixed(network), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "synthesize"))
        generator = Generator(shape, **made).to(first.device)
        critic = _critic(network, losses, torch.zeros(2, *shape).to(first))
        _check_classes(network, torch.zeros(2, *shape).to(first), size, critic.losses)
        batches = _Typed(generator, Noise(derive_seed(seed, "noise"), size), first.dtype)
        _train(generator_update(critic, batches, turn), steps, tell)
        images = draw(generator, count, size, derive_seed(seed, "images"))
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


def _shape(image_size: Any) -> tuple[int, int, int]:
    if is_whole(image_size) and image_size > 0:
        return (3, int(image_size), int(image_size))
    given = tuple(image_size) if isinstance(image_size, (tuple, list, torch.Size)) else ()
    if len(given) == 3 and all(is_whole(one) and one > 0 for one in given):
        channels, height, width = map(int, given)
        return (channels, height, width)
    raise ThinetError(
        f"image_size={shown(image_size)} is neither a number of pixels nor (C, H, W): pass for "
        "example image_size=32 or image_size=(1, 28, 28)."
    )


def _first_parameter(network: Any) -> Tensor:
    check_network(network)
    floating = (one for one in network.parameters() if one.is_floating_point())
    first: Tensor | None = next(floating, None)
    if first is None:
        raise ThinetError("this network has no parameters, so nothing can be learnt from it.")
    if any(one.is_inference() for one in network.parameters()):
        raise ThinetError(
            "the network's weights were made in torch.inference_mode(), and nothing can be trained "
            "through them: pass copy.deepcopy(network), made outside of it."
        )
    if not all(bool(one.isfinite().all()) for one in network.parameters()):
        raise ThinetError("the network's weights hold NaN or infinite values: load good ones.")
    return first.detach()


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


def _critic(network: nn.Module, given: Losses | Mapping[str, Any] | None, images: Tensor) -> Critic:
    """The network as a judge, by what was asked for or by what it allows.

    Raises:
        ThinetError: In terms of the Python call, if it cannot judge so.
    """
    losses = _losses(given, network)
    if losses.adversarial:
        raise ThinetError(
            "the adversarial loss looks at a student, and there is none: pass losses without it."
        )
    feature: Feature | None = None
    try:
        feature = find_feature(network, images, losses.feature)
    except ThinetError as error:
        logits_in(_run(network, images))
        if losses.activation and given is not None:
            raise ThinetError(
                f"the network's features cannot be read ({first_line(error)}): pass "
                'losses={"activation": 0}, or the name of the classifier as '
                'losses={"feature": "fc"}.'
            ) from error
        losses = replace(losses, activation=0.0)
    if losses.batchnorm and not batchnorms(network):
        raise ThinetError(
            "losses.batchnorm compares with what BatchNorm layers have stored, and the network has "
            'none: pass losses={"batchnorm": 0}.'
        )
    return Critic(Pupil(network, feature), losses)


def _losses(given: Any, network: nn.Module) -> Losses:
    if isinstance(given, Losses):
        return given
    usual: dict[str, Any] = {"batchnorm": BATCHNORM if batchnorms(network) else 0.0}
    if given is None:
        return Losses(**usual)
    names = list(asdict(Losses()))
    wrong = given if not isinstance(given, Mapping) else [one for one in given if one not in names]
    if wrong or not isinstance(given, Mapping):
        raise ThinetError(
            f"losses={shown(wrong)} is no mapping of {', '.join(names)}: pass for example "
            'losses={"batchnorm": 10.0}.'
        )
    try:
        return Losses(**{**usual, **given})
    except SettingError as error:
        raise ThinetError(
            f'{error.problem}: pass for example losses={{"{error.field}": {error.example}}}.'
        ) from error


def _run(network: nn.Module, images: Tensor) -> object:
    try:
        with torch.no_grad():
            return network(images)
    except Exception as error:  # networks complain in every way there is
        raise ThinetError(
            f"the network does not run on images of shape {tuple(images.shape)} "
            f"({first_line(error)}): pass the image_size that it was made for."
        ) from error


def _check_classes(network: nn.Module, images: Tensor, size: int, losses: Losses) -> None:
    logits = logits_in(_run(network, images))
    if logits.dim() != 2 or len(logits) != len(images):
        raise ThinetError(
            f"the network gives {tuple(logits.shape)} for {len(images)} images where logits (N, "
            "classes) are expected: wrap it in a module that returns those alone."
        )
    classes = logits.shape[1]
    if losses.entropy and size < classes:
        raise ThinetError(
            f"batch_size={size} cannot hold images of all {classes} classes: pass "
            f'batch_size={2 * classes}, or losses={{"entropy": 0}}.'
        )


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


def _teller(iterations: int) -> Callable[[int, float], None]:
    def tell(done: int, loss: float) -> None:
        print(f"synthesize: {done} of {iterations} iterations, loss {loss:.4f}", file=sys.stderr)

    return tell
