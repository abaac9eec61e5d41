"""Making weights fit a network that differs from theirs in head, image size or names of tensors."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torchvision.models import VGG, GoogLeNet, Inception3, ResNet, VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from thinet.models.timm_net import is_timm
from thinet.models.vgg import VggGap

State = dict[str, Tensor]

# Files of torchvision that keep the names its modules had once, and the names they have now.
_OLD_NAMES = (
    (re.compile(r"(.*\.denselayer\d+\.(?:norm|conv))\.([12]\..*)"), r"\1\2"),
    (re.compile(r"(.*\.encoder_layer_\d+\.mlp)\.linear_1\.(.*)"), r"\1.0.\2"),
    (re.compile(r"(.*\.encoder_layer_\d+\.mlp)\.linear_2\.(.*)"), r"\1.3.\2"),
)
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


def fit_(network: nn.Module, state: State) -> list[str]:
    """Change ``state`` to fit ``network``, where that is known to be right.

    - Old names of DenseNet's and ViT's tensors become today's.
    - Auxiliary heads of GoogLeNet and Inception go, if the network was built without: they take
      no part in its output.
    - VGG for small images: the classic 7x7 pool copies a 1x1 map to 49 positions, and the first
      linear layer multiplies each copy by its own weight; ``sum_p W_p x = (sum_p W_p) x``, so the
      sum of a channel's 49 weights gives exactly the same outputs for images whose last map is
      1x1 (32 to 63 pixels), and the same applied to the average for larger maps.
    - ResNet for small images: the centre 3x3 of the 7x7 stem, an approximation that fine-tuning
      has to settle.
    - ViT for another image size: the embedding of positions is interpolated.

    Returns:
        The names of the tensors that were fitted to another image size.
    """
    for old in list(state):
        for pattern, replacement in _OLD_NAMES:
            new = pattern.sub(replacement, old)
            if new != old:
                state[new] = state.pop(old)
    if isinstance(network, GoogLeNet | Inception3) and not network.aux_logits:
        for key in [key for key in state if key.startswith(_AUXILIARY)]:
            del state[key]
    if isinstance(network, VisionTransformer):
        return _fit_positions_(network, state)
    return _fit_to_small_images_(network, state)


def _fit_positions_(network: VisionTransformer, state: State) -> list[str]:
    name = "encoder.pos_embedding"
    ours, theirs = network.get_parameter(name), state.get(name)
    if theirs is None or theirs.shape == ours.shape or theirs.shape[2:] != ours.shape[2:]:
        return []
    if (theirs.shape[1] - 1) ** 0.5 % 1:  # not a class token and a square of patches
        return []
    interpolated: Any = interpolate_embeddings(network.image_size, network.patch_size, state)  # type: ignore[arg-type]
    state[name] = interpolated[name]
    return [name]


def _fit_to_small_images_(network: nn.Module, state: State) -> list[str]:
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


def drop_foreign_heads_(network: nn.Module, state: State) -> list[str]:
    """Remove heads that were trained for other classes from ``state``.

    Returns:
        The modules that stay as the builder initialised them: those heads, or all of the
        network's where ``state`` has none of them (trained without labels, for example).
    """
    if isinstance(network, VggGap) and "classifier.0.weight" in state:  # a VGG's three layers
        for key in [key for key in state if key.startswith("classifier.")]:
            del state[key]
        return ["classifier"]
    names = heads(network)
    there = [name for name in names if f"{name}.weight" in state]
    foreign = []
    for name in there:
        ours, theirs = network.get_parameter(f"{name}.weight"), state[f"{name}.weight"]
        if theirs.shape[1:] == ours.shape[1:] and theirs.shape[0] != ours.shape[0]:
            del state[f"{name}.weight"]
            state.pop(f"{name}.bias", None)
            foreign.append(name)
    return foreign if there else names


def heads(network: nn.Module) -> list[str]:
    """Names of the layers whose outputs are the classes: one, but for some networks of timm."""
    modules = dict(network.named_modules())
    if is_timm(network):
        config: Any = network.pretrained_cfg
        names = config["classifier"] or ()
        return [name for name in ([names] if isinstance(names, str) else names) if name in modules]
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    # SqueezeNet classifies with a convolution.
    return linear[-1:] or [n for n, module in modules.items() if isinstance(module, nn.Conv2d)][-1:]
