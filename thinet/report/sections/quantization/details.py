"""What binarisation leaves in ``result.json``."""

from __future__ import annotations

from dataclasses import dataclass

KEY = "quantization"


@dataclass(frozen=True)
class LayerBits:
    """A layer of the network, in the order in which layers are computed.

    Attributes:
        layer: Its module path.
        kind: What it is: ``conv 3x3``, ``linear``.
        reason: Why it stays in floating point; empty if it became binary.
        weights: How many, without biases.
        bits: That its parameters take: of a binary layer one a weight, 32 a factor, a bias and a
            parameter of its BatchNorm.
        binary_ops: 1-bit multiply-accumulates for one image, of all K passes together.
        flops: 2 x multiply-accumulates in floating point that it has left.
    """

    layer: str
    kind: str
    reason: str
    weights: int
    bits: int
    binary_ops: int
    flops: int

    @property
    def binary(self) -> bool:
        """Whether it computes with bits."""
        return not self.reason


@dataclass(frozen=True)
class Speed:
    """How long one image takes.

    Attributes:
        name: ``PyTorch, full precision``, ``PyTorch, from the bits``, ``OpenVINO, full precision``
            or ``OpenVINO, 1 bit``.
        latency_ms: Median in milliseconds.
        threads: That it ran with.
    """

    name: str
    latency_ms: float
    threads: int


@dataclass(frozen=True)
class QuantizationDetails:
    """What only binarisation knows.

    Attributes:
        quantizer: Name of the option: ``horq2``.
        order: K, the bits of an activation.
        scale: What a scale of activations is the mean of: ``sample``, ``patch`` or ``constant``.
        layers: All convolutions and linear layers.
        norms_added: Binary layers that got a BatchNorm of their own in front.
        relus_removed: ReLUs that stood in front of a binary layer.
        bytes_full: Of the file of weights in full precision.
        bytes_packed: Of the file of weights as bits.
        factor: Theoretical speed-up over the binary layers by the formula of the paper.
        speeds: Measured ones.
        deployed_difference: Largest difference between the outputs of OpenVINO and of the trained
            network, as a share of the largest output; None if OpenVINO did not run it.
        why_not_deployed: A sentence, if it did not.
    """

    quantizer: str
    order: int
    scale: str
    layers: tuple[LayerBits, ...]
    norms_added: int
    relus_removed: int
    bytes_full: int
    bytes_packed: int
    factor: float
    speeds: tuple[Speed, ...] = ()
    deployed_difference: float | None = None
    why_not_deployed: str = ""

    @property
    def binary(self) -> tuple[LayerBits, ...]:
        """The layers that compute with bits."""
        return tuple(one for one in self.layers if one.binary)

    @property
    def floating(self) -> tuple[LayerBits, ...]:
        """The layers that stay in floating point."""
        return tuple(one for one in self.layers if not one.binary)


@dataclass(frozen=True)
class Part:
    """Where some of the bits of a network's parameters are.

    Attributes:
        name: For people.
        bits: As they are saved.
        full: As the same took in full precision; 0 for what there was none of.
    """

    name: str
    bits: int
    full: int


WEIGHTS, FACTORS, FLOATING, OTHERS = (
    "weights of binary layers",
    "factors and BatchNorms of binary layers",
    "layers in floating point",
    "other BatchNorms and the rest",
)


def parts(found: QuantizationDetails, bits: int, full: int) -> list[Part]:
    """Where the bits of the parameters are, before and after.

    Args:
        found: The details.
        bits: Of all parameters of the binary network; 0 if nobody counted.
        full: Of all parameters in full precision; 0 if nobody counted.

    Returns:
        Those that either network has. Biases of binary layers count among their factors after and
        among the rest before: the details do not tell them apart.
    """
    weights = sum(one.weights for one in found.binary)
    factors = sum(one.bits - one.weights for one in found.binary)
    floating = sum(one.bits for one in found.floating)
    known = (
        Part(WEIGHTS, weights, 32 * weights),
        Part(FACTORS, factors, 0),
        Part(FLOATING, floating, floating),
        Part(
            OTHERS,
            max(bits - weights - factors - floating, 0),
            max(full - 32 * weights - floating, 0),
        ),
    )
    return [one for one in known if one.bits or one.full]
