"""Backward elimination by what remains after the next layers' weights are fitted anew.

ThiNet charges a channel what its removal takes from the next layer's output as it is. Where the
next layer is fitted anew afterwards (``reconstruction=refit``), most of that is made good, and what
counts is the rest. Removing input block c of a least squares problem with solution W and inverse
moments M = A^-1 adds tr(W_c M_cc^-1 W_c^T) to its error, and the new solution and the new inverse
are W - W_c M_cc^-1 M_c: and M - M_:c M_cc^-1 M_c: without block c. So no problem is ever solved
again: one inversion at the start, and block downdates as units go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.base.values import flag, number
from thinet.pruning.criteria.criterion import Candidates, Criterion
from thinet.pruning.statistics import Evidence, PatchMoments, Statistic
from thinet.pruning.statistics.patches import LARGEST

TIE = 1e-8
"""Costs that differ by less, relatively, are equal: rounding must not decide between copies."""

PENDING = 128
"""Columns of downdates put off until one matrix product applies them all."""


class LeastSquares(NamedTuple):
    """What a layer computes from its inputs, and what is needed to fit it anew.

    Attributes:
        weight: W, ``(D, P)``.
        moments: A, ``(P, P)``: second moments of the inputs, centred if a constant is free.
        units: int64 ``(P,)``: the unit that each input belongs to, or -1 if it always stays.
    """

    weight: Tensor
    moments: Tensor
    units: Tensor


def backward_elimination(
    problems: Sequence[LeastSquares], units: int, count: int, ridge: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Remove units one at a time, each time the one whose removal costs least after a refit.

    The error of a problem is tr((W - W') A (W - W')^T) for the best W' that reads no removed
    input; the errors of all problems add up. Dead units (without any moment) go first. Ties go to
    the lowest index. Memory: about three times the largest A beside it; time: two to three times
    that of inverting each A once (13 s for 512 units of 9 inputs and 512 outputs on one CPU core).

    Args:
        problems: One for each layer that reads the units (each group, if it is a grouped one).
        units: How many there are.
        count: How many to remove.
        ridge: Added to the diagonal of each A, relative to its mean, and at least 1e-10 of it. It
            is in the error, too, so that W is the solution before the first removal.

    Returns:
        The units in the order of their removal, int64 ``(count,)``, and what each adds to the
        error, float64 ``(count,)``: their running sum is the error at every width. Both on the CPU.
    """
    reading = [problem for problem in problems if bool((problem.units >= 0).any())]
    running = [_Running(problem, units, ridge) for problem in reading]
    read = torch.zeros(units, dtype=torch.bool)
    for problem in running:
        read |= problem.read
    gone = torch.zeros(units, dtype=torch.bool)
    order = torch.zeros(count, dtype=torch.int64)
    costs = torch.zeros(count, dtype=torch.float64)
    for step in range(count):
        total = torch.zeros(units, dtype=torch.float64)
        for problem in running:
            total += problem.costs()
        value = total.where(read, -1.0).masked_fill(gone, torch.inf)
        least = value.min()
        unit = int(torch.nonzero(value <= least + TIE * least.abs())[0])
        order[step], costs[step], gone[unit] = unit, total[unit], True
        for problem in running:
            problem.remove(unit)
    return order, costs


class _Running:
    """One least squares problem while units go.

    Inputs are laid out in blocks of one size, a unit each: unit u of the layout has the rows
    u * size to (u + 1) * size. Where a unit has fewer inputs, padding has the moments of the
    identity and no weight, so it takes no part. Inputs that always stay come after all blocks.
    """

    def __init__(self, problem: LeastSquares, units: int, ridge: float) -> None:
        moments = problem.moments.detach().double()
        place, self.size = _layout(problem.units, units)
        diagonal = moments.diagonal()
        alive = diagonal > 1e-12 * diagonal.mean()
        own = (problem.units >= 0) & alive.cpu()
        self.read = torch.zeros(units, dtype=torch.bool)
        self.read[problem.units[own]] = True
        # Dead inputs have no weight: whatever the ridge makes of them, removing them is free.
        weight = torch.where(alive, problem.weight.detach().to(moments), 0.0)
        self.units = units
        self.live = torch.arange(units)  # the unit of each block that is left
        self.there = torch.ones(units, dtype=torch.bool)  # of these, which are not removed
        place = place.to(moments.device)
        stay = int((problem.units < 0).sum())
        columns = weight.new_zeros(units * self.size + stay, weight.shape[0])
        columns[place] = weight.T
        self.weight = columns[: units * self.size].view(units, self.size, -1).contiguous()
        self.inverse = _inverse(moments, place, len(columns), ridge)
        self.pending = self.inverse.new_empty(len(columns), 0)
        self.blocks = self._diagonal_blocks()

    def costs(self) -> Tensor:
        """What the removal of each unit would add, ``(units,)``; 0 for removed ones."""
        # tr(W_c M_cc^-1 W_c^T) = |L^-1 W_c^T|^2 with M_cc = L L^T.
        factors = torch.linalg.cholesky(self.blocks)
        solved = torch.linalg.solve_triangular(factors, self.weight, upper=False)
        costs = torch.zeros(self.units, dtype=torch.float64)
        costs[self.live] = solved.square().sum(dim=(1, 2)).cpu()
        return costs

    def remove(self, unit: int) -> None:
        """Downdate solution and inverse."""
        block = int(torch.nonzero(self.live == unit))
        rows = slice(block * self.size, (block + 1) * self.size)
        factor = torch.linalg.cholesky(self.blocks[block])
        row = self.inverse[rows] - self.pending[rows] @ self.pending.T
        # M_:c M_cc^-1 M_c: = V^T V with V = L^-1 M_c:
        removed = torch.linalg.solve_triangular(factor, row, upper=False)
        solved = torch.linalg.solve_triangular(factor, self.weight[block], upper=False)
        shares = removed.T[: len(self.live) * self.size].reshape(*self.blocks.shape)
        self.weight -= shares @ solved
        self.blocks -= shares @ shares.mT
        self.weight[block] = 0.0
        self.blocks[block] = torch.eye(self.size).to(self.blocks)
        self.there[block] = False
        self.pending = torch.cat([self.pending, removed.T], dim=1)
        if int(self.there.sum()) < 0.875 * len(self.live):
            self._shrink()
        elif self.pending.shape[1] >= PENDING:
            self._apply()

    def _apply(self) -> None:
        self.inverse.addmm_(self.pending, self.pending.T, alpha=-1)
        self.pending = self.pending[:, :0]

    def _shrink(self) -> None:
        """Leave out the rows of removed units."""
        self._apply()
        rows = torch.ones(len(self.inverse), dtype=torch.bool)
        rows[: len(self.live) * self.size] = self.there.repeat_interleave(self.size)
        kept = torch.nonzero(rows).flatten().to(self.inverse.device)
        self.inverse = self.inverse[kept][:, kept]
        self.pending = self.inverse.new_empty(len(kept), 0)
        self.weight, self.blocks = self.weight[self.there], self.blocks[self.there]
        self.live = self.live[self.there]
        self.there = self.there[self.there]

    def _diagonal_blocks(self) -> Tensor:
        width = self.units * self.size
        grid = self.inverse[:width, :width].view(self.units, self.size, self.units, self.size)
        return grid.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def _layout(of: Tensor, units: int) -> tuple[Tensor, int]:
    """Where each input goes, ``(P,)``, and the number of inputs of the widest unit."""
    counts = torch.bincount(of[of >= 0], minlength=units)
    size = int(counts.max())
    place = torch.empty_like(of)
    sorted_inputs = torch.argsort(of, stable=True)[int((of < 0).sum()) :]
    owners = of[sorted_inputs]
    before = counts.cumsum(0) - counts
    place[sorted_inputs] = owners * size + torch.arange(len(owners)) - before[owners]
    place[of < 0] = units * size + torch.arange(int((of < 0).sum()))
    return place, size


def _inverse(moments: Tensor, place: Tensor, size: int, ridge: float) -> Tensor:
    """(A + ridge mean(diag A) I)^-1 in the blocks' layout, ``(size, size)``, identity elsewhere."""
    scale = moments.diagonal().mean()
    scale = torch.where(scale > 0, scale, 1.0)
    # With less nothing is left of the digits where inputs are copies; with more, of the inputs.
    ridge = min(max(ridge, 1e-10), 1e16)
    for power in range(12):
        laid = torch.eye(size, dtype=torch.float64, device=moments.device)
        laid[place[:, None], place[None, :]] = moments
        laid[place, place] += ridge * 10**power * scale
        factor, failed = torch.linalg.cholesky_ex(laid)
        if not bool(failed):
            return torch.cholesky_inverse(factor)
    raise ValueError("moments are not finite or not positive semidefinite")


@dataclass(frozen=True)
class ThiNetRefit(Criterion):
    """Removes the units whose loss the next layers can make good best, greedily.

    The one removed last ranks first; of two that could go at a step the lower index goes. With
    several consumers each one's error counts relative to the energy of its output, so that the
    scale of a layer does not matter.

    Source: backward elimination for least squares (Couvreur and Bresler, On the Optimality of the
    Backward Greedy Algorithm for the Subset Selection Problem, SIAM J. Matrix Anal. Appl. 2000),
    in blocks, on the objective of He et al. 2017 (arXiv:1707.06168); as a removal of hidden units
    it goes back to Hassibi and Stork, Optimal Brain Surgeon, 1993.

    Attributes:
        ridge: Relative to the mean second moment of a consumer's inputs.
        intercept: Whether a constant is free in consumers whose bias or BatchNorm takes it up.
    """

    ridge: float = 1e-4
    intercept: bool = True
    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (PatchMoments,)

    def __post_init__(self) -> None:
        number("criterion.build.ridge", self.ridge, "1e-4")
        flag("criterion.build.intercept", self.intercept)

    def check(self, candidates: Candidates) -> None:
        """See :meth:`Criterion.check`.

        Raises:
            ThinetError: If the moments of a consumer would not fit into memory.
        """
        for consumer, _ in candidates.readers:
            if consumer.unknowns > LARGEST:
                raise ThinetError(
                    f"criterion=thinet_refit would invert the moments of {consumer.unknowns} "
                    f"inputs of {consumer.name}, more than {LARGEST}: choose another criterion, "
                    "for example criterion=thinet."
                )

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        problems = self.problems(candidates, evidence)
        order, _ = backward_elimination(problems, candidates.units, candidates.units, self.ridge)
        return order.flip(0)

    def problems(self, candidates: Candidates, evidence: Evidence) -> list[LeastSquares]:
        """The least squares of each consumer, one for each group of its convolution."""
        found: list[LeastSquares] = []
        for consumer, weight in candidates.readers:
            moments = evidence[PatchMoments].of[consumer.weight]
            centred = self.intercept and consumer.shift is not None
            if moments.second.shape[1] != moments.second.shape[2]:
                raise ValueError(f"no second moments of {consumer.weight}: call check() first")
            second = moments.centred() if centred else moments.second
            W = weight.to(second).reshape(consumer.groups, -1, second.shape[-1])
            if len(candidates.readers) > 1:
                energy = ((W @ second) * W).sum()
                W = W / torch.where(energy > 0, energy, 1.0).sqrt()
            inputs = consumer.channels.view(consumer.groups, -1)
            taps = second.shape[-1] // inputs.shape[1]
            of = inputs.repeat_interleave(taps, dim=1)
            found += [LeastSquares(*parts) for parts in zip(W, second, of, strict=True)]
        return found
