"""A network that runs in OpenVINO."""

from __future__ import annotations

import re
import statistics
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinet.artifacts.openvino.package import core
from thinet.base.errors import ThinetError, first_line
from thinet.base.values import shown, whole

_SIZES = 4
"""Sizes of batches that a graph stays compiled for, those that were used last."""


class Deployed:
    """Images in, logits out; on the CPU, in float32 where there are no bits.

    The first call with a batch of another size compiles the graph once more.

    Attributes:
        input_shape: ``(C, H, W)`` of an image, normalised as the network expects.
        threads: That it computes with.
        difference: Of the logits from the original's, see :func:`.checking.check`; None if it was
            not compared.
    """

    def __init__(
        self,
        graph: Any,
        input_shape: tuple[int, ...],
        threads: int | None,
    ) -> None:
        self.input_shape = input_shape
        self.threads = threads_of(threads)
        self.difference: float | None = None
        self._graph = graph
        self._ready: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, images: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Logits of images ``(N, C, H, W)``.

        Raises:
            ThinetError: If they are no such images.
        """
        array = self._array(images)
        request = self._request(len(array))
        request.infer(array, share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    def latency_ms(self, batch: int = 1, runs: int = 15) -> float:
        """Median milliseconds of a pass, after three that are not timed.

        Args:
            batch: Images a pass.
            runs: Timed passes.
        """
        images = np.zeros((whole("batch", batch, "1"), *self.input_shape), np.float32)
        times = []
        for turn in range(whole("runs", runs, "15") + 3):
            start = time.perf_counter()
            self(images)
            if turn >= 3:
                times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3

    @property
    def binary_layers(self) -> int:
        """Layers that the compiled graph really computes with bits."""
        return binary_layers(self._request(1).get_compiled_model())

    def _array(self, images: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if isinstance(images, Tensor):
            if images.dtype == torch.bfloat16:  # numpy has none
                images = images.half()
            images = images.detach().cpu().numpy()
        shape = ", ".join(map(str, self.input_shape))
        if not isinstance(images, np.ndarray):
            raise ThinetError(
                f"images of the kind {type(images).__name__} are not understood: pass a tensor or "
                f"an array of float32, (N, {shape})."
            )
        if images.dtype != np.float32:
            raise ThinetError(
                f"images of the type {images.dtype} are not understood: pass float32, normalised "
                "as in training."
            )
        if images.ndim < 2 or not len(images) or images.shape[1:] != self.input_shape:
            raise ThinetError(
                f"images of the shape {tuple(images.shape)} do not fit: pass (N, {shape})."
            )
        return np.ascontiguousarray(images)

    def _request(self, batch: int) -> Any:
        if batch not in self._ready:
            model = compiled(self._graph, (batch, *self.input_shape), self.threads)
            self._ready[batch] = model.create_infer_request()
        self._ready.move_to_end(batch)
        while len(self._ready) > _SIZES:
            self._ready.popitem(last=False)
        return self._ready[batch]


def threads_of(threads: int | None) -> int:
    """As many as torch uses, if not said.

    Raises:
        ThinetError: If it is no number of threads.
    """
    if threads is None:
        return torch.get_num_threads()
    if whole("threads", threads, "1") > 1024:
        raise ThinetError(f"threads={shown(threads)} is more than any machine has: type threads=2.")
    return int(threads)


def compiled(graph: Any, shape: tuple[int, ...], threads: int, **options: str) -> Any:
    """The graph for images of one shape, as it is run: nothing below float32, nothing cached.

    Args:
        graph: With a batch of any size.
        shape: ``(N, C, H, W)``.
        threads: To compute with.
        options: OpenVINO's, in the place of these.

    Raises:
        ThinetError: If it cannot be compiled.
    """
    fixed = graph.clone()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",  # or all processes of a machine share its first cores
    }
    try:
        fixed.reshape(list(shape))
        return core().compile_model(fixed, "CPU", settings | options)
    except Exception as error:  # of OpenVINO's own kinds
        raise ThinetError(
            f"OpenVINO does not compile this network ({first_line(error)})."
        ) from error


def binary_layers(model: Any) -> int:
    """Calls of layers whose products a compiled model computes with bits, by compiled code."""
    found = set()
    for node in model.get_runtime_model().get_ops():
        about = {key: str(value) for key, value in _plain(node.get_rt_info())}
        kind = about.get("primitiveType", "")
        if about.get("layerType") == "BinaryConvolution" and kind.startswith("jit"):
            found.update(re.findall(r"call\.\d+(?=/)", about.get("originalLayersNames", "")))
    return len(found)


def _plain(info: Any) -> Iterator[tuple[str, Any]]:
    for key, value in info.items():
        yield key, getattr(value, "value", value)
