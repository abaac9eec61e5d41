"""Networks on disk: a folder with ``model.safetensors`` and ``spec.json``, never a pickle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from thinet.api import PruneResult
from thinet.errors import ThinetError
from thinet.files import read_json, write_bytes_atomic, write_json_atomic
from thinet.models import build
from thinet.saved import SPEC, WEIGHTS
from thinet.surgery import set_widths_, widths


@dataclass(frozen=True)
class Spec:
    """What is needed, beside the weights, to build and to use a saved network.

    Attributes:
        builder: ``{"target": ..., "arguments": {...}}`` of the network at full width, or None for
            a network that only its owner can build.
        keep: Kept filters of each pruned layer in *original* coordinates.
        widths: Filters of each convolution and linear layer as saved, for the reader.
        input_shape: ``(C, H, W)``.
        mean: Normalisation the network expects, or None if unknown.
        std: See ``mean``.
        classes: Names of the classes in the order of the outputs.
        metrics: Figures measured with these weights.
    """

    builder: dict[str, Any] | None = None
    keep: dict[str, list[int]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    format: int = 1


def save(result: PruneResult | nn.Module, folder: str | Path, spec: Spec | None = None) -> Path:
    """Save a network so that :func:`load` gives the same outputs.

    Args:
        result: What :func:`thinet.prune` returned, or any network.
        folder: Where to; made if need be.
        spec: How to build it at full width and how to use it. Without a ``builder`` in it,
            :func:`load` has to be given a network of the original architecture.

    Returns:
        The folder.
    """
    folder = Path(folder)
    spec = spec or Spec()
    network = result
    if isinstance(result, PruneResult):
        network = result.model
        keep = spec.keep or {record.layer: record.kept for record in result.layers}
        spec = Spec(**{**_shallow(spec), "keep": keep, "input_shape": result.input_shape})
    assert isinstance(network, nn.Module)
    spec = Spec(**{**_shallow(spec), "widths": layer_widths(network)})
    write_bytes_atomic(folder / WEIGHTS, dump_state(network))
    write_json_atomic(folder / SPEC, asdict(spec))
    return folder


def load(folder: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load a network saved by :func:`save`, in ``eval()`` mode, on the CPU.

    Args:
        folder: The folder.
        network: A network of the original architecture, at full width; needed only for networks
            that were saved without a builder. It is left as it was.

    Raises:
        ThinetError: If the folder is incomplete, damaged, or of another architecture.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    if network is None:
        if spec.builder is None:
            raise ThinetError(
                f"{folder} does not say how to build its network: pass one of the original "
                "architecture, thinet.load(folder, network=MyNet())."
            )
        with torch.random.fork_rng(devices=[]):
            network = build(spec.builder["target"], **spec.builder["arguments"])
    else:
        network = copy.deepcopy(network)
    load_state_(network, read_state(folder / WEIGHTS), str(folder))
    if spec.widths and layer_widths(network) != spec.widths:
        raise ThinetError(
            f"{folder / WEIGHTS} does not have the widths that {SPEC} beside it states: copy both "
            "files of the same network again."
        )
    return network.eval()


def read_spec(folder: str | Path) -> Spec:
    """The spec of a saved network.

    Raises:
        ThinetError: If there is none, or it was written by a newer version.
    """
    path = Path(folder) / SPEC
    if not path.exists():
        raise ThinetError(
            f"{folder} holds no {SPEC}: give the folder of a saved network, for example "
            "outputs/<name>/model."
        )
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found > 1:
        raise ThinetError(f"{path} has format {found}, newer than this thinet: upgrade it.")
    try:
        spec = Spec(**content)
        if spec.builder is not None:
            _check_builder(**spec.builder)
    except TypeError as error:
        raise ThinetError(f"{path} is not a thinet spec ({error}): restore the file.") from error
    return spec


def _check_builder(target: str, arguments: dict[str, Any]) -> None:
    if not isinstance(target, str) or not isinstance(arguments, dict):
        raise TypeError("builder needs a target and arguments")


def dump_state(network: nn.Module) -> bytes:
    """Parameters and persistent buffers as the bytes of a safetensors file."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in named_state(network).items()}
    return dump_tensors(tensors, metadata={"format": "pt"})


def named_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``state_dict()``, those that share memory once."""
    unique: dict[int, str] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in unique:
            unique[id(tensor)] = name
            state[name] = tensor
    return state


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ThinetError: If the file is missing or damaged.
    """
    try:
        return load_tensors(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise ThinetError(f"{path} does not exist: give the folder of a saved network.") from error
    except SafetensorError as error:
        raise ThinetError(
            f"{path} is damaged or not a safetensors file ({error}): copy it again or run again."
        ) from error


@torch.no_grad()
def load_state_(network: nn.Module, state: Mapping[str, Tensor], source: str = "the file") -> None:
    """Give a network the tensors of ``state``, taking over their shapes, in place.

    Raises:
        ThinetError: If names, or numbers of axes, do not fit.
    """
    own = named_state(network)
    odd = sorted(set(own) ^ set(state))
    odd += [name for name in own if name in state and own[name].dim() != state[name].dim()]
    if odd:
        raise ThinetError(
            f"the weights in {source} are of another architecture ({len(odd)} tensors differ, "
            f"first {odd[0]}): pass a network of the architecture that was saved."
        )
    fresh: dict[int, Tensor] = {}
    for name, old in own.items():
        new = state[name].to(device=old.device, copy=True)
        is_parameter = isinstance(old, nn.Parameter)
        fresh[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is not None and id(tensor) in fresh:
                    tensors[name] = fresh[id(tensor)]  # type: ignore[assignment]
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
