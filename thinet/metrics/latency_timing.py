"""Timing the parts of a network in place, at many widths, for a table of its latency.

Whole networks run, and a stamp is taken whenever a layer is called. So each part is timed where it
belongs, with what is then in the caches; what lies between layers (activations, additions, pooling)
goes to the layer before; and the parts of a pass add up to the pass.
"""

from __future__ import annotations

import hashlib
import math
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from thinet.metrics.latency_fit import (
    CHECKED,
    FITTED,
    Counts,
    Reading,
    checked,
    design,
    drawn,
    fitted,
)
from thinet.metrics.latency_stamps import Timed, turns
from thinet.metrics.latency_table import Conditions, Floats, LatencyTable
from thinet.surgery import ChannelGraph, trace, without_autocast

LAYERS = 256
"""Of networks that take turns, in all: oneDNN keeps the code of 1,024 operations, of which a layer
of each shape takes up to three; others are compiled anew at every call."""

Widths = Mapping[str, Sequence[int]]
Tell = Callable[[str], object]


@without_autocast
@torch.no_grad()
def measure_latency(
    network: nn.Module,
    widths: Widths,
    shape: tuple[int, ...],
    *,
    graph: ChannelGraph | None = None,
    batch: int = 1,
    levels: int = 11,
    rounds: int = 3,
    passes: int = 3,
    seed: int = 0,
    tell: Tell | None = None,
) -> LatencyTable:
    """Time the parts of a network at many widths, in ``eval()``, where and as it is.

    Args:
        network: Left as it was; its weights do not matter.
        widths: Of each group the units that it may keep, rising; other groups stay whole.
        shape: ``(C, H, W)`` of an image.
        graph: Its trace, if there is one already.
        batch: Images a pass.
        levels: At most so many widths of each group are timed, and others read off between them;
            the largest prime ``p`` of at most that many takes ``p * p + p`` networks.
        rounds: Times that all of these are gone through, so that a disturbance meets few of them.
        passes: Timed passes of each network a round, after one that is not.
        seed: Of the widths that are timed.
        tell: Takes a line a round, and the error at the end.

    Returns:
        The table, with how far it is off in networks that nothing was fitted to.

    Raises:
        ThinetError: If its layers are called in another order when their widths change.
    """
    began = time.perf_counter()
    parameter = next(network.parameters())
    images = torch.zeros(batch, *shape, device=parameter.device, dtype=parameter.dtype)
    graph = trace(network, images[:1]) if graph is None else graph
    rack = [Timed(network, graph, widths) for _ in range(_together(graph))]
    full = {name: graph.groups[name].units for name in widths}
    rack[0].put_on(full).pass_ms(images)
    called = rack[0].called
    readings = [Reading(""), *(reading_of(graph, weight, widths) for weight in called)]
    networks = design(widths, readings, levels, seed)
    random = drawn(widths, FITTED + CHECKED, np.random.default_rng([seed, rounds]))
    found = np.empty((rounds, len(networks), passes, 2, len(readings)))
    whole = np.empty((rounds, len(random), passes, 2, 1))
    for turn in range(rounds):
        order = np.random.default_rng([seed, turn]).permutation(len(networks))
        for places in np.array_split(order, range(len(rack), len(order), len(rack))):
            counts = [networks[place] for place in places]
            found[turn, places] = turns(rack, counts, called, images, passes)
        whole[turn] = whole_ms(network, graph, random, images, passes)
        if tell is not None:
            tell(f"latency table: round {turn + 1} of {rounds} over {len(networks)} networks")
    ms = medians(found)
    parts = tuple(fitted(reading, networks, ms[:, place], levels)
                  for place, reading in enumerate(readings))  # fmt: skip
    conditions = conditions_of(network, shape, batch)
    least = {name: min(choice) for name, choice in widths.items()}
    seconds = time.perf_counter() - began
    table = LatencyTable(conditions, full, least, parts, 0.0, (), len(networks), seconds)
    most = 0.0 if images.device.type == "cpu" else math.inf  # stamps cost time, and no more
    table = checked(table, random, medians(whole)[:, 0].tolist(), most)
    if tell is not None:
        tell(str(table))
    return table


def reading_of(graph: ChannelGraph, weight: str, names: Mapping[str, object]) -> Reading:
    """What the sizes of a weight depend on.

    Args:
        graph: The trace.
        weight: Its dotted name.
        names: The groups whose widths change.
    """
    place = {label: name for name in names for label in graph.groups[name].labels.tolist()}
    axes: dict[tuple[str, ...], tuple[dict[str, float], float]] = {}
    for use in sorted(graph.uses, key=lambda one: -one.axis):
        if use.tensor == weight:
            met = [place.get(label) for label in use.labels.tolist()]
            units = {name: met.count(name) / graph.groups[name].units
                     for name in dict.fromkeys(met) if name is not None}  # fmt: skip
            if units:  # two axes of the same groups grow together: they are one
                axes[tuple(sorted(units))] = units, float(met.count(None))
    return Reading(weight.rpartition(".")[0] or weight, tuple(axes.values())[:2])


def conditions_of(network: nn.Module, shape: Sequence[int], batch: int = 1) -> Conditions:
    """What a table of this network, measured here and now, would hold for."""
    parameter = next(network.parameters())
    tensors = [*network.named_parameters(), *network.named_buffers()]
    sizes = [(name, tuple(tensor.shape)) for name, tensor in tensors]
    structure = hashlib.sha256(f"{network!r}{sizes}".encode()).hexdigest()[:16]
    last = any(_is_channels_last(tensor) for _, tensor in tensors)
    on_gpu = parameter.device.type == "cuda"
    return Conditions(
        network=structure,
        device=torch.cuda.get_device_name(parameter.device) if on_gpu else _processor(),
        threads=0 if on_gpu else torch.get_num_threads(),
        torch=str(torch.__version__),
        dtype=str(parameter.dtype).removeprefix("torch."),
        layout="channels_last" if last else "contiguous",
        batch=batch,
        shape=tuple(shape),
    )


def _is_channels_last(tensor: Tensor) -> bool:
    if tensor.dim() != 4 or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _processor() -> str:
    """The CPU's model, as Linux tells it, and what torch uses of it."""
    model = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = [line.partition(":") for line in about.read_text().splitlines()]
        known = [value.strip() for key, _, value in lines if key.strip() == "model name"]
        model = known[0] if known else model
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def medians(ms: Floats) -> Floats:
    """Medians over rounds and passes, of undisturbed times where there are any.

    Args:
        ms: Shape ``(rounds, networks, passes, 2, parts)``.

    Returns:
        Shape ``(networks, parts)``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN
        found = np.nanmedian(ms, axis=(0, 2))
    return np.where(np.isnan(found[:, 1]), found[:, 0], found[:, 1])


def _together(graph: ChannelGraph) -> int:
    """Networks that take turns."""
    return min(8, max(2, LAYERS // sum(graph.facts.calls[name] for name in graph.facts.work)))


def whole_ms(
    network: nn.Module,
    graph: ChannelGraph,
    counts: Sequence[Counts],
    images: Tensor,
    passes: int,
) -> Floats:
    """Milliseconds of passes of whole networks, a few of which take turns.

    Args:
        network: The full one.
        graph: Its trace.
        counts: Units of the same groups, for each network.
        images: A batch.
        passes: Timed passes of each, after one that is not.

    Returns:
        Shape ``(networks, passes, 2, 1)``; see :meth:`thinet.metrics.latency_stamps.Timed.pass_ms`.
    """
    rack = [Timed(network, graph, counts[0], stamped=False) for _ in range(_together(graph))]
    found = [turns(rack, counts[start : start + len(rack)], (), images, passes)
             for start in range(0, len(counts), len(rack))]  # fmt: skip
    return np.concatenate(found)
