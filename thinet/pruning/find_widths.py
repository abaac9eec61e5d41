"""Widths that only the trained network and its data can tell: by error, or by latency."""

from __future__ import annotations

from torch import nn

from thinet.base.messages import say
from thinet.engine.engine import Engine
from thinet.pruning.calibrate import calibrate
from thinet.pruning.loss_curves import loss_curves
from thinet.pruning.settings import Choosing
from thinet.surgery import trace
from thinet.training.images import Supply
from thinet.widths.choose import Request, choose_counts, choose_groups


def find_counts(
    request: Request, choosing: Choosing, engine: Engine, images: Supply, network: nn.Module
) -> dict[str, int]:
    """The units that each group keeps, the same on every process.

    Args:
        request: Layers, ratios, budget.
        choosing: How filters are chosen.
        engine: Gives the device.
        images: Gives the calibration images.
        network: The full, trained network.

    Raises:
        ThinetError: If the target is out of reach.
    """
    calibration = calibrate(engine, images, choosing.sampling, choosing.batch_size)
    network.to(engine.device)
    few = next(iter(calibration.batches()))[:2].to(engine.device)
    graph = trace(network, few[:1])
    names, _ = engine.decide(lambda: choose_groups(network, graph, request, few))
    losses = None
    if request.widths.allocation == "error":
        say(f"plan: predicting the loss of {len(names)} layers at every width")
        losses = loss_curves(
            network, graph, names, choosing.criterion, choosing.reconstruction, calibration
        )
    shape = tuple(engine.data.input_shape)
    # Measured times differ from process to process, so one of them decides, or refuses for all.
    return engine.decide(lambda: choose_counts(network, graph, names, request, shape, losses))
