"""Whether a compiled graph computes what the network does, layer by layer and as a whole.

One bit that rounding decides otherwise changes outputs by far more than rounding, and all layers
behind it. So a graph that also gives what goes in and out of the lowered layers is compared: each
layer on the very input that the graph gave it, and what lies between on what the graph's layers
gave. The graph that is deployed has to give that one's logits: at each place of a batch for one
image at least of a few, since the two may be fused in other ways, and then round otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.openvino.conversion import Converted, Lowers
from thinet.artifacts.openvino.deployed import Deployed, compiled
from thinet.artifacts.parity import relative, step_by_step
from thinet.base.errors import ThinetError
from thinet.surgery import evaluating

TOLERANCE = 1e-5
"""Of a layer's input or output, relative to the largest value in it."""
NEAR = 1e-6
"""Which numbers are at a threshold: OpenVINO sums in parts."""
LOGITS = 1e-4
"""Of logits that no bit stands before, relative to the largest."""
BATCHES = (1, 3)
_TRIES = 5  # images for each place of a batch, of which one has to give the same logits in both


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
    network: nn.Module, found: Converted, run: Deployed, images: Tensor | None = None
) -> float:
    """Compare a graph with the network that it was made from.

    Args:
        network: In float32 on the CPU.
        found: The graph.
        run: The same, as it is deployed.
        images: Real ones, of which a few are used; random ones are in any case.

    Returns:
        Largest difference of logits relative to the largest, of the graph as it is deployed; that
        of images where rounding decided a bit is as large as the network makes it.

    Raises:
        ThinetError: If they differ by more than rounding explains.
    """
    difference = 0.0
    with evaluating(network):
        for batch in BATCHES:
            observe = Observer(found, batch, run)
            given = [_random(batch, run.input_shape, seed) for seed in range(_TRIES)]
            _check_batches(network, observe, run, given)
            if images is not None and len(images):
                few = images[torch.arange(batch) % len(images)].to(torch.float32)
                _check_batches(network, observe, run, [few, *given])
                given.insert(0, few)
            wanted = network(given[0])
            difference = max(difference, float(_apart(run(given[0]), wanted).max()))
    return difference


def _random(batch: int, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * batch + seed)
    return torch.randn(batch, *shape, generator=generator)


def _check_batches(
    network: nn.Module, observe: Observer, run: Deployed, batches: Sequence[Tensor]
) -> None:
    """The first one layer by layer; as many as need be for the graph that is deployed.

    A place of a batch may have a fault of its own, so each has to agree once.
    """
    least = torch.tensor(float("inf"))
    for turn, images in enumerate(batches):
        calls, logits = observe(images)
        if not turn:
            _refuse("the logits differ", relative(logits, forced(network, images, calls)), LOGITS)
        least = torch.minimum(least, _apart(run(images), logits))
        if float(least.max()) <= LOGITS:
            return
    raise ThinetError(
        f"the logits differ in the graph of OpenVINO by {float(least.max()):.1e} from those of the "
        "same graph when its layers are looked at: it is not used."
    )


def _apart(made: Tensor, wanted: Tensor) -> Tensor:
    """Of each image, relative to the largest logit; infinite where it is none."""
    apart = (made - wanted).abs().flatten(1).amax(1) / wanted.abs().max().clamp_min(1e-12)
    return apart.nan_to_num(float("inf"))


class Observer:
    """The graph for one size of batches, with what goes in and out of its lowered modules.

    Args:
        found: The graph.
        batch: Images.
        run: Says for which images and with how many threads.
    """

    def __init__(self, found: Converted, batch: int, run: Deployed) -> None:
        self._paths = found.calls
        self._names = [
            f"call.{index}.{end}" for index in range(len(found.calls)) for end in ("given", "made")
        ]
        graph = found.graph.clone()
        try:
            graph.add_outputs(self._names)
        except Exception as error:  # of OpenVINO's own kinds
            raise ThinetError(
                "the graph of OpenVINO does not have the layers that were noted beside it: export "
                "the network again, thinet export <folder> --openvino."
            ) from error
        self._model: Any = compiled(graph, (batch, *run.input_shape), run.threads)
        self._request = self._model.create_infer_request()

    def __call__(self, images: Tensor) -> tuple[list[Call], Tensor]:
        """The calls in order, and the logits."""
        found = self._request.infer(images.numpy())
        places = [self._model.output(0), *(self._model.output(name) for name in self._names)]
        logits, *made = [torch.from_numpy(found[place].copy()) for place in places]
        pairs = zip(made[::2], made[1::2], strict=True)
        calls = [Call(path, *pair) for path, pair in zip(self._paths, pairs, strict=True)]
        return calls, logits


def forced(network: nn.Module, images: Tensor, calls: Sequence[Call]) -> Tensor:
    """The network's logits if its lowered modules gave what the graph's gave; each is compared.

    Raises:
        ThinetError: If an input or an output of a call differs, or there are others.
    """
    seen = [(call.given, call.made) for call in calls]
    logits, found = step_by_step(network, images, seen, Lowers, NEAR)
    for one in found:
        _refuse(one.what, one.by, TOLERANCE)
    return logits


def _refuse(what: str, by: float, tolerance: float) -> None:
    if not by <= tolerance:
        raise ThinetError(
            f"{what} in the graph of OpenVINO by {by:.1e} of the largest value: it is not used."
        )
