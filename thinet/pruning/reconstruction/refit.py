"""Full least squares of the next layer's weights (as in He et al. 2017, from moments alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.base.values import flag, number, shown
from thinet.pruning.reconstruction.reconstruction import Correction, Reconstruction, solve
from thinet.pruning.statistics import Evidence, Moments, PatchMoments, Statistic
from thinet.surgery import Consumer


def refit_weights(
    weight: Tensor,
    moments: Tensor,
    stays: Tensor,
    ridge: float = 0.0,
    gain: Tensor | None = None,
) -> Tensor:
    """Weights of the kept inputs that best reproduce the layer's output.

    They minimise ||U W^T - U_S W_S'^T||^2: W_S' = W_S + W_T A_TS A_SS^-1 with A = U^T U, S the
    kept inputs and T the removed ones. With a ridge the solution is drawn towards W_S. If the
    output is to become another one, y + d, then A_ST W_T^T grows by the cross moments U_S^T d.

    Args:
        weight: W, ``(D, P)``, float64.
        moments: A, ``(P, P)``, float64.
        stays: bool ``(P,)``, the kept inputs S.
        ridge: Relative to the mean of A_SS's diagonal.
        gain: U^T d, ``(P, D)``, or None for the layer's own output.

    Returns:
        W', ``(D, P)``, with W unchanged in the removed columns.
    """
    missed = moments[stays][:, ~stays] @ weight[:, ~stays].T
    if gain is not None:
        missed = missed + gain[stays]
    fitted = weight.clone()
    fitted[:, stays] += solve(moments[stays][:, stays], missed, ridge).T
    return fitted


def refit_from_rows(
    weight: Tensor, rows: Tensor, stays: Tensor, ridge: float, gains: Tensor | None = None
) -> Tensor:
    """The same from the input rows, for a layer with more unknowns than rows.

    By the identity (A_SS + λI)^-1 U_S^T = U_S^T (U_S U_S^T + λI)^-1 the system is as large as the
    rows are many: W_S' = W_S + W_T U_T^T (U_S U_S^T + λI)^-1 U_S.

    Args:
        weight: W, ``(D, P)``.
        rows: U, ``(m, P)``.
        stays: bool ``(P,)``, the kept inputs S.
        ridge: Relative to the mean of A_SS's diagonal, positive.
        gains: What the output of each row is to gain, ``(m, D)``, or None.

    Returns:
        W', ``(D, P)``, with W unchanged in the removed columns.
    """
    kept = rows[:, stays].double()
    missed = rows[:, ~stays].double() @ weight[:, ~stays].double().T
    if gains is not None:
        missed = missed + gains.double()
    kernel = kept @ kept.T
    # solve() takes the ridge relative to its own diagonal, which has m entries instead of P.
    solution = solve(kernel, missed, ridge * kernel.shape[0] / kept.shape[1])
    fitted = weight.clone()
    fitted[:, stays] += (solution.T @ kept).to(fitted)
    return fitted


@dataclass(frozen=True)
class Refit(Reconstruction):
    """Fits all weights of the next layer anew to its own output before the cut.

    Attributes:
        target: ``current``: the output of the network as it is before this cut; ``original``: that
            of the network before the first cut, so that later layers make good the errors of
            earlier ones (He et al. 2017), and at the end of a residual block those of its shortcut.
        ridge: Relative strength of the pull towards the weights before.
        intercept: Fit a constant as well, where a bias or a BatchNorm mean behind the layer can
            take it up. The mean of what is removed then costs nothing.
    """

    target: str = "current"
    ridge: float = 1e-4
    intercept: bool = True
    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (PatchMoments,)
    loss_needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (PatchMoments,)

    def __post_init__(self) -> None:
        if self.target not in ("current", "original"):
            raise ThinetError(
                f"reconstruction.build.target={shown(self.target)} is unknown: choose current or "
                "original."
            )
        flag("reconstruction.build.intercept", self.intercept)
        number("reconstruction.build.ridge", self.ridge, "1e-4")

    @property
    def aims_at_original(self) -> bool:
        """See :attr:`Reconstruction.aims_at_original`."""
        return self.target == "original"

    def correct(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, evidence: Evidence
    ) -> Correction:
        """See :meth:`Reconstruction.correct`."""
        moments = evidence[PatchMoments].of[consumer.weight]
        grouped, stays, fitted = self._fit(weight, consumer, keep, moments)
        shift = None
        if self._shifts(consumer):
            mean = moments.first / max(moments.count, 1)
            lost = torch.einsum("gdp,gp->gd", grouped - fitted * stays, mean)
            if moments.off is not None:
                lost = lost + moments.off / max(moments.count, 1)
            shift = lost.flatten()
        return Correction(fitted.reshape(weight.shape).to(weight), shift)

    def loss(
        self, readers: Sequence[tuple[Consumer, Tensor]], keep: Tensor, evidence: Evidence
    ) -> float:
        """See :meth:`Reconstruction.loss`; about the mean where a constant is taken up."""
        left = whole = 0.0
        for consumer, weight in readers:
            moments = evidence[PatchMoments].of[consumer.weight]
            grouped, stays, fitted = self._fit(weight, consumer, keep, moments)
            off = grouped - fitted * stays
            left += self._energy(off, consumer, moments) / moments.count
            whole += self._energy(grouped, consumer, moments) / moments.count
        return left / max(whole, torch.finfo(torch.float64).tiny)

    def _shifts(self, consumer: Consumer) -> bool:
        return self.intercept and consumer.shift is not None

    def _fit(
        self, weight: Tensor, consumer: Consumer, keep: Tensor, moments: Moments
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weight before, ``(groups, D / groups, P)``, its kept inputs, and the weight after."""
        channels = consumer.channels[: weight.shape[1]].to(moments.first.device)
        stays = (channels < 0) | torch.isin(channels, keep.to(channels.device))
        stays = stays.repeat_interleave(weight[0, 0].numel())
        grouped = weight.to(moments.first).reshape(consumer.groups, -1, stays.numel())
        if moments.rows is not None:
            rows, ridge = self._rows(consumer, moments), max(self.ridge, 1e-12)
            wanted = self._gains(consumer, moments)
            fitted = refit_from_rows(grouped[0], rows, stays, ridge, wanted)[None]
        else:
            second = self._second(consumer, moments)
            gains = moments.centred_cross() if self._shifts(consumer) else moments.cross
            fitted = torch.stack(
                [
                    refit_weights(
                        flat, second[k], stays, self.ridge, None if gains is None else gains[k]
                    )
                    for k, flat in enumerate(grouped)
                ]
            )
        return grouped, stays, fitted

    def _second(self, consumer: Consumer, moments: Moments) -> Tensor:
        return moments.centred() if self._shifts(consumer) else moments.second

    def _rows(self, consumer: Consumer, moments: Moments) -> Tensor:
        assert moments.rows is not None
        mean = moments.first[0] / max(moments.count, 1)
        return moments.rows - mean if self._shifts(consumer) else moments.rows

    def _gains(self, consumer: Consumer, moments: Moments) -> Tensor | None:
        if moments.gains is None or moments.off is None or not self._shifts(consumer):
            return moments.gains
        return moments.gains - moments.off[0] / max(moments.count, 1)

    def _energy(self, weight: Tensor, consumer: Consumer, moments: Moments) -> float:
        """The squared output of ``weight``, ``(groups, D / groups, P)``, over all rows."""
        if moments.rows is not None:
            rows = self._rows(consumer, moments)
            return float((rows @ weight[0].T.to(rows)).square().sum())
        second = self._second(consumer, moments)
        return float(((weight @ second) * weight).sum())
