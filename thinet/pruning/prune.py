"""``thinet.prune``: any classifier, in one call, without fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.collective import agree, decided
from thinet.base.errors import ThinetError
from thinet.base.values import flag, layer_names, shown, whole
from thinet.datasets.batches import gathered, shared
from thinet.metrics import Cost, cost
from thinet.pruning.criteria import Candidates, Criterion
from thinet.pruning.given import check_runs, copied, device_of
from thinet.pruning.group import Calibration, LayerRecord, prune_groups_
from thinet.pruning.loss_curves import loss_curves
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.registry import choose
from thinet.pruning.statistics import Reference, Sampling
from thinet.surgery import (
    ChannelGraph,
    check_weights,
    recalibrate_,
    trace,
    without_autocast,
)
from thinet.widths.choose import Request, check_cut, choose_counts, choose_groups
from thinet.widths.ratio import check_ratio
from thinet.widths.target import Target, Widths, recalibration


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


@torch.inference_mode(False)  # where nothing could be traced, nor the result trained
@without_autocast  # statistics are not taken from rounded activations, and the trace sees no casts
def prune(
    model: nn.Module,
    batches: Iterable[Any],
    ratio: float | Mapping[str, float] = 0.5,
    criterion: str | Criterion = "thinet",
    reconstruction: str | Reconstruction = "scale",
    layers: str | Sequence[str] = "inner",
    *,
    target: str | Target | None = None,
    allocation: str = "uniform",
    round_to: int = 1,
    recalibrate_bn: str | bool = "after",
    sampling: Sampling | None = None,
    batch_size: int = 64,
    distributed: bool = False,
) -> PruneResult:
    """Prune a network in one shot, group by group, without fine-tuning.

    Args:
        model: Any classifier; left as it was. The slim network is a copy on the same device.
        batches: Calibration images: an iterable of tensors ``(N, C, H, W)`` or of tuples
            ``(images, labels, ...)``, for example a ``DataLoader``. A few hundred images are
            enough; labels are needed for criteria that look at the loss.
        ratio: Fraction of filters **kept**, in (0, 1], or a mapping from layer names or globs.
        criterion: The name of a file in ``thinet/pruning/criteria`` (``thinet``,
            ``weight_sum``, ...) or a :class:`thinet.pruning.criteria.Criterion`.
        reconstruction: A name (``none``, ``scale``, ``refit``) or a
            :class:`thinet.pruning.reconstruction.Reconstruction`.
        layers: ``"inner"`` (layers whose output is not added to that of others), ``"all"``
            (residual streams too), a name or glob, or a list of those.
        target: A budget instead of ``ratio``: ``"flops:0.5"``, ``"params:0.4"`` or
            ``"latency:0.6"``, the fraction of the network's cost that may be left, or the amount:
            ``"flops:150M"``, ``"macs:75M"`` (the same), ``"params:1.2M"`` or ``"latency:2.5ms"``.
        allocation: ``"uniform"`` (one ratio that meets the target) or ``"error"`` (the target is
            met where the loss for each unit of cost is least).
        round_to: Widths become multiples of this, where a layer is wide enough.
        recalibrate_bn: Re-estimate BatchNorm statistics on the calibration images: ``"after"`` all
            cuts (or True), after ``"each"`` cut, or ``"never"`` (or False).
        sampling: How much of each image the statistics look at.
        batch_size: Images in a forward pass; the result does not depend on it.
        distributed: Every process of the ``torch.distributed`` group makes this call, each with its
            own share of the images: all shares count, and all networks are cut alike. By default a
            call waits for no other process. With NCCL each has to call
            ``torch.cuda.set_device`` before.

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
    parts = _Parts.of(criterion, reconstruction, recalibrate_bn)
    request = _request(layers, ratio, target, allocation, round_to)
    calibration = _calibration(
        batches, parts.reconstruction, model, sampling, batch_size, distributed
    )
    shape = tuple(calibration.images[0].shape)
    slim, graph, few = _traced(model, calibration)
    names, skipped = choose_groups(slim, graph, request, few)
    counts = _counts(slim, graph, names, request, parts, calibration)
    check_cut(slim, graph, counts, few)
    records = _cut_(slim, graph, counts, parts, calibration)
    return PruneResult(slim, records, cost(model, shape), cost(slim, shape), skipped, shape)


@dataclass(frozen=True)
class _Parts:
    """What ranks, repairs and recalibrates."""

    criterion: Criterion
    reconstruction: Reconstruction
    recalibrate: str

    @classmethod
    def of(
        cls,
        criterion: str | Criterion,
        reconstruction: str | Reconstruction,
        recalibrate_bn: str | bool,
    ) -> _Parts:
        """By name or as they are."""
        base = Reconstruction
        return cls(
            choose("criteria", criterion, Criterion),  # type: ignore[type-abstract]
            choose("reconstruction", reconstruction, base),  # type: ignore[type-abstract]
            recalibration(recalibrate_bn),
        )


def _calibration(
    batches: Iterable[Any],
    reconstruction: Reconstruction,
    model: nn.Module,
    sampling: Sampling | None,
    batch_size: int,
    distributed: bool,
) -> Calibration:
    """The images, of all processes if they share them, and how they are looked at."""
    sampling = Sampling() if sampling is None else sampling
    if not isinstance(sampling, Sampling):
        raise ThinetError(
            f"sampling={shown(sampling)} is no thinet.pruning.statistics.Sampling: pass for "
            "example sampling=Sampling(locations=10)."
        )
    batch_size = whole("batch_size", batch_size, "64")
    device_of(model)
    gather = shared if flag("distributed", distributed) else gathered
    images, labels, rank, world = gather(batches)
    reference = Reference(model) if reconstruction.aims_at_original else None
    return Calibration(
        images, sampling, batch_size, rank, world, labels=labels, reference=reference
    )


def _traced(model: nn.Module, calibration: Calibration) -> tuple[nn.Module, ChannelGraph, Tensor]:
    """A copy of the network, its trace, and the images that it was checked with."""
    slim = copied(model)
    few = torch.stack(list(calibration.images[:2])).to(device_of(model))
    check_weights(slim)
    check_runs(slim, few)
    return slim, trace(slim, few[:1]), few


def _counts(
    slim: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    request: Request,
    parts: _Parts,
    calibration: Calibration,
) -> dict[str, int]:
    """How many units each group keeps, decided by the first process."""
    criterion, shape = parts.criterion, tuple(calibration.images[0].shape)
    for name in names:
        criterion.check(Candidates.of(slim, graph.groups[name]))
    losses = None
    if request.widths.allocation == "error":
        losses = loss_curves(slim, graph, names, criterion, parts.reconstruction, calibration)
    return decided(  # measured times differ from process to process
        lambda: choose_counts(slim, graph, names, request, shape, losses),
        calibration.rank == 0,
        partial(agree, world=calibration.world),
    )


def _cut_(
    slim: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    parts: _Parts,
    calibration: Calibration,
) -> list[LayerRecord]:
    """Cut group by group, in place."""
    if calibration.reference is not None:
        groups = [graph.groups[name] for name in counts]
        calibration.reference.expect(groups, graph, len(calibration.images))
    records, _ = prune_groups_(
        slim, graph, counts, parts.criterion, parts.reconstruction, calibration,
        recalibrate=parts.recalibrate == "each",
    )  # fmt: skip
    if parts.recalibrate == "after":
        recalibrate_(slim, calibration.batches())
    return records


def _request(
    layers: str | Sequence[str],
    ratio: float | Mapping[str, float],
    target: str | Target | None,
    allocation: str,
    round_to: int,
) -> Request:
    """What was asked for, checked as the command line's settings are."""
    layer_names(layers)
    check_ratio(ratio)
    budget = target if target is None or isinstance(target, Target) else Target.parse(target)
    return Request(layers, ratio, Widths(budget, allocation, round_to))
