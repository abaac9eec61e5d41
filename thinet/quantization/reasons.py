"""Why a layer stays in floating point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from thinet.quantization.tracing import Trace

NARROWEST = 16
"""Input channels of a binary layer, at least.

K binary passes and K + 1 floating-point scalings replace c k k multiplications an output (HORQ
keeps "layers with few channels" as they are, since nothing is gained there): of a 1x1 convolution
with 16 inputs and order 2 that is 4.6 times less by the paper's formula, with 3 inputs 1.0 times.
"""
# In eval() mode these compute with the weights of the layers inside, which they do not call.
_TAKING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
FIRST, LAST = "it is the first layer", "it is the last layer"
NARROW = f"it has fewer than {NARROWEST} input channels"
HELD = "its network holds it in a place beside its name"
_FOREIGN = "other code reads its weight"


def has_hooks(module: nn.Module) -> bool:
    """Whether a module carries what would be lost with it."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or "forward" in vars(module)
    )  # fmt: skip


def unfit(module: nn.Module) -> str:
    """Why a layer cannot become binary, whatever its place in a network; empty if it can."""
    if parametrize.is_parametrized(module) or module._parameters.get("weight") is None:
        return "its weight is computed from other tensors"
    if type(module) not in (nn.Conv2d, nn.Linear):
        name, package = type(module).__name__, type(module).__module__.partition(".")[0]
        whose = f"{package}'s {name}" if name in ("Conv2d", "Linear") else name
        return f"{whose} is no plain Conv2d or Linear"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return "its convolution is grouped"
    return "it has hooks, which a new layer would lose" if has_hooks(module) else ""


def firm_reasons(
    network: nn.Module, modules: Mapping[str, nn.Module], trace: Trace
) -> dict[str, str]:
    """What no setting overrules."""
    taken = {
        child
        for module in network.modules() if isinstance(module, _TAKING)
        for child in module.children()
    }  # fmt: skip
    users: dict[int, set[int]] = defaultdict(set)
    for module in network.modules():
        for parameter in module._parameters.values():
            users[id(parameter)].add(id(module))
    found = {}
    for path, module in modules.items():
        weight = module._parameters.get("weight")
        if unfit(module):
            found[path] = unfit(module)
        elif len(users[id(weight)]) > 1:
            found[path] = "its weight is shared with another layer"
        elif module in taken or path in trace.foreign:
            found[path] = _FOREIGN
        elif path not in trace.inputs:
            found[path] = "it does not run in eval() mode"
        elif not _batched(module, trace.axes[path]):
            found[path] = "it reads something that is no batch"
        elif not all(one is not None and one.fed for one in trace.inputs[path]):
            found[path] = "what it reads does not depend on the images"
    return found


def soft_reasons(
    network: nn.Module, modules: Mapping[str, nn.Module], trace: Trace
) -> dict[str, str]:
    """What a layer's own name in ``layers`` overrules."""
    kept = _full_precision(network, modules)
    found = {}
    for path, module in modules.items():
        inputs = module.in_features if isinstance(module, nn.Linear) else module.in_channels
        reasons = {
            FIRST: path in trace.first, LAST: path in trace.last,
            "its network wants it in full precision": path in kept,
            NARROW: int(inputs) < NARROWEST,  # type: ignore[arg-type]
        }  # fmt: skip
        found[path] = next((reason for reason, holds in reasons.items() if holds), "")
    return found


def _batched(module: nn.Module, axes: set[int]) -> bool:
    """Whether it reads ``(N, C, H, W)`` or ``(N, ..., C)``: scales are those of an image."""
    return axes == {4} if isinstance(module, nn.Conv2d) else min(axes, default=0) >= 2


def _full_precision(network: nn.Module, modules: Mapping[str, nn.Module]) -> set[str]:
    """Layers that match the globs in a ``full_precision`` of any module around them."""
    found = set()
    for outer, module in network.named_modules():
        patterns = getattr(type(module), "full_precision", ())
        begin = f"{outer}." if outer else ""
        for pattern in map(str, patterns if isinstance(patterns, tuple) else ()):
            inside = (path for path in modules if path.startswith(begin))
            found |= {path for path in inside if fnmatchcase(path.removeprefix(begin), pattern)}
    return found
