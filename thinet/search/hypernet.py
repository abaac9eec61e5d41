"""PruningNet: one network that makes the weights of a network of any widths.

Source: Liu et al., MetaPruning, ICCV 2019, section 3.1. For each convolution
``h = relu(Linear(d, H)(e))``, ``W = Linear(H, O I k k)(h)``, of which the leading channels are
used; e holds the scales of the widths around it. The authors' code has one such pair a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thinet.search.encoding import encodings, hidden_of
from thinet.search.settings import EACH, Making
from thinet.surgery import ChannelGraph, Crops, Dressed
from thinet.widths.space import Genes, Space

Norm = nn.modules.batchnorm._BatchNorm


class Generator(nn.Module):
    """Makes one weight at full width from the scales of the widths around it.

    Args:
        inputs: d, how many scales it is told.
        hidden: H.
        shape: Of the weight, output channels first.
        rank: See :class:`Making`.
    """

    def __init__(
        self, inputs: int, hidden: int, shape: tuple[int, ...], rank: int | None = None
    ) -> None:
        super().__init__()
        self.shape = shape
        rows, columns = shape[0], math.prod(shape[1:])
        self.rank = rank if rank is not None and rank * (rows + columns) < rows * columns else None
        self.first = nn.Linear(inputs, hidden)
        made = rows * columns if self.rank is None else self.rank * (rows + columns)
        self.second = nn.Linear(hidden, made)

    def forward(self, scales: Tensor) -> Tensor:
        """The weight, of ``shape``, for scales of shape ``(d,)``."""
        made: Tensor = self.second(torch.relu(self.first(scales)))
        if self.rank is None:
            return made.view(self.shape)
        count = self.rank * self.shape[0]
        left, right = made[:count].view(-1, self.rank), made[count:].view(self.rank, -1)
        weight: Tensor = (left @ right).view(self.shape)
        return weight


class PruningNet(nn.Module):
    """A network with widths that are drawn anew for every batch, and generated weights.

    What has no width of its own to choose (the classifier, convolutions whose channels all stay)
    is learnt as usual; where a group leads into it, its leading inputs are used.

    Args:
        network: The network whose like is searched; its weights are copied where they are not
            generated.
        graph: Its trace.
        space: The widths to choose among.
        making: How weights are made.
    """

    def __init__(
        self, network: nn.Module, graph: ChannelGraph, space: Space, making: Making
    ) -> None:
        super().__init__()
        self.space, self.making = space, making
        self.crops = Crops(graph, space.names)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        made = graph.facts.work if making.generate else ()
        convolutions = [name for name in made if tensors[name].dim() > 2]
        self.told = encodings(convolutions, self.crops, space.genes, making.blocks)
        self.generators = nn.ModuleDict()
        self._by_weight: dict[str, str] = {}
        for name, told in self.told.items():
            self._add(name, tuple(tensors[name].shape))
            self.register_buffer(f"told_{_key(name)}", torch.tensor(told), persistent=False)
        self.learnt = nn.ParameterDict()
        self._still: dict[str, str] = {}
        norms = _of_norms(network)
        self._chosen_by = {}
        if making.norms == EACH:
            found = {name: self.crops.reads(mean) for name, mean in norms.items()}
            self._chosen_by = {name: space.genes[read[0]] for name, read in found.items() if read}
        for name, tensor in tensors.items():
            if name not in self.told:
                learnt = isinstance(tensor, nn.Parameter) and tensor.requires_grad
                self._keep(name, tensor, learnt and (name not in norms or making.affine))
        # Kept out of the modules: it has no tensors of its own.
        object.__setattr__(self, "_dressed", Dressed(network, self.crops))

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        inputs, hidden = len(self.told[name]), hidden_of(name, self.making.hidden)
        key = _key(name)
        if self.making.shared:
            key = "x".join(map(str, (inputs, hidden, *shape)))
        if key not in self.generators:
            self.generators[key] = Generator(inputs, hidden, shape, self.making.rank)
        self._by_weight[name] = key

    def _keep(self, name: str, tensor: Tensor, learnt: bool) -> None:
        """Keep a tensor that is not generated, one for each width where there are to be so many."""
        kept = tensor.detach().clone()
        if name in self._chosen_by:
            kept = kept.expand(len(self.space.scales), *kept.shape).clone()
        if learnt:
            self.learnt[_key(name)] = nn.Parameter(kept)
        else:
            self._still[name] = f"still_{_key(name)}"
            self.register_buffer(self._still[name], kept)

    def tensors(self, genes: Genes) -> dict[str, Tensor]:
        """Every tensor of the network at some widths, by its dotted name.

        Running statistics are views, so that a forward pass in training mode updates them here.
        """
        counts = self.space.widths(genes)
        scales = torch.tensor([self.space.scales[gene] / 100 for gene in genes],
                              device=next(self.parameters()).device)  # fmt: skip
        found: dict[str, Tensor] = {}
        for name in self.told:
            own = scales.index_select(0, getattr(self, f"told_{_key(name)}"))
            made = self.generators[self._by_weight[name]](own)
            found[name] = self.crops(name, made, counts)
        for name, tensor in self._own():
            place = self._chosen_by.get(name)
            one = tensor if place is None else tensor[genes[place]]
            found[name] = self.crops(name, one, counts)
        return found

    def _own(self) -> Sequence[tuple[str, Tensor]]:
        learnt = [(key.replace("/", "."), tensor) for key, tensor in self.learnt.items()]
        return [*learnt, *((name, getattr(self, own)) for name, own in self._still.items())]

    def at(self, genes: Genes) -> nn.Module:
        """The network at some widths, in the mode of this one; the next call changes it."""
        return self._in(self.tensors(genes))

    def alone(self, genes: Genes) -> nn.Module:
        """As :meth:`at`, with tensors of its own: what is done to them changes nothing here."""
        return self._in({name: one.detach().clone() for name, one in self.tensors(genes).items()})

    def _in(self, tensors: dict[str, Tensor]) -> nn.Module:
        dressed: Dressed = self.__dict__["_dressed"]
        return dressed.wear(tensors).train(self.training)

    def forward(self, images: Tensor, genes: Genes | None = None) -> Tensor:
        """The outputs of the network at some widths, or at full width."""
        outputs: Tensor = self.at(self.space.top if genes is None else genes)(images)
        return outputs


def _of_norms(network: nn.Module) -> dict[str, str]:
    """Everything that BatchNorms hold, by name, and which of it tells their width."""
    found: dict[str, str] = {}
    for path, module in network.named_modules():
        if isinstance(module, Norm):
            names = [f"{path}.{leaf}" if path else leaf
                     for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
                     if tensor is not None]  # fmt: skip
            found |= dict.fromkeys(names, names[0])
    return found


def _key(name: str) -> str:
    """Names of entries may hold no dots."""
    return name.replace(".", "/")
