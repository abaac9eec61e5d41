"""Training of a binary network: in which steps, and within which bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.quantization.layers import binary_layers
from thinet.run.settings import Settings


@dataclass(frozen=True)
class Bounds:
    """Where parameters of a binary network stay.

    Attributes:
        weight: Latent weights stay within [-weight, weight], or they wander off to where no
            gradient reaches them (Courbariaux et al. 2016); None lets them.
        gamma: BatchNorm factors right in front of a quantiser stay at or above, or a channel would
            lose its sign (public XNOR-Net code: 0.01); None lets them.
    """

    weight: float | None
    gamma: float | None

    @torch.no_grad()
    def keep_(self, network: nn.Module, in_front: Sequence[str] = ()) -> None:
        """Bring the parameters of a network back within them.

        Args:
            network: With binary layers.
            in_front: BatchNorms in front of those that have none of their own, see
                :class:`thinet.quantization.planning.Conversion`.
        """
        norms: list[nn.Module | None] = [network.get_submodule(path) for path in in_front]
        for layer in binary_layers(network).values():
            if self.weight is not None and layer.binary_weights:
                layer.weight.clamp_(-self.weight, self.weight)
            norms.append(layer.norm)
        for norm in norms:
            factors = getattr(norm, "weight", None)
            if self.gamma is not None and factors is not None:
                factors.clamp_(min=self.gamma)


@dataclass(frozen=True, eq=False)
class Bounded(Objective):
    """An objective whose binary network stays within bounds.

    Attributes:
        inner: What is trained, and towards what.
        bounds: Where its parameters stay.
        in_front: See :meth:`Bounds.keep_`.
    """

    inner: Objective
    bounds: Bounds
    in_front: Sequence[str] = ()

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """That of the inner objective."""
        return self.inner.network

    @property
    def updates(self) -> Sequence[Update]:
        """Those of the inner objective."""
        return self.inner.updates

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Those of the inner objective."""
        return self.inner.parts

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """Those of the inner objective."""
        return self.inner.frozen

    def settle(self) -> None:
        """Apply the bounds."""
        self.inner.settle()
        self.bounds.keep_(self.network, self.in_front)


@dataclass(frozen=True)
class Stage:
    """A step of the training.

    Attributes:
        name: ``activations`` or ``weights``.
        binary_weights: Whether weights are binary in it.
        phase: For how long and at which rate.
    """

    name: str
    binary_weights: bool
    phase: Phase


@dataclass(frozen=True)
class BinaryTraining:
    """How a binary network is trained.

    Attributes:
        training: Optimizer and loss.
        stages: Those that take any epochs, in order; the last one has binary weights.
        bounds: Of latent weights and of BatchNorm factors.
    """

    training: Training
    stages: tuple[Stage, ...]
    bounds: Bounds

    @classmethod
    def read(cls, settings: Settings) -> BinaryTraining:
        """From ``binary_training``."""
        group = "binary_training"
        stages = (
            Stage("activations", False, settings.phase(f"{group}.activations")),
            Stage("weights", True, settings.phase(f"{group}.weights")),
        )
        return cls(
            settings.training(group),
            tuple(stage for stage in stages if stage.phase.epochs),
            Bounds(settings[f"{group}.weight_bound"], settings[f"{group}.gamma_floor"]),
        )
