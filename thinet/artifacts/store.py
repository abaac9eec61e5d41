"""Networks on disk: a folder with ``model.safetensors`` and ``spec.json``, never a pickle."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from thinet.artifacts.names import SPEC, WEIGHTS
from thinet.artifacts.spec import Spec, check_spec, read_spec
from thinet.artifacts.tensors import check_savable, dump_state, named_state, read_state
from thinet.base.allowlist import is_below, own_packages
from thinet.base.errors import ThinetError
from thinet.base.files import write_bytes_atomic, write_json_atomic
from thinet.base.safetensors_header import Entry, read_header
from thinet.base.values import folder_path
from thinet.models import build
from thinet.pruning.prune import PruneResult
from thinet.surgery import check_network, difference, set_widths_, widths

__all__ = [
    "Spec", "check_fit", "check_savable", "dump_state", "layer_widths", "load", "load_state_",
    "named_state", "read_spec", "read_state", "save",
]  # fmt: skip
_SAME = 1e-3  # of two networks: the largest relative difference of what they compute
_WIDER = 64  # a network at full width may have so many times the numbers that are left of it


def save(result: PruneResult | nn.Module, folder: str | Path, spec: Spec | None = None) -> Path:
    """Save a network so that :func:`load` gives the same outputs.

    Args:
        result: What :func:`thinet.prune` returned, or any network.
        folder: Where to; made if need be.
        spec: How to build it at full width and how to use it. Without a ``builder`` in it,
            :func:`load` has to be given a network of the original architecture.

    Returns:
        The folder.

    Raises:
        ThinetError: If an argument is of the wrong kind, or the network holds what a load would
            not bring back.
    """
    folder = folder_path(folder)
    spec = Spec() if spec is None else spec
    check_spec(spec)
    network = result.model if isinstance(result, PruneResult) else result
    check_network(network)
    check_savable(network)
    if isinstance(result, PruneResult):
        keep = spec.keep or {record.layer: record.kept for record in result.layers}
        spec = Spec(**{**_shallow(spec), "keep": keep, "input_shape": result.input_shape})
    spec = Spec(**{**_shallow(spec), "widths": layer_widths(network)})
    check_spec(spec)
    _check_loads(network, spec.input_shape)
    write_bytes_atomic(folder / WEIGHTS, dump_state(network))
    write_json_atomic(folder / SPEC, asdict(spec))
    return folder


def load(folder: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load a network saved by :func:`save`, in ``eval()`` mode, on the CPU.

    The folder may be a stranger's: nothing is unpickled, only known builders are called, and no
    memory is taken for more than the file holds (``docs/untrusted.md``).

    Args:
        folder: The folder.
        network: A network of the original architecture, at full width; needed only for networks
            that were saved without a builder. It is left as it was.

    Raises:
        ThinetError: If the folder is incomplete, damaged, or of another architecture.
    """
    folder = folder_path(folder)
    if network is not None:
        check_network(network)
    spec = read_spec(folder)
    if network is None:
        if spec.builder is None:
            raise ThinetError(
                f"{folder} does not say how to build its network: pass one of the original "
                "architecture, thinet.load(folder, network=MyNet())."
            )
        network = _rebuilt(spec.builder, folder / WEIGHTS)
    else:
        network = copy.deepcopy(network)
        load_state_(network, read_state(folder / WEIGHTS), str(folder))
    if spec.widths and layer_widths(network) != spec.widths:
        raise ThinetError(
            f"{folder / WEIGHTS} does not have the widths that {SPEC} beside it states: copy both "
            "files of the same network again."
        )
    return network.eval()


def _rebuilt(builder: Mapping[str, Any], weights: Path) -> nn.Module:
    """The network that a spec names with the tensors of a file, which are its only memory.

    It is built without memory first, and compared with the file's header.
    """
    header = read_header(weights)
    if is_below(builder["target"], own_packages()):  # they may compute with it
        network = _built(builder, len(header), "cpu")
        load_state_(network, read_state(weights), str(weights.parent))
        return network
    network = _built(builder, len(header), "meta")
    check_fit(named_state(network, header), header, str(weights.parent))
    state = read_state(weights)
    more = _constants(network, header)
    if more:  # tables that the constructor computes and that no file holds
        full, held = (sum(t.numel() for t in ts.values()) for ts in (named_state(network), state))
        if full + more > _WIDER * held + 2**27:
            raise ThinetError(
                f"{weights} holds {held} numbers of a network of {full + more}: pass the network "
                "yourself if that is right, thinet.load(folder, network=...)."
            )
        network = _built(builder, len(header), "cpu")
    load_state_(network, state, str(weights.parent))
    return network


def _built(builder: Mapping[str, Any], tensors: int, device: str) -> nn.Module:
    """Call a builder that may make only so many modules as the tensors of a file can be of."""
    left = 16 * tensors + 256

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ThinetError(
                f"the spec describes a network of far more layers than the {tensors} tensors "
                "beside it: copy both files of the same network again."
            )

    hook = register_module_module_registration_hook(count)
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return build(builder["target"], **builder["arguments"])
    finally:
        hook.remove()


def _constants(network: nn.Module, held: Collection[str]) -> int:
    """Numbers that a network on the ``meta`` device has besides those that a file holds."""
    known = {id(tensor) for tensor in named_state(network, held).values()}
    total = 0
    for module in network.modules():
        own = [*module._buffers.values(), *vars(module).values()]
        for value in own:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(one, Tensor) and one.is_meta and id(one) not in known:
                    total += max(one.numel(), 1)
    return total


def check_fit(own: Mapping[str, Tensor], found: Mapping[str, Entry | Tensor], source: str) -> None:
    """Refuse tensors that cannot be those of a network, whole or with filters removed.

    Args:
        own: Of the network.
        found: Of the file: names, shapes and types.
        source: Named in the error.

    Raises:
        ThinetError: If names, numbers of axes or kinds of numbers do not fit, or a tensor is
            empty or larger than the network's.
    """
    odd = sorted(set(own) ^ set(found))
    odd += [name for name in own if name in found and not _fits(own[name], found[name])]
    if odd:
        raise ThinetError(
            f"the weights in {source} are of another architecture ({len(odd)} tensors differ, "
            f"first {odd[0][:100]}): pass a network of the architecture that was saved."
        )


def _fits(own: Tensor, found: Entry | Tensor) -> bool:
    shapes = zip(own.shape, found.shape, strict=False)
    both = own.dtype.is_floating_point and found.dtype.is_floating_point
    return (
        own.dim() == len(found.shape)
        and all(min(1, wide) <= slim <= wide for wide, slim in shapes)
        and (both or own.dtype == found.dtype)
    )


def _check_loads(network: nn.Module, shape: Sequence[int]) -> None:
    """Refuse a network that would not be the same after :func:`load`.

    A twin gets other weights, as a new network has, and then those of ``network``: what it computes
    afterwards tells whether they are all that counts. Nothing is said of a network that does not
    run on one tensor of images, or not twice in the same way.

    Raises:
        ThinetError: If the twin computes something else.
    """
    if not shape:
        return
    generator = torch.Generator().manual_seed(0)
    first = next(network.parameters(), torch.zeros(()))
    images = torch.randn(2, *shape, generator=generator).to(first)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            twin = copy.deepcopy(network)
            noise = difference(network, network, images)
            for tensor in named_state(twin).values():
                tensor.zero_()
            load_state_(twin, named_state(network))
            off = difference(network, twin, images)
    except Exception:  # whatever the network's own code raises
        return
    if noise <= _SAME < off:
        raise ThinetError(
            "this network would not be the same after thinet.load, because it uses weights that it "
            "also holds outside of its parameters and buffers: read them from the modules that "
            "own them."
        )


@torch.no_grad()
def load_state_(network: nn.Module, state: Mapping[str, Tensor], source: str = "the file") -> None:
    """Give a network the tensors of ``state``, taking over their shapes, in place.

    Raises:
        ThinetError: If they do not fit, see :func:`check_fit`.
    """
    own = named_state(network, state)
    check_fit(own, state, source)
    fresh: dict[int, Tensor] = {}
    for name, old in own.items():
        device = "cpu" if old.is_meta else old.device
        new = state[name].to(device=device, copy=True)
        is_parameter = isinstance(old, nn.Parameter)
        fresh[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is not None and id(tensor) in fresh:
                    tensors[name] = fresh[id(tensor)]  # type: ignore[assignment]
                    module._non_persistent_buffers_set.discard(name)
        set_widths_(module, widths(module))


def layer_widths(network: nn.Module) -> dict[str, int]:
    """Filters of each convolution and units of each linear layer, by module path."""
    found = {}
    for name, module in network.named_modules():
        sizes = widths(module)
        filters = sizes.get("out_channels", sizes.get("out_features"))
        if filters is not None:
            found[name] = filters
    return found


def _shallow(spec: Spec) -> dict[str, Any]:
    return dict(vars(spec))
