"""Pruning one layer after the other: what ``thinet.prune`` and the experiment runs share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinet.criteria import Criterion
from thinet.errors import ThinetError
from thinet.metrics import Cost, cost
from thinet.options import find
from thinet.reconstruction import Reconstruction, Scale, recalibrate_, relative_error, scale_factors
from thinet.seeding import derive_seed
from thinet.statistics import ContributionMoments, Evidence, Sampling, collect, shard
from thinet.surgery import (
    Layer,
    check_plan,
    remove_,
    resolve_counts,
    resolve_layers,
    trace,
)


@dataclass(frozen=True)
class LayerRecord:
    """What happened to one layer.

    Attributes:
        layer: Module path.
        filters_before: Filters when this cut began.
        kept: The filters that stayed, numbered as they were before this cut.
        rows: Rows of the statistics behind the choice, None if it looked at no data.
        error: Relative squared error of the next layer's output on the sampled rows, by the kept
            filters alone; None without sampled contributions.
        error_corrected: The same with the paper's factors; None unless those were applied.
    """

    layer: str
    filters_before: int
    kept: list[int]
    rows: int | None
    error: float | None
    error_corrected: float | None


@dataclass(frozen=True)
class PruneResult:
    """What :func:`prune` returns.

    Attributes:
        model: The slim network; the network that was given is left as it was.
        layers: A record for each pruned layer, in order.
        before: Cost of the network that was given.
        after: Cost of the slim network.
        skipped: Layers that were asked for by ``all`` or a glob but left whole, and why.
        input_shape: ``(C, H, W)`` of the calibration images.
    """

    model: nn.Module
    layers: list[LayerRecord]
    before: Cost
    after: Cost
    skipped: dict[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """The images that the choice is made on, and how they are shared between processes.

    Attributes:
        images: Each ``(C, H, W)``, without augmentation.
        sampling: How much of them to look at.
        batch: Images a forward pass.
        rank: This process.
        world: How many processes there are.
    """

    images: Sequence[Tensor]
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = 64
    rank: int = 0
    world: int = 1

    def batches(self) -> Iterable[Tensor]:
        """All images in batches, the same on every process."""
        return (batch for batch, _ in shard(self.images, 0, 1, self.batch))


def prune_layer_(
    network: nn.Module,
    name: str,
    count: int,
    criterion: Criterion,
    reconstruction: Reconstruction,
    calibration: Calibration,
) -> LayerRecord:
    """Choose the filters of one layer, correct the layers that read it, and cut, in place.

    Args:
        network: The network, changed in place.
        name: Module path of the layer.
        count: How many filters stay.
        criterion: Chooses them.
        reconstruction: Corrects the consumers' weights.
        calibration: The images.

    Raises:
        ThinetError: If activations are not finite, or the layer cannot be pruned.
    """
    parameter = next(network.parameters())
    example = calibration.images[0][None].to(parameter.device)
    graph = trace(network, example)
    layer = graph.layers[name]
    if layer.reason is not None:
        raise ThinetError(
            f"layer {name} cannot be pruned: {layer.reason}; leave it out of layers=."
        )
    evidence = collect(
        network,
        layer,
        [*criterion.needs, *reconstruction.needs],
        shard(calibration.images, calibration.rank, calibration.world, calibration.batch),
        calibration.sampling,
        len(calibration.images),
    )
    weight = network.get_parameter(layer.weight)
    seed = derive_seed(calibration.sampling.seed, "select", name)
    keep = _agree(criterion.select(weight, evidence, count, seed).keep, parameter.device)
    _correct_(network, layer, keep, reconstruction, evidence)
    record = _record(
        layer, keep, reconstruction, evidence, {*criterion.needs, *reconstruction.needs}
    )
    remove_(network, graph, {name: record.kept})
    return record


def _agree(keep: Tensor, device: torch.device) -> Tensor:
    """The choice of the first process, on every process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared = keep.to(device)
        torch.distributed.broadcast(shared, 0)
        keep = shared.cpu()
    return keep


@torch.no_grad()
def _correct_(
    network: nn.Module,
    layer: Layer,
    keep: Tensor,
    reconstruction: Reconstruction,
    evidence: Evidence,
) -> None:
    for consumer in layer.consumers:
        weight = network.get_parameter(consumer.weight)
        weight.copy_(reconstruction.correct(weight, consumer, keep, evidence))


def _record(
    layer: Layer,
    keep: Tensor,
    reconstruction: Reconstruction,
    evidence: Evidence,
    needs: set[Any],
) -> LayerRecord:
    error = corrected = None
    if ContributionMoments in needs:
        gram = evidence[ContributionMoments].gram
        error = relative_error(gram, keep)
        if isinstance(reconstruction, Scale):
            corrected = relative_error(gram, keep, scale_factors(gram, keep, reconstruction.ridge))
    kept = [int(index) for index in keep]
    return LayerRecord(layer.name, layer.filters, kept, evidence.rows(), error, corrected)


def prune(
    model: nn.Module,
    batches: Iterable[Any],
    ratio: float | Mapping[str, float] = 0.5,
    criterion: str | Criterion = "thinet",
    reconstruction: str | Reconstruction = "scale",
    layers: str | Sequence[str] = "all",
    *,
    recalibrate_bn: bool = True,
    sampling: Sampling | None = None,
) -> PruneResult:
    """Prune a network in one shot, layer by layer, without fine-tuning.

    Args:
        model: Any classifier; left as it was. The slim network is a copy on the same device.
        batches: Calibration images: an iterable of tensors ``(N, C, H, W)`` or of tuples that
            begin with one, for example a ``DataLoader``. A few hundred images are enough.
        ratio: Fraction of filters **kept**, in (0, 1], or a mapping from layer names or globs.
        criterion: A name (``thinet``, ``thinet_omp``, ``weight_sum``, ``apoz``, ``random``) or a
            :class:`thinet.criteria.Criterion`.
        reconstruction: A name (``none``, ``scale``, ``refit``) or a
            :class:`thinet.reconstruction.Reconstruction`.
        layers: ``"all"``, a name or glob, or a list of those.
        recalibrate_bn: Re-estimate BatchNorm statistics on the calibration images afterwards.
        sampling: How much of each image the statistics look at.

    Returns:
        The slim network, a record for each layer, and the costs before and after.

    Raises:
        ThinetError: If the request makes no sense or the network cannot be pruned as asked.

    Example:
        >>> import torch, torchvision, thinet
        >>> net = torchvision.models.resnet18(num_classes=10)
        >>> result = thinet.prune(net, [torch.randn(8, 3, 64, 64)], ratio=0.5)
        >>> result.after.flops < result.before.flops
        True
    """
    if isinstance(criterion, str):
        criterion = find("criteria", criterion, Criterion)  # type: ignore[type-abstract]
    if isinstance(reconstruction, str):
        kind = Reconstruction
        reconstruction = find("reconstruction", reconstruction, kind)  # type: ignore[type-abstract]
    images = _gather(batches)
    shape = tuple(images[0].shape)
    slim = copy.deepcopy(model)
    device = next(slim.parameters()).device
    graph = trace(slim, images[0][None].to(device))
    chosen, skipped = resolve_layers(graph, layers)
    counts = resolve_counts(graph, chosen, ratio)
    check_plan(slim, graph, counts, torch.stack(list(images[:2])).to(device))
    calibration = Calibration(images, sampling or Sampling())
    records = [
        prune_layer_(slim, name, count, criterion, reconstruction, calibration)
        for name, count in counts.items()
        if count < graph.layers[name].filters
    ]
    if recalibrate_bn:
        recalibrate_(slim, calibration.batches())
    return PruneResult(slim, records, cost(model, shape), cost(slim, shape), skipped, shape)


def _gather(batches: Iterable[Any]) -> list[Tensor]:
    images: list[Tensor] = []
    for batch in batches:
        tensor = batch[0] if isinstance(batch, (list, tuple)) else batch
        if not isinstance(tensor, Tensor) or tensor.dim() != 4:
            raise ThinetError(
                "batches must hold image tensors of shape (N, C, H, W), alone or first in a tuple: "
                "pass a DataLoader or a list of such batches."
            )
        images.extend(tensor)
    if not images:
        raise ThinetError("batches holds no images: pass at least one batch of (N, C, H, W).")
    return images
