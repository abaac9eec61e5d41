"""Which layers of a network become binary, and what has to stand in front of them.

A sign says something only of numbers of both signs: in front of each binary layer stands a
BatchNorm, with no ReLU between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thinet.base.errors import ThinetError
from thinet.base.values import shown
from thinet.models.shift import Shift
from thinet.quantization.reasons import (
    FIRST,
    HELD,
    LAST,
    NARROW,
    NARROWEST,
    firm_reasons,
    has_hooks,
    soft_reasons,
)
from thinet.quantization.tracing import Event, Trace, Value, traced
from thinet.quantization.trial import missed
from thinet.surgery import check_network

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Of networks that can become binary."""
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class Decision:
    """What becomes of a layer.

    Attributes:
        layer: Module path.
        kind: For people: ``conv 3x3`` or ``linear``.
        reason: Why it stays in floating point; empty if it becomes binary.
    """

    layer: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """How a network becomes binary; see :func:`thinet.quantization.convert.binarized`.

    Attributes:
        decisions: Of all layers, in order of execution; those that do not run come last.
        binary: Module paths of the layers that become binary.
        norms: Of those: the ones that get a BatchNorm of their own in front.
        removed: ReLU modules that become :class:`torch.nn.Identity`.
        in_front: BatchNorms of the network that the other binary layers read, directly, shifted or
            through what is removed.
    """

    decisions: tuple[Decision, ...]
    binary: tuple[str, ...]
    norms: tuple[str, ...]
    removed: tuple[str, ...]
    in_front: tuple[str, ...]


def plan_conversion(
    network: nn.Module, images: Tensor, layers: str | Sequence[str] = "auto"
) -> Conversion:
    """Decide from one forward pass in ``eval()`` mode.

    Args:
        network: Any network, on any device, ``meta`` included; left as it was.
        images: ``(N, C, H, W)``, any; only their shape counts.
        layers: ``auto``: all convolutions and linear layers but the first and the last, or a name
            or glob or a list of those. A layer that is named itself becomes binary although it is
            the first or the last one, narrow, or one that its network wants in full precision.

    Returns:
        The same for a network with values and for one on the ``meta`` device.

    Raises:
        ThinetError: If a name matches nothing, a layer that is named cannot become binary, no layer
            is left, weights are not finite or of no floating type, or layers are binary already.
    """
    check_network(network)
    _check_whole(network)
    modules = {
        path: module for path, module in network.named_modules() if isinstance(module, _LAYERS)
    }
    wanted, named = _asked(layers, list(modules))
    trace = traced(network, images)
    order = [path for path in trace.inputs if path in modules]
    order += [path for path in modules if path not in trace.inputs]
    modules = {path: modules[path] for path in order}
    firm, soft = firm_reasons(network, modules, trace), soft_reasons(network, modules, trace)
    unreached: set[str] = set()
    while True:  # usually once
        firm |= dict.fromkeys(unreached & modules.keys(), HELD)
        reasons = _reasons(modules, wanted, named, firm, soft)
        binary = tuple(path for path, reason in reasons.items() if not reason)
        if not binary:
            raise _nothing_left(reasons, layers)
        norms, removed, in_front = _signed(network, trace, binary, unreached)
        gone = missed(network, images, binary, norms, removed)
        if not gone:
            break
        unreached |= gone
    decisions = tuple(Decision(path, _kind(modules[path]), why) for path, why in reasons.items())
    return Conversion(decisions, binary, norms, removed, in_front)


def _reasons(
    modules: Mapping[str, nn.Module],
    wanted: Set[str],
    named: Set[str],
    firm: Mapping[str, str],
    soft: Mapping[str, str],
) -> dict[str, str]:
    """Of all layers; empty for those that become binary."""
    for path in modules:
        if path in named and path in firm:
            raise ThinetError(
                f"layer {path} cannot become binary: {firm[path]}; leave it out of layers."
            )
    found = {}
    for path in modules:
        outside = "" if path in wanted else "it is not among layers"
        advised = "" if path in named else soft.get(path, "")
        found[path] = firm.get(path) or outside or advised
    return found


def _check_whole(network: nn.Module) -> None:
    for path, module in network.named_modules():
        if type(module).__module__.startswith("thinet.quantization."):
            raise ThinetError(
                f"{path or 'the network'} is binary already: give the network that it was made "
                "from, in full precision."
            )
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            raise ThinetError(f"{name} has no shape yet: run the network once before binarising.")
        _check_numbers(name, tensor)


def _check_numbers(name: str, tensor: Tensor) -> None:
    """Refuse what has no sign, or spreads to where signs are taken; buffers may be infinite."""
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in DTYPES):
        raise ThinetError(
            f"{name} holds {tensor.dtype}, which cannot become binary: convert the network with "
            ".float()."
        )
    if tensor.is_meta or not tensor.is_floating_point():
        return
    odd = ~tensor.isfinite() if isinstance(tensor, nn.Parameter) else tensor.isnan()
    if bool(odd.any()):
        raise ThinetError(
            f"{name} holds values that are not finite (NaN or infinite): give other weights, or "
            "train the network again with a smaller learning rate."
        )


def _asked(layers: str | Sequence[str], paths: Sequence[str]) -> tuple[Set[str], Set[str]]:
    """The layers that are wanted, and those of them that are named themselves."""
    if layers == "auto":
        return set(paths), set()
    patterns = [layers] if isinstance(layers, str) else _listed(layers)
    if not patterns or not all(isinstance(one, str) and one for one in patterns):
        raise ThinetError(
            f"layers={shown(layers)} is not a name, a glob or a list of those: type layers=auto or "
            "for example layers=[features.3,features.7]."
        )
    wanted: set[str] = set()
    for pattern in patterns:
        met = [path for path in paths if path == pattern or fnmatchcase(path, pattern)]
        if not met:
            near = get_close_matches(pattern, paths, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            listed = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" * (len(paths) > 8))
            raise ThinetError(
                f"layers: {shown(pattern)!r} matches no layer; {hint}choose among "
                f"{listed or 'none'}."
            )
        wanted.update(met)
    return wanted, set(patterns) & set(paths)


def _listed(layers: object) -> list[str]:
    if isinstance(layers, (Sequence, Set)) and not isinstance(layers, bytes):
        return list(layers)
    return []


def _nothing_left(reasons: Mapping[str, str], layers: str | Sequence[str]) -> ThinetError:
    """A sentence with the reason that most layers have."""
    inner = [reason for reason in reasons.values() if reason not in (FIRST, LAST)]
    if not reasons:
        return ThinetError(
            "the network has no convolution and no linear layer: there is nothing to binarise, "
            "so choose another one."
        )
    if not inner:
        return ThinetError(
            "the network has a first and a last layer alone, which stay in floating point: name "
            "them to binarise them, layers=[...], or choose a deeper network."
        )
    ((reason, count),) = Counter(inner).most_common(1)
    if reason == NARROW:
        return ThinetError(
            f"all layers are too narrow: {count} between the first and the last one have fewer "
            f"than {NARROWEST} input channels; choose a wider network, or name the layers, "
            f"layers=[{next(path for path in reasons if reasons[path] == NARROW)},...]."
        )
    return ThinetError(
        f"no layer is left to binarise with layers={shown(layers)} ({reason}: {count} of "
        f"{len(reasons)} layers): choose other layers, or another network."
    )


def _signed(
    network: nn.Module, trace: Trace, binary: Sequence[str], kept: Set[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Where a BatchNorm is missing in front, which ReLUs go, and which BatchNorms are there.

    ReLUs in ``kept`` stay.
    """
    chosen = set(binary)
    removed: dict[str, Event] = {}
    for path, module in network.named_modules():
        if type(module) is nn.ReLU and path not in kept and not has_hooks(module):
            event = _rectifying(trace, path)
            if event is not None and _feeds(event, chosen):
                removed[path] = event
    gone = set(removed.values())
    norms: list[str] = []
    found: set[str] = set()
    for path in binary:
        in_front = [_norms_of(value, gone) for value in trace.inputs[path]]
        if all(in_front):
            found.update(*in_front)
        else:
            norms.append(path)
    relus, there = (tuple(one for one in trace.inputs if one in ones) for ones in (removed, found))
    return tuple(norms), relus, there


def _rectifying(trace: Trace, path: str) -> Event | None:
    """What a ReLU does to the output of a BatchNorm, if that is all that it is there for."""
    given = trace.inputs.get(path, [])
    if len(given) != 1 or given[0] is None or not _is_normal(given[0]):
        return None
    events = [one for one in given[0].readers if one.call is not None and one.call.path == path]
    return events[0] if len(events) == 1 else None


def _feeds(event: Event, binary: Set[str]) -> bool:
    """Whether binary layers read what an operation makes, directly or pooled, and nothing else."""
    readers = [reader for value in event.made for reader in value.readers]
    for reader in readers:
        if reader.call is None:
            return False
        pools = type(reader.call.module) in _POOLS and _feeds(reader, binary)
        if reader.call.path not in binary and not pools:
            return False
    return bool(readers)


def _is_normal(value: Value | None) -> bool:
    """Whether a BatchNorm made it, with a learnable shift after it at most."""
    return bool(_norms_of(value, frozenset()))


def _norms_of(value: Value | None, gone: Set[Event]) -> set[str]:
    """The BatchNorm that made it, with a learnable shift or what goes after it at most; or none."""
    event = None if value is None else value.made_by
    if event is None or event.call is None:
        return set()
    if isinstance(event.call.module, Shift) or event in gone:
        found = [_norms_of(one, gone) for one in event.reads if one.fed]
        return set().union(*found) if all(found) else set()
    norm = isinstance(event.call.module, nn.modules.batchnorm._BatchNorm)
    return {event.call.path} if norm and "batch_norm" in event.operation else set()


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        return f"conv {'x'.join(map(str, module.kernel_size))}"
    return "linear" if isinstance(module, nn.Linear) else type(module).__name__
