"""The tensors of a network that are written to a file, and reading them back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from thinet.artifacts.names import SPEC
from thinet.base.errors import ThinetError
from thinet.base.safetensors_header import read_header


def check_savable(network: nn.Module) -> None:
    """Refuse a network with state that is no tensor, which no file of tensors holds.

    Raises:
        ThinetError: Naming the module that has it.
    """
    for name, module in network.named_modules():
        own = type(module).get_extra_state is not nn.Module.get_extra_state
        if own and module.get_extra_state() is not None:
            raise ThinetError(
                f"{name or 'the network'} ({type(module).__name__}) has state beside its tensors "
                "(get_extra_state), which cannot be saved: keep it in a buffer, or take that "
                "module out."
            )


def dump_state(network: nn.Module) -> bytes:
    """Parameters and persistent buffers as the bytes of a safetensors file."""
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in named_state(network).items():
        own = tensor.detach().cpu().contiguous()
        where = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if where in memory else own  # two views of one memory
        memory.add(where)
    return dump_tensors(tensors, metadata={"format": "pt"})


def named_state(network: nn.Module, held: Collection[str] = ()) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, those that are the same object once.

    Args:
        network: The network.
        held: Names in a file. A buffer among them belongs to the state even if the constructor did
            not mean it to: once channels are removed from it, it has to be kept.
    """
    unique: set[int] = set()
    state: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        passing = module._non_persistent_buffers_set
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            full = f"{path}.{name}" if path else name
            kept = name not in passing or full in held
            if tensor is not None and kept and id(tensor) not in unique:
                unique.add(id(tensor))
                state[full] = tensor
    return state


def read_state(path: str | Path, sha256: str = "") -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Args:
        path: The file.
        sha256: What its bytes have to have, see :func:`check_digest`.

    Raises:
        ThinetError: If the file is missing or damaged.
    """
    read_header(path)
    try:
        content = Path(path).read_bytes()
        check_digest(path, hashlib.sha256(content).hexdigest() if sha256 else "", sha256)
        return load_tensors(content)
    except (OSError, SafetensorError) as error:
        raise ThinetError(
            f"{path} is damaged or not a safetensors file ({error}): copy it again or run again."
        ) from error


def check_digest(path: str | Path, found: str, sha256: str) -> None:
    """Refuse a file of weights that is not the one a spec was written for.

    It tells of damage and of files that were mixed up, not of what a stranger did on purpose, who
    writes both.

    Args:
        path: The file.
        found: Its SHA-256, in hexadecimal.
        sha256: What the spec says; empty if it does not.

    Raises:
        ThinetError: If they differ.
    """
    if sha256 and found != sha256:
        raise ThinetError(
            f"{path} is damaged or not the file that was saved with the {SPEC} beside it (their "
            "SHA-256 differ): copy both files of the same network again, or run again; if you "
            f'changed the weights yourself, write "sha256": "" in {SPEC}.'
        )


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
