"""Networks at full width: built, loaded, or trained and kept for the next run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.inherit import in_original, narrow_
from thinet.artifacts.names import SPEC, WEIGHTS, saved_folder
from thinet.artifacts.store import (
    Builder,
    Spec,
    Transform,
    check_digest,
    check_savable,
    check_values,
    file_digest,
    load,
    load_state_,
    named_state,
    read_spec,
    read_state,
    save,
)
from thinet.artifacts.transforms import transformed
from thinet.base.errors import ThinetError
from thinet.base.files import check_space, read_json, write_json_atomic
from thinet.base.folders import check_own
from thinet.base.messages import say
from thinet.base.seeding import derive_seed
from thinet.engine.engine import Engine
from thinet.models import build
from thinet.models.weights import WeightsReport, load_weights
from thinet.run.lock import one_at_a_time
from thinet.run.setup import Setup
from thinet.training.measurement import ACCURACIES

IMAGES = "data.json"
BASELINE_KEY = "baseline"
"""What order and augmentation of the images derive from, of whatever is trained like a baseline."""
COPIES = 12
"""Times the size of a network's weights that a run needs on the disk, checkpoints and all."""


def network_spec(
    setup: Setup,
    kept: Mapping[str, Sequence[int]] | None = None,
    transforms: Sequence[Transform] = (),
    **more: Any,
) -> Spec:
    """The spec of a network of this setup.

    Args:
        setup: Of the run.
        kept: Filters of each layer cut in this run that stayed, in coordinates of the network that
            the run began with.
        transforms: What this run did to the network's modules.
        more: Other fields of the spec.
    """
    folder = saved_folder(setup.source.weights)
    before = Spec() if folder is None else read_spec(folder)
    arguments = {
        **setup.source.arguments,
        "num_classes": setup.data.num_classes,
        "image_size": setup.data.image_size,
    }
    return Spec(
        builder=Builder(setup.source.target, arguments),
        input_shape=tuple(setup.data.input_shape),
        mean=tuple(setup.data.mean),
        std=tuple(setup.data.std),
        classes=tuple(setup.data.classes),
        keep=in_original(before.keep, kept or {}),
        transforms=(*before.transforms, *transforms),
        lineage=(*before.lineage, setup.name),
        **more,
    )


def on_paper(setup: Setup) -> tuple[nn.Module, Tensor]:
    """The network that a run begins with, and two images, on the ``meta`` device."""
    if setup.data.num_classes is None:
        setup.data.check()  # the folders tell
    shape = (3, setup.image_size, setup.image_size)
    arguments = {"num_classes": setup.data.num_classes, "image_size": setup.image_size}
    with torch.device("meta"):
        network = build(setup.source.target, **setup.source.arguments, **arguments)
        images = torch.empty(2, *shape)
    return _as_saved(network, setup, shape), images


def build_network(setup: Setup) -> nn.Module:
    """The network that a run begins with, with the seed's own random weights.

    It is at full width, or as wide as the saved network that ``model.weights`` names.
    """
    builder = network_spec(setup).builder
    assert builder is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(setup.seed, "init"))
        network = build(builder.target, **builder.arguments)
    check_savable(network)
    return _as_saved(network, setup, tuple(setup.data.input_shape))


def _as_saved(network: nn.Module, setup: Setup, shape: tuple[int, ...]) -> nn.Module:
    """Like the saved network that ``model.weights`` names, if any: its widths and transforms."""
    folder = saved_folder(setup.source.weights)
    if folder is None:
        return network
    return narrow_(network, folder, shape)


def restore_network(
    setup: Setup, engine: Engine, path: Path, transforms: Sequence[Transform] = ()
) -> nn.Module:
    """The network with the shapes and weights of a file that the first process reads for all."""
    return rebuilt_network(setup, engine.decide(lambda: read_state(path)), path, transforms)


def rebuilt_network(
    setup: Setup, state: Mapping[str, Tensor], path: Path, transforms: Sequence[Transform] = ()
) -> nn.Module:
    """The network with the shapes and weights of ``state``, which was read from ``path``.

    Args:
        setup: Of the run.
        state: The tensors.
        path: Where they come from.
        transforms: What the run did to the network's modules before.
    """
    network = transformed(build_network(setup), transforms)
    load_state_(network, state, str(path))
    return network


def initial_network(setup: Setup, who: str = "baseline") -> tuple[nn.Module, WeightsReport]:
    """The network that a run begins with, with the weights that it is given.

    Args:
        setup: Of the run.
        who: What it is, for people.
    """
    network = build_network(setup)
    report = _load(setup, network)
    if report.loaded:
        say(f"{who}: {report.loaded} tensors from {report.source}")
    if report.replaced_head:
        say(f"{who}: the classifier is new, for {setup.data.num_classes} classes")
    return network, report


def prepare_network(setup: Setup, engine: Engine, folder: Path, who: str = "baseline") -> nn.Module:
    """Load the full network, or train it and keep it for the next run.

    Args:
        setup: Of the run.
        engine: Trains it.
        folder: Of the run.
        who: What it is, for people.

    Raises:
        ThinetError: If it has to be trained, but ``baseline.train=never``; or if the disk has too
            little space for the run.
    """
    check_own(setup.source.cache, *_beside(setup.source.cache))
    network, report = initial_network(setup, who)
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    check_space(folder, COPIES * size + 20_000_000)
    _compare_normalisation(setup, report, who)
    needed = not report.loaded or report.replaced_head
    if needed and setup.source.train == "never":
        raise ThinetError(
            f"baseline.train=never, but model.weights={setup.source.weights} leaves "
            f"{'the classifier' if report.loaded else 'the network'} untrained: give a file of "
            "trained weights, or type baseline.train=auto (with baseline.epochs=0 it stays so)."
        )
    train = setup.source.train == "always" or (setup.source.train == "auto" and needed)
    if not train:
        return network
    if not setup.source.phase.epochs:
        return _cached(setup, engine, who) or network
    if not setup.data.has_images:
        raise ThinetError(
            f"the {who} {setup.source.name} would have to be trained, and dataset=none has no "
            "images: give the folder of a finished run, or type a data set."
        )
    wait = partial(say, f"{who}: another run is training it; waiting for that one")
    lock, _ = _beside(setup.source.cache)
    with one_at_a_time(lock, engine.rank == 0, engine.agree, wait):
        return _cached(setup, engine, who) or _train(setup, engine, network, who)


def _beside(cache: Path) -> tuple[Path, Path]:
    """The lock of a cached baseline, and where it is trained."""
    return cache.with_name(f"{cache.name}.lock"), cache.with_name(f"{cache.name}.training")


def _cached(setup: Setup, engine: Engine, who: str) -> nn.Module | None:
    """The baseline that an earlier run trained on the same images; all processes have it or none.

    Raises:
        ThinetError: On every process, if the first can read it and another cannot.
    """
    found = _read_cached(setup, who)
    read = engine.gather(found is not None)
    if not read[0]:
        return None
    if not all(read):
        raise ThinetError(
            f"{setup.source.cache} cannot be read by every process of this run: type the same "
            "command again, or give all machines the same paths.cache."
        )
    engine.count_trained([setup.source.phase])
    return found


def _read_cached(setup: Setup, who: str) -> nn.Module | None:
    if not (setup.source.cache / SPEC).exists():
        return None
    images = setup.source.cache / IMAGES
    if images.exists() and read_json(images) != setup.data.identity():
        say(f"{who}: the data set has changed since it was trained; training it again")
        return None
    try:
        cached = load(setup.source.cache)
    except ThinetError as error:
        say(f"{who}: {error} Training it again.")
        return None
    say(f"{who}: trained before, from {setup.source.cache}")
    return cached.train()


def _train(setup: Setup, engine: Engine, network: nn.Module, who: str) -> nn.Module:
    """Train the baseline and keep it; ``spec.json``, written last, says that it is complete.

    What is needed to resume lies beside the cache: whichever run needs this baseline goes on.
    """
    phase, images = setup.source.phase, setup.data.identity()
    _, own = _beside(setup.source.cache)
    if engine.rank == 0:
        if (own / IMAGES).exists() and read_json(own / IMAGES) != images:
            engine.clear(own)
        write_json_atomic(own / IMAGES, images)
    engine.barrier()
    say(f"{who}: training {setup.source.name} for {phase.epochs} epochs")
    engine.fit(network, [phase], setup.source.training, BASELINE_KEY, own, title=who)
    if engine.rank == 0:
        for stale in (SPEC, *ACCURACIES.values()):
            (setup.source.cache / stale).unlink(missing_ok=True)
        write_json_atomic(setup.source.cache / IMAGES, images)
        # Many runs share it: it descends from none of them.
        save(network, setup.source.cache, replace(network_spec(setup), lineage=()))
    engine.barrier()
    engine.clear(own)
    return network


def _load(setup: Setup, network: nn.Module) -> WeightsReport:
    folder = saved_folder(setup.source.weights)
    if folder is None:
        return load_weights(network, setup.source.weights, setup.source.name)
    spec, file = read_spec(folder), folder / WEIGHTS
    report = load_weights(network, str(file), setup.source.name)
    check_digest(file, file_digest(file), spec.sha256)
    check_values(network, named_state(network), str(folder))
    return replace(report, mean=spec.mean and tuple(spec.mean), std=spec.std and tuple(spec.std))


def _compare_normalisation(setup: Setup, report: WeightsReport, who: str) -> None:
    """Say so if the weights were trained on images normalised in another way."""
    own = (tuple(setup.data.mean), tuple(setup.data.std))
    if report.mean is not None and report.std is not None and (report.mean, report.std) != own:
        say(
            f"{who}: {report.source} expects images normalised with mean {list(report.mean)} "
            f"and std {list(report.std)}; type +dataset.data.mean={_dense(report.mean)} "
            f"+dataset.data.std={_dense(report.std)} or it loses accuracy"
        )


def _dense(values: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"
