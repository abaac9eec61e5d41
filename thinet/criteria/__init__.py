"""Which units to keep: one criterion a file."""

from thinet.criteria.activation_mean import ActivationMean
from thinet.criteria.apoz import APoZ
from thinet.criteria.bn_scale import BNScale
from thinet.criteria.criterion import Candidates, Criterion, Part, descending, per_unit
from thinet.criteria.fpgm import FPGM
from thinet.criteria.l2 import L2
from thinet.criteria.lasso import Lasso, lasso_order
from thinet.criteria.random import Random
from thinet.criteria.taylor import Taylor
from thinet.criteria.thinet import ThiNet, greedy_removal
from thinet.criteria.thinet_omp import ThiNetOMP, forward_selection
from thinet.criteria.thinet_refit import LeastSquares, ThiNetRefit, backward_elimination
from thinet.criteria.weight_sum import WeightSum

__all__ = [
    "FPGM",
    "L2",
    "APoZ",
    "ActivationMean",
    "BNScale",
    "Candidates",
    "Criterion",
    "Lasso",
    "LeastSquares",
    "Part",
    "Random",
    "Taylor",
    "ThiNet",
    "ThiNetOMP",
    "ThiNetRefit",
    "WeightSum",
    "backward_elimination",
    "descending",
    "forward_selection",
    "greedy_removal",
    "lasso_order",
    "per_unit",
]
