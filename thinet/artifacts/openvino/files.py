"""Graphs of OpenVINO beside the networks that they were made from.

``openvino.json`` says of which files and where a graph was compared, so that one that does not
belong to the network, is damaged, or runs elsewhere now is not trusted.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.names import SPEC, WEIGHTS
from thinet.artifacts.openvino.checking import check
from thinet.artifacts.openvino.conversion import Converted, converted
from thinet.artifacts.openvino.deployed import Deployed, threads_of
from thinet.artifacts.openvino.package import core, openvino
from thinet.artifacts.store import load, read_spec
from thinet.base.errors import ThinetError, first_line
from thinet.base.files import read_json, write_json_atomic
from thinet.base.values import folder_path, image_shape
from thinet.surgery import check_network, evaluating

GRAPH, NUMBERS, RECORD = "openvino.xml", "openvino.bin", "openvino.json"


def deployed(
    network: nn.Module,
    input_shape: tuple[int, ...],
    threads: int | None = None,
    images: Tensor | None = None,
) -> Deployed:
    """A network as it runs in OpenVINO, after comparing it with the original.

    Args:
        network: In float32 on the CPU; it is left as it was.
        input_shape: ``(C, H, W)`` of an image.
        threads: To compute with; None for as many as torch uses.
        images: Real images ``(N, C, H, W)``, normalised, to compare with too.

    Raises:
        ThinetError: If the package is missing, or the network cannot be converted or differs then.
    """
    return _compared(network, image_shape(input_shape), threads_of(threads), images)[1]


def _compared(
    network: nn.Module, shape: tuple[int, ...], threads: int, images: Tensor | None = None
) -> tuple[Converted, Deployed]:
    openvino()
    check_network(network)
    _check_tensors(network)
    with evaluating(network):
        found = converted(network, shape)
    run = Deployed(found.graph, shape, threads)
    run.difference = check(network, found, run, images)
    return found, run


def _check_tensors(network: nn.Module) -> None:
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ThinetError(
                f"{name} is on {tensor.device}: a network is deployed from the CPU, network.cpu()."
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ThinetError(
                f"{name} is of the type {str(tensor.dtype).removeprefix('torch.')}: a network is "
                "deployed from float32, network.float()."
            )


def export_openvino(folder: Path, network: nn.Module) -> tuple[Path, float]:
    """Write the graph of a network beside its files, compared with it.

    Args:
        folder: Of the saved network.
        network: As it was loaded from there.

    Returns:
        The graph's file, and the largest relative difference of the logits.

    Raises:
        ThinetError: As :func:`deployed`; then no file is left or changed.
    """
    shape = image_size(folder)
    found, run = _compared(network, shape, torch.get_num_threads())
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as place:
        partial = Path(place)
        openvino().save_model(found.graph, partial / GRAPH, compress_to_fp16=False)
        (folder / RECORD).unlink(missing_ok=True)  # from here on the older graph is not trusted
        for name in (NUMBERS, GRAPH):
            shutil.move(partial / name, folder / name)
    record = {"files": _digests(folder), "calls": found.calls, "checked": _machine()}
    write_json_atomic(folder / RECORD, record | {"difference": run.difference})
    return folder / GRAPH, run.difference or 0.0


def deploy(
    folder: str | Path, threads: int | None = None, network: nn.Module | None = None
) -> Deployed:
    """A saved network as it runs in OpenVINO: images in, logits out.

    A graph that ``thinet export <folder> --openvino`` wrote is read if it belongs to the network in
    the folder; on another machine or with another OpenVINO it is compared with it first. Without
    one the network is converted here.

    Args:
        folder: A folder written by :func:`thinet.save`, or the run that it is in.
        threads: To compute with; None for as many as torch uses.
        network: See :func:`thinet.load`; not needed where a graph is read.

    Raises:
        ThinetError: As :func:`deployed` and :func:`thinet.load`.
    """
    folder = folder_path(folder)
    if not (folder / SPEC).exists() and (folder / "model" / SPEC).exists():
        folder = folder / "model"
    openvino()
    count, shape = threads_of(threads), image_size(folder)
    record = _record(folder)
    if record is None:
        return deployed(load(folder, network), shape, count)
    try:
        graph = core().read_model(folder / GRAPH)
    except Exception as error:  # of OpenVINO's own kinds
        raise ThinetError(
            f"{folder / GRAPH} is damaged ({first_line(error)}): type thinet export {folder} "
            "--openvino."
        ) from error
    run = Deployed(graph, shape, count)
    run.difference = float(record["difference"])
    if record["checked"] != _machine():
        found = Converted(graph, tuple(record["calls"]))
        run.difference = check(load(folder, network), found, run)
    return run


def image_size(folder: Path) -> tuple[int, ...]:
    """``(C, H, W)`` of the images of a saved network.

    Raises:
        ThinetError: If its folder does not say.
    """
    shape = read_spec(folder).input_shape
    if not shape:
        raise ThinetError(
            f"{folder} does not say how large its images are: save the network again with "
            "thinet.save(result, folder)."
        )
    return tuple(shape)


def _record(folder: Path) -> dict[str, Any] | None:
    """What is known of the graph in a folder; None if there is none, or it is of other files."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = read_json(folder / RECORD)
        good = record["files"] == _digests(folder)
        float(record["difference"]), record["checked"], tuple(map(str, record["calls"]))
    except (ThinetError, OSError, KeyError, TypeError, ValueError):
        return None
    return record if good else None


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for name in (WEIGHTS, SPEC, GRAPH, NUMBERS):
        with open(folder / name, "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _machine() -> list[str]:
    """What decides how a graph is compiled."""
    package, about = openvino(), core()
    return [
        str(package.__version__),
        str(about.get_property("CPU", "FULL_DEVICE_NAME")),
        ", ".join(sorted(map(str, about.get_property("CPU", "OPTIMIZATION_CAPABILITIES")))),
    ]
