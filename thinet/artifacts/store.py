"""Networks on disk: a folder with ``model.safetensors`` and ``spec.json``, never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from thinet.artifacts.fill import (
    check_fit,
    check_values,
    exact_tensors,
    layer_kinds,
    layer_widths,
    load_state_,
)
from thinet.artifacts.names import SPEC, WEIGHTS
from thinet.artifacts.rebuild import prepared, rebuilt
from thinet.artifacts.roundtrip import check_loads
from thinet.artifacts.spec import Builder, Spec, Transform, check_spec, read_spec
from thinet.artifacts.tensors import (
    check_digest,
    check_savable,
    dump_state,
    file_digest,
    named_state,
    read_state,
)
from thinet.base.errors import ThinetError
from thinet.base.files import write_bytes_atomic, write_json_atomic
from thinet.base.records import to_json
from thinet.base.safetensors_header import read_header
from thinet.base.values import folder_path
from thinet.surgery import check_network

__all__ = [
    "Builder", "Spec", "Transform", "check_digest", "check_fit", "check_savable", "check_values",
    "dump_state", "file_digest", "layer_widths", "load", "load_state_", "named_state", "read_spec",
    "read_state", "save",
]  # fmt: skip


class Cut(Protocol):
    """A layer that lost filters."""

    @property
    def layer(self) -> str:
        """Module path."""

    @property
    def kept(self) -> Sequence[int]:
        """The filters that stayed, numbered as in the network at full width."""


@runtime_checkable
class Pruned(Protocol):
    """What :func:`save` reads of the result of :func:`thinet.prune`, whatever else it holds."""

    @property
    def model(self) -> nn.Module:
        """The network that was made."""

    @property
    def layers(self) -> Sequence[Cut]:
        """What became narrower."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of an image."""


def save(result: Pruned | nn.Module, folder: str | Path, spec: Spec | None = None) -> Path:
    """Save a network so that :func:`load` gives the same outputs.

    That is tried before anything is written: with a ``builder`` in the spec, its network is built,
    narrowed, transformed and filled, and has to be this one.

    Args:
        result: What :func:`thinet.prune` returned, or any network.
        folder: Where to; made if need be.
        spec: How to build it at full width and how to use it. Without a ``builder`` in it,
            :func:`load` has to be given a network of the original architecture.

    Returns:
        The folder.

    Raises:
        ThinetError: If an argument is of the wrong kind, or a load would not bring back the same
            network; it names the module that differs.
    """
    folder = folder_path(folder)
    spec = check_spec(Spec() if spec is None else spec)
    if isinstance(result, nn.Module) or not isinstance(result, Pruned):
        network: object = result
    else:
        network = result.model
        keep = spec.keep or {cut.layer: list(cut.kept) for cut in result.layers}
        spec = replace(spec, keep=keep, input_shape=tuple(result.input_shape))
    network = check_network(network)
    check_savable(network)
    spec = replace(spec, widths=layer_widths(network), kinds=layer_kinds(network))
    check_loads(network, check_spec(spec))
    content = dump_state(network)
    spec = replace(spec, sha256=hashlib.sha256(content).hexdigest())
    write_bytes_atomic(folder / WEIGHTS, content)
    write_json_atomic(folder / SPEC, to_json(spec))
    return folder


def load(folder: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load a network saved by :func:`save`, in ``eval()`` mode, on the CPU.

    The folder may be a stranger's: nothing is unpickled, only known builders and transforms are
    called, and no memory is taken for more than the file holds (``docs/untrusted.md``).

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
    weights, source = folder / WEIGHTS, str(folder)

    def read() -> dict[str, Tensor]:
        return read_state(weights, spec.sha256)

    if network is not None:
        network, header = prepared(network, spec, source), read_header(weights)
        check_fit(named_state(network, header), header, source, exact_tensors(network))
        load_state_(network, read(), source)
    elif spec.builder is None:
        raise ThinetError(
            f"{folder} does not say how to build its network: pass one of the original "
            "architecture, thinet.load(folder, network=MyNet())."
        )
    else:
        network = rebuilt(spec, read_header(weights), read, source)
    _check_stated(network, spec, folder)
    return network.eval()


def _check_stated(network: nn.Module, spec: Spec, folder: Path) -> None:
    """Compare a loaded network with what the spec says of the one that was saved."""
    if spec.widths and layer_widths(network) != spec.widths:
        raise ThinetError(
            f"{folder / WEIGHTS} does not have the widths that {SPEC} beside it states: copy both "
            "files of the same network again."
        )
    found = layer_kinds(network)
    for path, kind in spec.kinds.items():
        if found.get(path) != kind:
            there = f"a {found[path]}" if path in found else "nothing"
            raise ThinetError(
                f"{path[:100] or 'the network'} was a {kind[:100]} when {folder} was saved, and is "
                f"{there} here: pass a network with the modules that were saved, "
                "thinet.load(folder, network=...)."
            )
