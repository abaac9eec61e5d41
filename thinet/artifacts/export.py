"""Handing a saved network to other runtimes, checked against the original."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.openvino.files import export_openvino, image_size
from thinet.artifacts.openvino.package import openvino
from thinet.artifacts.store import load
from thinet.base.errors import ThinetError, first_line
from thinet.base.values import folder_path, shown

TOLERANCE = 1e-4
"""Largest difference of outputs, relative to the largest output, that counts as parity."""


def export(folder: str | Path, kind: str, network: nn.Module | None = None) -> tuple[Path, float]:
    """Export a saved network and compare outputs on random images, for batches of 1 and 3.

    Args:
        folder: A folder written by :func:`thinet.save`; the exported file goes there.
        kind: ``onnx``, ``pt2`` (``torch.export``) or ``openvino``, which is compared by layers:
            see :mod:`thinet.artifacts.openvino.checking`.
        network: See :func:`thinet.load`.

    Returns:
        The file, and the largest relative difference of the outputs.

    Raises:
        ThinetError: If a package is missing or the outputs differ; then no file is left.
    """
    folder = folder_path(folder)
    if kind not in ("onnx", "pt2", "openvino"):
        raise ThinetError(f"kind={shown(kind)} is unknown: choose onnx, pt2 or openvino.")
    if kind == "openvino":
        openvino()
        return export_openvino(folder, load(folder, network))
    loaded, shape = load(folder, network), image_size(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _written(loaded, folder, kind, shape)
    except ThinetError:
        raise
    except Exception as error:  # exporters raise nearly anything
        raise ThinetError(
            f"the network cannot be exported as {kind} ({first_line(error)}): try {_other(kind)} "
            "instead."
        ) from error


def _other(kind: str) -> str:
    return "--pt2" if kind == "onnx" else "--onnx"


def _written(
    network: nn.Module, folder: Path, kind: str, shape: tuple[int, ...]
) -> tuple[Path, float]:
    """Write beside the place, compare, and move there."""
    path = folder / f"model.{kind}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as place:
        partial = Path(place) / path.name
        write = _onnx if kind == "onnx" else _pt2
        run = write(network, torch.zeros(2, *shape), partial)
        differences = [_difference(network, run, shape, batch) for batch in (1, 3)]
        worst = float(torch.tensor(differences).max())  # unlike max(), NaN wins
        if not worst <= TOLERANCE:
            raise ThinetError(
                f"the exported network differs from the original by {worst:.1e}: it was not "
                f"kept; try {_other(kind)} instead."
            )
        partial.replace(path)
    return path, worst


def _difference(network: nn.Module, run: Any, shape: tuple[int, ...], batch: int) -> float:
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        wanted = network(images)
    return float((run(images) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))


def _pt2(network: nn.Module, example: Tensor, path: Path) -> Any:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _onnx(network: nn.Module, example: Tensor, path: Path) -> Any:
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise ThinetError(
            f"--onnx needs {', '.join(missing)}: type pip install 'thinet[export]', or use --pt2."
        )
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        network,
        (example,),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])
