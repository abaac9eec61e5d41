"""The network that others learn from: found, compared with the images, loaded or trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from thinet.artifacts.names import saved_folder
from thinet.artifacts.store import load, read_spec
from thinet.base.errors import ThinetError, first_line
from thinet.engine.engine import Engine
from thinet.run.setup import NetworkSource, Setup
from thinet.surgery import evaluating
from thinet.training.source import initial_network, on_paper, prepare_network

_BY_NAME = "model@teacher"


class Renormalised(nn.Module):
    """A network for images that were normalised in another way.

    Args:
        network: Expects pixels of ``mean`` and ``std``, both per channel.
        mean: As above.
        std: As above.
        given: Mean and standard deviation that images come with instead.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        given: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.network = network
        own, theirs = torch.tensor([list(mean), list(std)]), torch.tensor([*map(list, given)])
        self.register_buffer("scale", (theirs[1] / own[1]).view(1, -1, 1, 1))
        self.register_buffer("shift", ((theirs[0] - own[0]) / own[1]).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``(N, C, H, W)`` as they are given."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def taught(setup: Setup, source: NetworkSource) -> Setup:
    """The same run, beginning with another network."""
    return replace(setup, source=source)


def find_teacher(setup: Setup) -> nn.Module:
    """The teacher with the weights that it has before any training, on the CPU.

    Files are read in full, so that a damaged one is found before long work; published weights
    are left for later, and there is a network without values on the ``meta`` device instead.

    Raises:
        ThinetError: If there is none, it does not fit the images, or its file is damaged.
    """
    source = setup.teacher
    if source is None:
        raise ThinetError(
            "there is no teacher to learn from, or to group images by: type teacher=<folder of a "
            "finished run>, teacher=<weights of this model>, or model@teacher=<name of a model>."
        )
    folder, own = saved_folder(source.weights), taught(setup, source)
    if folder is not None:
        _compare(setup, source.weights, folder)
        return _finite(load(folder), source.weights)
    if Path(source.weights).expanduser().is_file():
        with _about_teacher(source):
            network, report = initial_network(own, "teacher")
        if report.replaced_head and source.train == "never":
            raise ThinetError(
                f"teacher={source.weights} was trained for other classes than the "
                f"{setup.data.num_classes} of this data set: give a teacher of the same classes."
            )
        return network
    return on_paper(own)[0]


def fitting_teacher(setup: Setup, images: Tensor) -> nn.Module:
    """As :func:`find_teacher`, run on images of the student's size.

    Args:
        setup: Of the run.
        images: ``(N, C, H, W)``, without values.

    Raises:
        ThinetError: As there; if it does not take these images, or gives other numbers of logits.
    """
    network = find_teacher(setup)
    _compare_outputs(setup, network, images)
    return network


def like(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images where a network is."""
    first = next(network.parameters(), None)
    device = images.device if first is None else first.device
    return images if device == images.device else torch.zeros(images.shape, device=device)


def prepare_teacher(setup: Setup, engine: Engine, folder: Path) -> nn.Module:
    """The teacher, trained if it has to be, for images as this run has them.

    Args:
        setup: Of the run; it has a teacher.
        engine: Trains it.
        folder: Of the run.
    """
    source = setup.teacher
    assert source is not None
    own, saved = taught(setup, source), saved_folder(source.weights)
    if saved is None:
        with _about_teacher(source):
            return prepare_network(own, engine, folder, "teacher")
    spec = read_spec(saved)
    network: nn.Module = load(saved)
    given = (tuple(setup.data.mean), tuple(setup.data.std))
    if spec.mean is None or spec.std is None or (tuple(spec.mean), tuple(spec.std)) == given:
        return network
    return Renormalised(network, spec.mean, spec.std, given)


@contextmanager
def _about_teacher(source: NetworkSource) -> Iterator[None]:
    """Sentences about weights and models name the keys of the teacher."""
    try:
        yield
    except ThinetError as error:
        key = "teacher" if source.train == "never" else "teacher.weights"
        text = str(error).replace("model.weights", key).replace("type model=", f"type {_BY_NAME}=")
        raise ThinetError(text) from error


def _finite(network: nn.Module, name: str) -> nn.Module:
    """A network whose weights are numbers.

    Raises:
        ThinetError: Naming one that is not.
    """
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ThinetError(
                f"{key} of teacher={name} holds NaN or infinite values: give another teacher."
            )
    return network


def _compare(setup: Setup, name: str, folder: Path) -> None:
    """Refuse a saved network that was made for other images or classes.

    Raises:
        ThinetError: Saying which.
    """
    spec, data = read_spec(folder), setup.data
    if not data.classes:
        data.check()  # the files tell
    if spec.input_shape and tuple(spec.input_shape) != tuple(data.input_shape):
        theirs, ours = ("x".join(map(str, one)) for one in (spec.input_shape, data.input_shape))
        raise ThinetError(
            f"teacher={name} takes images of {theirs} and this run has {ours}: type "
            f"dataset.image_size={spec.input_shape[-1]}, or give another teacher."
        )
    if spec.classes and tuple(spec.classes) != tuple(data.classes):
        differing = [one for one in spec.classes if one not in data.classes]
        what = (
            f"{len(spec.classes)} classes and this data set {len(data.classes)}"
            if len(spec.classes) != len(data.classes)
            else f"the class {differing[0]}, which this data set has not" if differing
            else "the classes in another order"
        )  # fmt: skip
        raise ThinetError(f"teacher={name} knows {what}: give a teacher of the same classes.")


def _compare_outputs(setup: Setup, teacher: nn.Module, images: torch.Tensor) -> None:
    """Refuse a teacher that does not take these images, or gives other numbers of logits.

    Raises:
        ThinetError: Saying which.
    """
    assert setup.teacher is not None
    try:
        with torch.no_grad(), evaluating(teacher):
            found = teacher(like(teacher, images))
    except NotImplementedError:  # an operation that cannot be done on paper
        return
    except Exception as error:  # networks complain in every way there is
        raise ThinetError(
            f"the teacher {setup.teacher.name} does not run on images of "
            f"{setup.image_size} pixels ({first_line(error)[:120]}): give another teacher."
        ) from error
    classes = found.shape[-1] if isinstance(found, torch.Tensor) and found.dim() == 2 else None
    if classes != setup.data.num_classes:
        what = "no logits (N, classes)" if classes is None else f"{classes} classes"
        raise ThinetError(
            f"the teacher {setup.teacher.name} has {what} and this data set "
            f"{setup.data.num_classes}: give a teacher of the same classes."
        )
