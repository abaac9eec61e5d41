"""Gradients of the loss with respect to gates on a group's units (Molchanov et al. 2019)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from thinet.base.errors import ThinetError
from thinet.pruning.statistics.statistic import Sampling, Statistic, widened
from thinet.surgery import Consumer, Group
from thinet.surgery.calls import WeightCall

CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})
PRODUCTS = frozenset({"matmul", "__matmul__", "mm"})


class _Gating(TorchFunctionMode):
    """Multiplies the inputs of watched operations by gates, which are one but have a gradient.

    Operations are recognised by their weight, by identity, so functional calls and modules used
    twice are seen like any other.

    Args:
        weights: The watched tensors by name.
        watched: How often each is used in one pass; later uses get no gate.
        images: N, how many images a pass has.
    """

    def __init__(self, weights: Mapping[str, Tensor], watched: dict[str, int], images: int) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in weights.items()}
        # Transposed weights by id; the tensor is kept so that its id is not given out again.
        self._transposed: dict[int, tuple[str, Tensor]] = {}
        self._watched, self._images = watched, images
        self._turns: Counter[str] = Counter()
        self.gates: dict[tuple[str, int], Tensor] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in CONVOLUTIONS or func is F.linear:
            args = (args[0] if args else kwargs.pop("input"), *args[1:])
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            axis = 1 if func in CONVOLUTIONS else args[0].dim() - 1
            args = (self._gated(args[0], axis, self._names.get(id(weight))), *args[1:])
        elif self._transposed and getattr(func, "__name__", "") in {*PRODUCTS, "addmm"}:
            place = len(args) - 2  # of the input: addmm(bias, input, weight), mm(input, weight)
            name, _ = self._transposed.get(id(args[-1]), (None, None))
            if place >= 0 and name is not None:
                gated = self._gated(args[place], args[place].dim() - 1, name)
                args = (*args[:place], gated, args[-1])
        result = func(*args, **kwargs)
        self._note(args, result)
        return result

    def _note(self, args: tuple[Any, ...], result: Any) -> None:
        """Remember views that are a watched weight turned around: ``x @ weight.t()``."""
        name = self._names.get(id(args[0])) if args else None
        if name is None or not isinstance(result, Tensor) or result.dim() != 2:
            return
        turned = result._base is not None and result.data_ptr() == args[0].data_ptr()
        if turned and result.stride() == args[0].stride()[::-1]:
            self._transposed[id(result)] = (name, result)

    def _gated(self, x: Tensor, axis: int, name: str | None) -> Tensor:
        if name is None or self._turns[name] >= self._watched[name]:
            return x
        if x.dim() < 2 or x.shape[0] % self._images:
            raise ThinetError(
                f"criterion=taylor cannot tell the images apart in the input of {name}, whose "
                f"shape is {list(x.shape)} for {self._images} images: choose another criterion, "
                "for example criterion=thinet."
            )
        wide = widened(x)
        gate = wide.new_ones(self._images, x.shape[axis]).requires_grad_()
        self.gates[name, self._turns[name]] = gate
        self._turns[name] += 1
        shape = [self._images, *(1 for _ in x.shape[1:])]
        shape[axis] = x.shape[axis]
        # Where images are cut into windows, those of one image stand together.
        each = gate.view(shape).repeat_interleave(x.shape[0] // self._images, dim=0)
        return (wide * each).to(x)  # so a gate's gradient is summed up in float32 at least


def gate_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, watched: dict[str, int]
) -> dict[tuple[str, int], Tensor]:
    """Gradient of each image's loss with respect to a gate on each input of chosen layers.

    The loss is the cross entropy of the network's first output. A gate z = 1 multiplies an input
    channel (or feature) at all positions, so its gradient is the sum over positions of x dL/dx.
    Gates have gradients of their own, so frozen networks do as well; no parameter's ``grad``
    changes. Images do not mix in ``eval()`` mode, so the result does not depend on the batch.

    Args:
        network: A classifier; run as it is (put it in ``eval()`` mode first).
        images: ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        watched: Uses of each watched weight in one pass, by name.

    Returns:
        By name of the weight and use of it (from 0), ``(N, input channels or features)``.

    Raises:
        ThinetError: If a use cannot be seen or its images cannot be told apart.
    """
    stored = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    gating = _Gating({name: stored[name] for name in watched}, watched, len(images))
    with torch.enable_grad():
        with gating:
            output = tree_leaves(network(images))[0]
        wanted = [(name, turn) for name, calls in watched.items() for turn in range(calls)]
        for name, turn in wanted:
            if (name, turn) not in gating.gates:
                raise ThinetError(
                    f"criterion=taylor does not see use {turn + 1} of {name} in a convolution or "
                    "linear layer: choose another criterion, for example criterion=thinet."
                )
        _check_scores(output, labels)
        labels = labels.long()
        logits = output if output.dtype == torch.float64 else output.float()
        loss = F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
        gates = [gating.gates[key] for key in wanted]
        found = torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def _check_scores(output: Tensor, labels: Tensor) -> None:
    """Refuse what has no cross entropy, or one of something else than classes."""
    if output.dim() != 2:
        raise ThinetError(
            "criterion=taylor needs one score a class, (N, classes), and the network's output has "
            f"shape {tuple(output.shape)}: choose another criterion, for example criterion=thinet."
        )
    whole = not labels.is_floating_point() and not labels.is_complex()
    if not whole or not bool(((labels >= 0) & (labels < output.shape[1])).all()):
        raise ThinetError(
            f"criterion=taylor needs labels that are whole numbers from 0 to {output.shape[1] - 1}"
            ", one class an image: pass such labels, or choose another criterion, for example "
            "criterion=thinet."
        )


class Gates(NamedTuple):
    """The importance of each unit, float64 ``(units,)``, and the number of images behind it."""

    importance: Tensor
    rows: int


class GateGradients(Statistic[Gates]):
    """Mean over images of the squared gradient of the loss with respect to a gate on each unit.

    The gate multiplies the unit wherever a consumer reads it: gradients of all consumers, uses
    and inputs of a unit add up before they are squared. It needs a backward pass, so it is fed
    with the result of :func:`gate_gradients` by :meth:`update_gates` and not with calls.

    Args:
        units: How many units the group has.
        consumers: Who reads them.
    """

    gradients: ClassVar[bool] = True
    total: Tensor
    count: Tensor

    def __init__(self, units: int, consumers: tuple[Consumer, ...]) -> None:
        super().__init__()
        self.consumers = {consumer.weight: consumer for consumer in consumers}
        self.add_state("total", torch.zeros(units, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_group(cls, group: Group, sampling: Sampling, images: int) -> Self:
        """See :meth:`Statistic.for_group`; all positions of all images count."""
        return cls(group.units, group.consumers)

    @property
    def watched(self) -> dict[str, int]:
        """The layers that read the units."""
        return {name: consumer.calls for name, consumer in self.consumers.items()}

    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """Not used: a forward pass says nothing about gradients; see :meth:`update_gates`."""
        raise NotImplementedError("GateGradients takes gradients: call update_gates")

    def update_gates(self, gates: Mapping[tuple[str, int], Tensor], images: list[int]) -> None:
        """Take in one batch.

        Args:
            gates: What :func:`gate_gradients` returned; may hold other groups' consumers, too.
            images: The calibration number of each of the N images.
        """
        total = torch.zeros(len(images), len(self.total)).to(self.total)
        for (name, turn), gradient in gates.items():
            consumer = self.consumers.get(name)
            if consumer is not None and turn < consumer.calls:
                channels = consumer.channels.to(total.device)
                own = channels >= 0
                total.index_add_(1, channels[own], gradient.to(total)[:, own])
        self.total += total.square().sum(dim=0)
        self.count += len(images)

    def summary(self) -> Gates:
        """See :meth:`Statistic.summary`."""
        return Gates(self.total / self.count.clamp_min(1), int(self.count))
