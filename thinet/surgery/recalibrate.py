"""Re-estimating BatchNorm statistics that surgery has made stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thinet.base.errors import ThinetError
from thinet.surgery.modes import evaluating


@torch.no_grad()
def recalibrate_(
    network: nn.Module,
    batches: Iterable[Tensor],
    forward: Callable[[Tensor], object] | None = None,
    advice: str = "type recalibrate_bn=never",
) -> int:
    """Re-estimate the running statistics of every BatchNorm layer, in place.

    The statistics become the cumulative average over the batches (``momentum=None``), in
    ``train()`` mode for the BatchNorm layers alone: dropout stays off, no weight changes.

    Args:
        network: The network; its modes are left as they were.
        batches: Images, ``(N, C, H, W)``, without augmentation. A last batch of one image is
            left out if there are others: it has no variance.
        forward: Runs the network on a batch, perhaps not to its end: BatchNorms that it does not
            reach stay as they are. None for the network itself.
        advice: What to type instead, for messages.

    Returns:
        How many layers were re-estimated (0: there is none that keeps statistics).

    Raises:
        ThinetError: If a single image has a single value for some channel, or activations are not
            finite; after this and any other error the statistics are what they were.
    """
    layers = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not layers:
        return 0
    momenta = {layer: layer.momentum for layer in layers}
    before = {layer: [stale.clone() for stale in _statistics(layer)] for layer in layers}
    device = next(network.parameters()).device
    seen = size = 0
    try:
        with evaluating(network):
            for layer in layers:
                layer.reset_running_stats()
                layer.train()
                layer.momentum = None
            for batch in batches:
                size = len(batch)
                if size > 1 or not seen:
                    (forward or network)(batch.to(device))
                    seen += size
        _check_finite(layers, advice)
    except BaseException as error:  # Ctrl-C, too, must not leave half an average behind
        _restore_(before)
        if not isinstance(error, ValueError) or size != 1:
            raise
        # BatchNorm's own, where a map is one pixel
        raise ThinetError(
            "one image gives BatchNorm no variance: pass at least two calibration images, or "
            f"{advice}."
        ) from error
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    missed = {layer: before[layer] for layer in layers if not layer.num_batches_tracked}
    _restore_(missed)
    return len(layers) - len(missed)


def _check_finite(layers: Iterable[_BatchNorm], advice: str) -> None:
    if not all(bool(value.isfinite().all()) for layer in layers for value in _statistics(layer)):
        raise ThinetError(
            "the activations on the calibration images are not finite, so no BatchNorm statistics "
            "can be estimated on them: look for NaN or huge values in the images, or "
            f"{advice}."
        )


def _restore_(statistics: Mapping[_BatchNorm, Sequence[Tensor]]) -> None:
    for layer, values in statistics.items():
        for value, stale in zip(_statistics(layer), values, strict=True):
            value.copy_(stale)


def _statistics(layer: _BatchNorm) -> list[Tensor]:
    found = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    return [value for value in found if value is not None]
