"""``inspect=true``: pictures of what each cut takes away, made while the full layer is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thinet.pruning.group import Watch
from thinet.report.sections.pruning.inspection import View, save_inspection
from thinet.run.session import Session
from thinet.surgery import Consumer, Group, evaluating
from thinet.surgery.calls import WeightCall
from thinet.surgery.observe import observe

IMAGES = 16
"""Images that the error of the next layer is averaged over."""


@dataclass(frozen=True)
class Seen:
    """What one pass over some images shows of a group.

    Attributes:
        output: Of the first layer that reads the group, from the mean that the BatchNorm behind it
            takes off: ``(N, D, h, w)`` or ``(N, D)``, on the CPU.
        maps: The group's channels as that layer reads them for the first image, ``(channels, h,
            w)``; None if they have no extent.
        units: The unit of each of these channels, int64 ``(channels,)``.
        reads_image: Whether the group's first layer reads the images themselves.
    """

    output: Tensor
    maps: Tensor | None
    units: Tensor
    reads_image: bool


def inspecting(session: Session[Any], images: Sequence[Tensor]) -> Watch | None:
    """What to call before each cut; what that returns is to be called after it.

    Only the first process looks and writes, and only if the run asks for it: None otherwise.

    Args:
        session: Of the run.
        images: Calibration images; the first is shown.
    """
    if not session.setup.inspect or not session.writes:
        return None
    few = torch.stack(list(images[:IMAGES])).to(session.engine.device)
    data = session.setup.data

    def before(network: nn.Module, group: Group) -> Callable[[nn.Module, Sequence[int]], None]:
        full = look(network, group, few)
        first = group.layers[0]
        weight = first.rows(network.get_parameter(first.weight)).detach().cpu().clone()

        def after(slim: nn.Module, kept: Sequence[int]) -> None:
            seen = look(slim, group, few, errors_only=True)
            image = _shown(few[0].cpu(), data.mean, data.std)
            view = make_view(group, weight, full, seen.output, kept, image)
            save_inspection(view, session.folder / "figures")

        return after

    return before


def look(network: nn.Module, group: Group, images: Tensor, errors_only: bool = False) -> Seen:
    """Run a network as far as the first reader of a group, and keep what is seen on the way.

    Args:
        network: Before or after the cut of this group.
        group: As it was before the cut.
        images: ``(N, C, H, W)``.
        errors_only: Leave out the maps.
    """
    reader, producer = reader_of(group), group.layers[0].weight
    # A linear layer reads features without places: what the ReLU before it lets through has them.
    last = producer if group.rectified is None else group.rectified.tensor
    watched = dict.fromkeys((reader.weight, producer, last), 1)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def note(call: WeightCall, output: Tensor, turn: int) -> None:
        # Copies, since both may be overwritten; the maps are those of one image.
        inputs[call.weight] = call.input[:1].detach().cpu().clone()
        shown = output if call.weight == reader.weight else output[:1]
        outputs[call.weight] = shown.detach().cpu().clone()

    with evaluating(network):
        observe(network, images, watched, note)
    output = outputs[reader.weight]
    buffers = dict(network.named_buffers())
    if reader.shift in buffers:
        shape = (1, -1) + (1,) * (output.dim() - 2)
        output -= buffers[reader.shift].detach().cpu().reshape(shape)
    maps, units = None, torch.empty(0, dtype=torch.int64)
    if not errors_only:
        maps, units = _maps(group, reader, inputs[reader.weight], outputs.get(last))
    reads_image = producer in inputs and torch.equal(inputs[producer], images[:1].cpu())
    return Seen(output, maps, units, reads_image)


def reader_of(group: Group) -> Consumer:
    """The first convolution that reads a group, or whatever reads it first."""
    return next((one for one in group.consumers if one.kind == "conv"), group.consumers[0])


def _maps(
    group: Group, reader: Consumer, fed: Tensor, last: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """The channels for the first image, and the unit of each."""
    if fed.dim() == 4:
        units = reader.channels[: fed.shape[1]]
        return fed[0][units >= 0], units[units >= 0]
    if last is None or last.dim() != 4:
        return None, torch.empty(0, dtype=torch.int64)
    rectified = group.rectified
    units = group.layers[0].units if rectified is None else rectified.units
    shown = last[0] if rectified is None else last[0].clamp_min(0)
    return shown[units >= 0], units[units >= 0]


def make_view(
    group: Group,
    weight: Tensor,
    full: Seen,
    output: Tensor,
    kept: Sequence[int],
    image: NDArray[np.float64],
) -> View:
    """Put together what is drawn.

    Args:
        group: As it was before the cut.
        weight: Of its first layer, before the cut, one filter a row.
        full: What was seen before the cut.
        output: What the reader gives after it.
        kept: Filters of the first layer that stay.
        image: To be shown.
    """
    first = group.layers[0]
    stays = first.units[torch.tensor(list(kept), dtype=torch.int64)]
    errors = _errors(full.output, output)
    located = errors.dim() == 3
    filters = None
    if full.reads_image and weight.dim() == 4 and min(weight.shape[2:]) > 1:
        filters = weight.movedim(1, 3) if weight.shape[1] == 3 else weight.mean(dim=1)
    # Where a unit is several filters, maps and filters are told apart one by one.
    units = first.units if full.maps is None else full.units
    if filters is not None and len(filters) != len(units):
        filters = None
    return View(
        layer=group.name,
        kept=torch.isin(units, stays).numpy(),
        image=image,
        maps=None if full.maps is None else full.maps.float().numpy(),
        filters=None if filters is None else filters.float().numpy(),
        reader=reader_of(group).name,
        error=errors.mean(dim=0).numpy() if located else None,
        image_error=errors[0].numpy() if located else None,
        relative_error=float(errors.mean()),
        images=len(errors),
    )


def _errors(before: Tensor, after: Tensor) -> Tensor:
    """Squared error of each image over the mean square of all, the mean over outputs.

    Returns:
        float64, ``(N, h, w)``, or ``(N,)`` for outputs without locations.
    """
    # Image by image, since the outputs of an early layer in float64 are large.
    square = sum(float(one.double().square().mean()) for one in before) / len(before)
    off = [
        (x.double() - y.double()).square().mean(dim=0) for x, y in zip(before, after, strict=True)
    ]
    return torch.stack(off) / max(square, torch.finfo(torch.float64).tiny)


def _shown(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float64]:
    """An image as it was before normalisation, ``(H, W, 3)`` or grey ``(H, W)``, in [0, 1]."""
    scale, offset = (torch.tensor(tuple(one)).double().reshape(-1, 1, 1) for one in (std, mean))
    pixels = (image.double() * scale + offset).clamp(0, 1)
    grey = pixels.shape[0] != 3
    shown: NDArray[np.float64] = (pixels.mean(dim=0) if grey else pixels.movedim(0, 2)).numpy()
    return shown
