"""Reading weights into a network: published ones, or a file, checked before anything is copied."""

from __future__ import annotations

import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.safetensors_header import read_header
from thinet.models.fit import State, drop_foreign_heads_, fit_
from thinet.models.timm_net import is_timm, published_state

_FILE = "give a state dict in a .safetensors, .pth or .pt file with model.weights=<file>"


@dataclass(frozen=True)
class WeightsReport:
    """What :func:`load_weights` did.

    Attributes:
        source: The name or path that was asked for.
        loaded: Number of tensors copied into the network.
        replaced_head: Whether the last linear layer kept its random initialisation, because the
            weights were trained for other classes.
        adapted: Names of tensors that were fitted to another image size.
        mean: Normalisation of the images that published weights were trained with, for pixels
            in [0, 1]; None if unknown.
        std: See ``mean``.
    """

    source: str
    loaded: int
    replaced_head: bool
    adapted: list[str]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@torch.no_grad()
def load_weights(network: nn.Module, source: str, architecture: str | None = None) -> WeightsReport:
    """Copy weights into a freshly built network; all or, on an error, nothing.

    The head is left as the builder initialised it when its class count differs from that of the
    weights, or they have none. ``vgg16_gap`` takes the convolutions of ``vgg16`` and always a new
    head. ``resnet50_v1`` takes the weights of ``resnet50``, which torchvision trained with the
    stride in the 3x3 convolution: they fit, but need fine-tuning. Weights of another image size
    or with auxiliary heads are made to fit, see :func:`thinet.models.fit.fit_`.

    Args:
        network: Changed in place.
        source: ``none``, the name of published weights (``DEFAULT``, and for torchvision
            ``IMAGENET1K_V1`` ...), or a ``.safetensors``, ``.pth`` or ``.pt`` file.
        architecture: The model's name, for published weights.

    Returns:
        What was done.

    Raises:
        ThinetError: If the weights cannot be had or read, are those of another architecture, or
            are not finite.
    """
    if source.lower() == "none":
        return WeightsReport(source, 0, False, [])
    mean = std = None
    if source.upper() == "DEFAULT" or source.upper().startswith("IMAGENET1K_"):
        state, mean, std = _published(network, source.upper(), architecture)
    else:
        state = _read_file(Path(source).expanduser())
    try:
        adapted = fit_(network, state)
        foreign = drop_foreign_heads_(network, state)
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        raise ThinetError(
            f"the weights {source} are of another architecture ({_brief(error)}): "
            "type model=<the one they were trained for>, or model.weights=none."
        ) from error
    own = network.state_dict()
    wanted = {key: w for key, w in own.items() if key.rpartition(".")[0] not in foreign}
    _check_match(wanted, state, source)
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ThinetError(
                f"{key} in the weights {source} holds NaN or infinite values: "
                "give other weights with model.weights=<file>, or train with model.weights=none."
            )
    # Not load_state_dict, which wants a version number from MNASNet's weights that files lack.
    for key, tensor in state.items():
        own[key].copy_(tensor)
    return WeightsReport(source, len(state), bool(foreign), adapted, mean, std)


def _published(
    network: nn.Module, name: str, architecture: str | None
) -> tuple[State, tuple[float, ...], tuple[float, ...]]:
    """Download weights, or find them in the library's cache; and their normalisation."""
    if is_timm(network):
        if name != "DEFAULT":
            raise ThinetError(
                f"timm has no weights called {name}: type model.weights=DEFAULT, and choose among "
                f"several with a tag, model.name={str(architecture).partition('.')[0]}.<tag>."
            )
        config: Any = network.pretrained_cfg
        state = published_state(network, str(architecture))
        return state, tuple(config["mean"]), tuple(config["std"])
    weights = _torchvision_weights(name, architecture)
    try:
        state = dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, HTTPException, RuntimeError, EOFError) as error:
        raise ThinetError(
            f"the weights of {architecture} could not be downloaded ({_brief(error)}): download "
            f"{weights.url} on a machine with network and give model.weights=<file>, "
            "or train from scratch with model.weights=none."
        ) from error
    preprocessing = weights.transforms()
    return state, tuple(preprocessing.mean), tuple(preprocessing.std)


def _torchvision_weights(name: str, architecture: str | None) -> Any:
    # The paper's variants have no weights of their own.
    base = (architecture or "").removesuffix("_gap").removesuffix("_v1")
    try:
        published = torchvision.models.get_model_weights(base)
    except ValueError as error:
        raise ThinetError(
            f"there are no published weights for {architecture}: "
            "type model.weights=none, or the path of a file."
        ) from error
    if name not in published.__members__:
        raise ThinetError(
            f"{architecture} has no published weights called {name}: "
            f"type model.weights=DEFAULT or one of {', '.join(sorted(published.__members__))}."
        )
    return published[name]


def _read_file(path: Path) -> State:
    """Read a state dict; wrappers such as ``{"state_dict": ...}`` and ``module.`` are undone."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ThinetError(
            f"the weights file {path} {what}: {_FILE}, "
            "or type model.weights=none or model.weights=DEFAULT."
        )
    try:
        if path.suffix == ".safetensors":
            read_header(path)
            content: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols, on foreign files
                _refuse_bomb(path)
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's text advises to load the file unsafely: not with files from strangers.
        raise ThinetError(
            f"{path} is damaged or holds no weights (it is not a pickle of tensors alone, and "
            f"other objects may run code when they are loaded): {_FILE}."
        ) from error
    # Foreign bytes make the unpickler raise nearly anything, and each means the same to the user.
    except Exception as error:
        raise ThinetError(
            f"{path} is damaged or holds no weights ({_brief(error)}): {_FILE}."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not _is_state(content):
        raise ThinetError(f"{path} holds no state dict (names with their tensors): {_FILE}.")
    state: State = dict(content)
    if all(key.startswith("module.") for key in state):  # as saved from DataParallel or DDP
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch stores tensors as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed")


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(map(_is_entry, content.items()))


def _is_entry(entry: tuple[Any, Any]) -> bool:
    """Whether it is a name of usual length with numbers that lie in memory, each at its place."""
    name, tensor = entry
    return (
        isinstance(name, str)
        and len(name) <= 500
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
        and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()
    )


def _check_match(wanted: Mapping[str, Tensor], state: State, source: str) -> None:
    """Refuse weights of another architecture.

    BatchNorm's ``num_batches_tracked`` may be missing: older files do not have it.
    """
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    wrong = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if not (missing or unexpected or wrong):
        return
    if wrong:
        key = wrong[0]
        first = f"{key} is {_shape(state[key])} instead of {_shape(wanted[key])}"
    elif missing:
        first = f"{missing[0]} of shape {_shape(wanted[missing[0]])} is missing"
    else:
        first = f"{unexpected[0]} of shape {_shape(state[unexpected[0]])} is not in the network"
    raise ThinetError(
        f"the weights {source} are of another architecture: {first} ({len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(wrong)} of the wrong shape, {len(wanted)} wanted): "
        "type model=<the one they were trained for>, or model.weights=none."
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _brief(error: BaseException) -> str:
    """The first line of an error's text, or its type: long enough to recognise the cause."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
    return textwrap.shorten(text, 120, placeholder=" ...")
