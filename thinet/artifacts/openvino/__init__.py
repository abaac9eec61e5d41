"""Networks in OpenVINO: converted, compared layer by layer, and run on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinet.artifacts.openvino.checking import check
from thinet.artifacts.openvino.conversion import Lowers, converted
from thinet.artifacts.openvino.deployed import Deployed, threads_of
from thinet.artifacts.openvino.package import has_openvino, openvino
from thinet.base.errors import ThinetError
from thinet.base.values import image_shape
from thinet.surgery import check_network, evaluating

__all__ = ["Deployed", "Lowers", "deployed", "has_openvino"]


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
    openvino()
    check_network(network)
    shape, count = image_shape(input_shape), threads_of(threads)
    _check_tensors(network)
    with evaluating(network):
        found = converted(network, shape)
        difference = check(network, found, shape, count, images)
    return Deployed(found.graph, shape, count, difference)


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
