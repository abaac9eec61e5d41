"""Handing a saved network to other runtimes, checked against the original."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from thinet.artifacts.openvino.files import export_openvino, image_size
from thinet.artifacts.openvino.package import openvino
from thinet.artifacts.parity import Observed, Run, difference, difference_by_steps, rounds
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
        The file, and the largest relative difference of the outputs; of a network with binary
        layers that of its steps, see :mod:`thinet.artifacts.parity`.

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
        example = torch.zeros(2, *shape)
        run = write(network, example, partial)
        if kind == "onnx" and rounds(network):
            observed = _onnx(Observed(network), example, Path(place) / "observed.onnx")
            differences = [
                difference_by_steps(network, observed, run, shape, batch) for batch in (1, 3)
            ]
        else:
            differences = [difference(network, run, shape, batch) for batch in (1, 3)]
        worst = float(torch.tensor(differences).max())  # unlike max(), NaN wins
        if not worst <= TOLERANCE:
            raise ThinetError(
                f"the exported network differs from the original by {worst:.1e}: it was not "
                f"kept; try {_other(kind)} instead."
            )
        partial.replace(path)
    return path, worst


def _pt2(network: nn.Module, example: Tensor, path: Path) -> Run:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    made = torch.export.load(path).module()
    return lambda images: [made(images)]


def _onnx(network: nn.Module, example: Tensor, path: Path) -> Run:
    """Where rounding decides bits, the graph is run as it was written.

    Fusions round otherwise, here the exporter's and there the runtime's, and what is compared is
    the graph. Bits of weights then stay bits in the file.
    """
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise ThinetError(
            f"--onnx needs {', '.join(missing)}: type pip install 'thinet[export]', or use --pt2."
        )
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    plain, count = rounds(network), _outputs(network, example)
    torch.onnx.export(
        network,
        (example,),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        optimize=not plain,
        input_names=["images"],
        output_names=["logits", *(f"seen.{place}" for place in range(count - 1))],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [
        torch.from_numpy(one) for one in session.run(None, {name: images.numpy()})
    ]


@torch.no_grad()
def _outputs(network: nn.Module, example: Tensor) -> int:
    return len(network(example)) if isinstance(network, Observed) else 1
