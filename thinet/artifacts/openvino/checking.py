"""Whether a compiled graph computes what the network does, layer by layer and as a whole.

One bit that rounding decides otherwise changes outputs by far more than rounding, and all layers
behind it; so each layer is compared on the very input that the graph gave it, and the layers
between are run on what the graph's layers gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.openvino.conversion import Converted, Lowers
from thinet.artifacts.openvino.deployed import compiled
from thinet.base.errors import ThinetError
from thinet.surgery import evaluating

TOLERANCE = 1e-5
"""Of a layer's input or output, relative to the largest value in it."""
LOGITS = 1e-4
"""Of logits where no bit stands between, relative to the largest."""
FREE = 0.1
"""Of logits where rounding may have decided bits: most images stay far below, a fault does not."""
BATCHES = (1, 3)


@dataclass(frozen=True)
class Call:
    """What the graph computed in one call of a lowered module.

    Attributes:
        path: The module's.
        given: Its input.
        made: Its output.
    """

    path: str
    given: Tensor
    made: Tensor


@torch.no_grad()
def check(
    network: nn.Module,
    found: Converted,
    input_shape: tuple[int, ...],
    threads: int,
    images: Tensor | None = None,
) -> float:
    """Compare a graph with the network that it was made from.

    Args:
        network: In float32 on the CPU.
        found: The graph.
        input_shape: ``(C, H, W)``.
        threads: That the graph computes with.
        images: Real ones, if there are any; random ones are used in any case.

    Returns:
        Largest difference of logits relative to the largest, of the graph as it is deployed.

    Raises:
        ThinetError: If they differ by more than rounding explains.
    """
    worst = [
        _batch_difference(network, found, _random(batch, input_shape), threads) for batch in BATCHES
    ]
    if images is not None:
        worst.append(_batch_difference(network, found, images.float(), threads))
    return max(worst)


def _random(batch: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def _batch_difference(network: nn.Module, found: Converted, images: Tensor, threads: int) -> float:
    calls, logits = observed(found, images, threads)
    with evaluating(network):
        wanted = forced(network, images, calls)
        free = network(images)
    _compare("the logits differ", logits, wanted, LOGITS)
    deployed = _run(found.graph, images, threads)[0]
    apart = (deployed - free).abs().flatten(1).amax(1) / free.abs().max().clamp_min(1e-12)
    limit = FREE if found.calls else LOGITS
    if not float(apart.median()) <= limit:  # of an even number the lower one
        raise ThinetError(
            f"the deployed network's logits differ from the original's by "
            f"{float(apart.median()):.1e}: it is not used."
        )
    return float(apart.max())


def observed(found: Converted, images: Tensor, threads: int) -> tuple[list[Call], Tensor]:
    """What goes in and out of each call of a lowered module, and the logits."""
    graph, names = found.graph.clone(), []
    for index in range(len(found.calls)):
        names += [f"call.{index}.given", f"call.{index}.made"]
    graph.add_outputs(names)
    logits, *made = _run(graph, images, threads, names)
    pairs = zip(made[::2], made[1::2], strict=True)
    return [Call(path, *pair) for path, pair in zip(found.calls, pairs, strict=True)], logits


def _run(graph: Any, images: Tensor, threads: int, names: Sequence[str] = ()) -> list[Tensor]:
    """The logits and the tensors of some names, of which several may be one."""
    model = compiled(graph, tuple(images.shape), threads)
    found = model.create_infer_request().infer(images.numpy())
    places = [model.output(0), *(model.output(name) for name in names)]
    return [torch.from_numpy(found[place].copy()) for place in places]


def forced(network: nn.Module, images: Tensor, calls: list[Call]) -> Tensor:
    """The network's logits if its lowered modules gave what the graph's gave; each is compared.

    Raises:
        ThinetError: If an input or an output of a call differs.
    """
    left = list(calls)

    def taken(module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
        call = left.pop(0)
        _compare(f"the input of {call.path} differs", call.given, given[0], TOLERANCE)
        assert isinstance(module, Lowers)
        wanted, slack = module.forward(call.given), module.rounding(call.given)
        _compare(f"{call.path} differs", call.made, wanted, TOLERANCE, slack)
        return call.made

    hooks = [
        module.register_forward_hook(taken)
        for module in network.modules()
        if isinstance(module, Lowers)
    ]
    try:
        made: Tensor = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return made


def _compare(
    what: str, made: Tensor, wanted: Tensor, tolerance: float, slack: Tensor | float = 0.0
) -> None:
    if made.shape != wanted.shape:
        raise ThinetError(
            f"{what} in the graph of OpenVINO: {tuple(made.shape)} instead of "
            f"{tuple(wanted.shape)}; it is not used."
        )
    size = float(wanted.abs().max())
    beyond = (made - wanted).abs() - slack
    worst = float(beyond.max()) / max(size, 1e-12)
    if not worst <= tolerance:
        raise ThinetError(
            f"{what} in the graph of OpenVINO by {worst:.1e} of the largest value: it is not used."
        )
