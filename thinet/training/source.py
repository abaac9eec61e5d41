"""The full network that everything is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
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
    check_savable,
    load,
    load_state_,
    read_spec,
    read_state,
    save,
)
from thinet.base.errors import ThinetError
from thinet.base.files import check_space, read_json, write_json_atomic
from thinet.base.folders import check_own
from thinet.base.messages import say
from thinet.base.seeding import derive_seed
from thinet.engine.engine import Engine
from thinet.metrics import cost, latency_ms
from thinet.models import build
from thinet.models.weights import WeightsReport, load_weights
from thinet.run.lock import one_at_a_time
from thinet.run.setup import Job

ACCURACY = "accuracy.json"
IMAGES = "data.json"
COPIES = 12
"""Times the size of a network's weights that a run needs on the disk, checkpoints and all."""


def network_spec(job: Job, kept: Mapping[str, Sequence[int]] | None = None, **more: Any) -> Spec:
    """The spec of a network of this job.

    Args:
        job: The run.
        kept: Filters of each layer cut in this run that stayed, in coordinates of the network that
            the run began with.
        more: Other fields of the spec.
    """
    folder = saved_folder(job.model.weights)
    before = Spec() if folder is None else read_spec(folder)
    arguments = {
        **job.model.arguments,
        "num_classes": job.data.num_classes,
        "image_size": job.data.image_size,
    }
    return Spec(
        builder=Builder(job.model.target, arguments),
        input_shape=tuple(job.data.input_shape),
        mean=tuple(job.data.mean),
        std=tuple(job.data.std),
        classes=tuple(job.data.classes),
        keep=in_original(before.keep, kept or {}),
        transforms=before.transforms,
        **more,
    )


def build_network(job: Job) -> nn.Module:
    """The network that a run begins with, with the seed's own random weights.

    It is at full width, or as wide as the saved network that ``model.weights`` names.
    """
    builder = network_spec(job).builder
    assert builder is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(job.seed, "init"))
        network = build(builder.target, **builder.arguments)
    check_savable(network)
    folder = saved_folder(job.model.weights)
    return network if folder is None else narrow_(network, folder, tuple(job.data.input_shape))


def restore_network(job: Job, engine: Engine, path: Path) -> nn.Module:
    """The network with the shapes and weights of a file that the first process reads for all."""
    return rebuilt_network(job, engine.decide(lambda: read_state(path)), path)


def rebuilt_network(job: Job, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network with the shapes and weights of ``state``, which was read from ``path``."""
    network = build_network(job)
    load_state_(network, state, str(path))
    return network


def prepare_baseline(job: Job, engine: Engine, folder: Path) -> nn.Module:
    """Load the full network, or train it and keep it for the next run.

    Raises:
        ThinetError: If it has to be trained, but ``baseline.train=never``; or if the disk has too
            little space for the run.
    """
    check_own(job.cache, *_beside(job.cache))
    network = build_network(job)
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    check_space(folder, COPIES * size + 20_000_000)
    report = _load(job, network)
    if report.loaded:
        say(f"baseline: {report.loaded} tensors from {report.source}")
    if report.replaced_head:
        say(f"baseline: the classifier is new, for {job.data.num_classes} classes")
    _compare_normalisation(job, report)
    needed = not report.loaded or report.replaced_head
    if needed and job.baseline.train == "never":
        raise ThinetError(
            f"baseline.train=never, but model.weights={job.model.weights} leaves "
            f"{'the classifier' if report.loaded else 'the network'} untrained: give a file of "
            "trained weights, or type baseline.train=auto (with baseline.epochs=0 it stays so)."
        )
    train = job.baseline.train == "always" or (job.baseline.train == "auto" and needed)
    if not train:
        return network
    if not job.baseline.phase.epochs:
        return _cached(job, engine) or network
    wait = partial(say, "baseline: another run is training it; waiting for that one")
    lock, _ = _beside(job.cache)
    with one_at_a_time(lock, engine.rank == 0, engine.agree, wait):
        return _cached(job, engine) or _train(job, engine, network)


def _beside(cache: Path) -> tuple[Path, Path]:
    """The lock of a cached baseline, and where it is trained."""
    return cache.with_name(f"{cache.name}.lock"), cache.with_name(f"{cache.name}.training")


def _cached(job: Job, engine: Engine) -> nn.Module | None:
    """The baseline that an earlier run trained on the same images; all processes have it or none.

    Raises:
        ThinetError: On every process, if the first can read it and another cannot.
    """
    found = _read_cached(job)
    read = engine.gather(found is not None)
    if not read[0]:
        return None
    if not all(read):
        raise ThinetError(
            f"{job.cache} cannot be read by every process of this run: type the same command "
            "again, or give all machines the same paths.cache."
        )
    engine.count_trained([job.baseline.phase])
    return found


def _read_cached(job: Job) -> nn.Module | None:
    if not (job.cache / SPEC).exists():
        return None
    images = job.cache / IMAGES
    if images.exists() and read_json(images) != job.data.identity():
        say("baseline: the data set has changed since it was trained; training it again")
        return None
    try:
        cached = load(job.cache)
    except ThinetError as error:
        say(f"baseline: {error} Training it again.")
        return None
    say(f"baseline: trained before, from {job.cache}")
    return cached.train()


def _train(job: Job, engine: Engine, network: nn.Module) -> nn.Module:
    """Train the baseline and keep it; ``spec.json``, written last, says that it is complete.

    What is needed to resume lies beside the cache: whichever run needs this baseline goes on.
    """
    phase, images = job.baseline.phase, job.data.identity()
    _, own = _beside(job.cache)
    if engine.rank == 0:
        if (own / IMAGES).exists() and read_json(own / IMAGES) != images:
            engine.clear(own)
        write_json_atomic(own / IMAGES, images)
    engine.barrier()
    say(f"baseline: training {job.model.name} for {phase.epochs} epochs")
    engine.fit(network, [phase], job.baseline.training, "baseline", own)
    if engine.rank == 0:
        for stale in (SPEC, ACCURACY):
            (job.cache / stale).unlink(missing_ok=True)
        write_json_atomic(job.cache / IMAGES, images)
        save(network, job.cache, network_spec(job))
    engine.barrier()
    engine.clear(own)
    return network


def _load(job: Job, network: nn.Module) -> WeightsReport:
    folder = saved_folder(job.model.weights)
    if folder is None:
        return load_weights(network, job.model.weights, job.model.name)
    spec = read_spec(folder)
    report = load_weights(network, str(folder / WEIGHTS), job.model.name)
    return replace(report, mean=spec.mean and tuple(spec.mean), std=spec.std and tuple(spec.std))


def _compare_normalisation(job: Job, report: WeightsReport) -> None:
    """Say so if the weights were trained on images normalised in another way."""
    own = (tuple(job.data.mean), tuple(job.data.std))
    if report.mean is not None and report.std is not None and (report.mean, report.std) != own:
        say(
            f"baseline: {report.source} expects images normalised with mean {list(report.mean)} "
            f"and std {list(report.std)}; type +dataset.data.mean={_dense(report.mean)} "
            f"+dataset.data.std={_dense(report.std)} or it loses accuracy"
        )


def _dense(values: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"


def baseline_metrics(job: Job, engine: Engine, network: nn.Module) -> dict[str, Any]:
    """Figures of the baseline; the points of a sweep share its accuracies like its weights."""
    path = job.cache / ACCURACY
    shared = engine.world == 1  # processes must not disagree on whether to evaluate
    images = job.data.identity()
    if shared and path.exists():
        known = read_json(path)
        if known.pop("data", images) == images:
            return {**known, **measure(engine, network, tuple(job.data.input_shape))}
    metrics = evaluate_fully(job, engine, network)
    if shared:
        accuracies = {key: metrics[key] for key in ("top1", "top5", "val_top1", "val_top5")}
        write_json_atomic(path, {**accuracies, "data": images})
    return metrics


def measure(engine: Engine, network: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Costs and latency of a network; see the result's METRICS."""
    network.to(engine.device)
    return {**asdict(cost(network, shape)), "latency_ms": latency_ms(network, shape)}


def evaluate_fully(job: Job, engine: Engine, network: nn.Module) -> dict[str, Any]:
    """Accuracy on test and validation, costs and latency."""
    test, val = engine.evaluate(network, "test"), engine.evaluate(network, "val")
    return {
        "top1": test.top1,
        "top5": test.top5,
        "val_top1": val.top1,
        "val_top5": val.top5,
        **measure(engine, network, tuple(job.data.input_shape)),
    }
