"""Compress convolutional networks and measure what it costs.

The public functions are loaded when they are first used, so that ``import thinet`` is instant::

    result = thinet.prune(model, batches, ratio=0.5)   # any classifier; it is left as it was
    thinet.save(result, "slim/")                       # safetensors and JSON
    net = thinet.load("slim/", network=model)
    images = thinet.synthesize(model, 100, 32)         # where all images are gone: for prune
    found = thinet.search_widths(model, train, validation)   # how wide each layer should be
    binary = thinet.binarize(model, order=2)           # a bit a weight, two an activation: train it
    run = thinet.deploy("slim/", threads=2)            # in OpenVINO: run(images) gives logits
    thinet.cost(net, (3, 224, 224))                    # FLOPs, MACs, parameters, size
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinet.artifacts.openvino import deploy
    from thinet.artifacts.store import load, save
    from thinet.base.errors import ThinetError
    from thinet.metrics import cost
    from thinet.pruning.prune import prune
    from thinet.quantization.convert import binarize
    from thinet.search.search_widths import search_widths
    from thinet.synthesis.synthesize import synthesize

__version__ = "0.1.0"
__all__ = [
    "ThinetError",
    "binarize",
    "cost",
    "deploy",
    "load",
    "prune",
    "save",
    "search_widths",
    "synthesize",
]

_HOMES = {
    "ThinetError": "thinet.base.errors",
    "binarize": "thinet.quantization.convert",
    "cost": "thinet.metrics",
    "deploy": "thinet.artifacts.openvino",
    "load": "thinet.artifacts.store",
    "prune": "thinet.pruning.prune",
    "save": "thinet.artifacts.store",
    "search_widths": "thinet.search.search_widths",
    "synthesize": "thinet.synthesis.synthesize",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'thinet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
