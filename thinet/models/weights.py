"""Reading weights into a network: published ones, or a file, checked before anything is copied."""

from __future__ import annotations

import pickle
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VGG, ResNet

from thinet.errors import ThinetError
from thinet.models.vgg import VggGap

State = dict[str, Tensor]
_FILE = "give a state dict in a .safetensors, .pth or .pt file with model.weights=<file>"


@dataclass(frozen=True)
class WeightsReport:
    """What :func:`load_weights` did.

    Attributes:
        source: The name or path that was asked for.
        loaded: Number of tensors copied into the network.
        replaced_head: Whether the last linear layer kept its random initialisation, because the
            weights were trained for other classes.
        adapted: Names of tensors that were fitted to a stem or pool for small images.
    """

    source: str
    loaded: int
    replaced_head: bool
    adapted: list[str]


def load_weights(network: nn.Module, source: str, architecture: str | None = None) -> WeightsReport:
    """Copy weights into a freshly built network; all or, on an error, nothing.

    The last ``nn.Linear`` is left as the builder initialised it when its class count differs from
    that of the weights. ``vgg16_gap`` takes the convolutions of ``vgg16`` and always a new head.
    ``resnet50_v1`` takes the weights of ``resnet50``, which torchvision trained with the stride in
    the 3x3 convolution: they fit, but need fine-tuning. Networks for small images take the
    weights of their large originals, see :func:`_fit_to_small_images`.

    Args:
        network: Changed in place.
        source: ``none``, the name of published torchvision weights (``DEFAULT``,
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
    if source.upper() == "DEFAULT" or source.upper().startswith("IMAGENET1K_"):
        state = _published(source.upper(), architecture)
    else:
        state = _read_file(Path(source).expanduser())
    adapted = _fit_to_small_images(network, state)
    replaced_head = _drop_foreign_head(network, state)
    wanted = network.state_dict()
    head = _head_name(network) + "." if replaced_head else None
    wanted = {key: w for key, w in wanted.items() if head is None or not key.startswith(head)}
    _check_match(wanted, state, source)
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ThinetError(
                f"{key} in the weights {source} holds NaN or infinite values: "
                "give other weights with model.weights=<file>, or train with model.weights=none."
            )
    network.load_state_dict(state, strict=False)
    return WeightsReport(source, len(state), replaced_head, adapted)


def _published(name: str, architecture: str | None) -> State:
    """Download weights from torchvision, or find them in its cache."""
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
    weights = published[name]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, HTTPException, RuntimeError, EOFError) as error:
        raise ThinetError(
            f"the weights of {architecture} could not be downloaded ({_brief(error)}): download "
            f"{weights.url} on a machine with network and give model.weights=<file>, "
            "or train from scratch with model.weights=none."
        ) from error


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
            content: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols, on foreign files
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


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def _fit_to_small_images(network: nn.Module, state: State) -> list[str]:
    """Change weights of ImageNet networks in ``state`` to fit their variants for small images.

    VGG: the classic 7x7 pool copies a 1x1 map to 49 positions, and the first linear layer
    multiplies each copy by its own weight; ``sum_p W_p x = (sum_p W_p) x``, so the sum of a
    channel's 49 weights gives exactly the same outputs for images whose last map is 1x1 (32 to
    63 pixels), and the same applied to the average for larger maps.

    ResNet: the centre 3x3 of the 7x7 stem, an approximation that fine-tuning has to settle.

    Returns:
        The names of the tensors that were changed.
    """
    if isinstance(network, VGG):
        name, large, small = "classifier.0.weight", [4096, 512 * 49], [4096, 512]
    elif isinstance(network, ResNet):
        name, large, small = "conv1.weight", [64, 3, 7, 7], [64, 3, 3, 3]
    else:
        return []
    weight = state.get(name)
    if weight is None or list(weight.shape) != large:
        return []
    if list(network.get_parameter(name).shape) != small:
        return []
    if isinstance(network, VGG):
        state[name] = weight.double().view(4096, 512, 49).sum(2).to(weight.dtype)
    else:
        state[name] = weight[:, :, 2:5, 2:5].clone()
    return [name]


def _drop_foreign_head(network: nn.Module, state: State) -> bool:
    """Remove the last linear layer from ``state`` where it was trained for other classes."""
    if isinstance(network, VggGap) and "classifier.0.weight" in state:  # a VGG's three layers
        for key in [key for key in state if key.startswith("classifier.")]:
            del state[key]
        return True
    name = _head_name(network)
    ours, theirs = network.get_parameter(f"{name}.weight"), state.get(f"{name}.weight")
    if theirs is None or theirs.dim() != 2 or theirs.shape[1] != ours.shape[1]:
        return False
    if theirs.shape[0] == ours.shape[0]:
        return False
    del state[f"{name}.weight"]
    state.pop(f"{name}.bias", None)
    return True


def _head_name(network: nn.Module) -> str:
    modules = network.named_modules()
    names: list[str] = [name for name, module in modules if isinstance(module, nn.Linear)]
    return names[-1]


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
