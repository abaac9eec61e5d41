"""Which units to keep: one criterion a file."""

from thinet.pruning.criteria.activation_mean import ActivationMean
from thinet.pruning.criteria.apoz import APoZ
from thinet.pruning.criteria.bn_scale import BNScale
from thinet.pruning.criteria.criterion import Candidates, Criterion, Part, descending, per_unit
from thinet.pruning.criteria.fpgm import FPGM
from thinet.pruning.criteria.l2 import L2
from thinet.pruning.criteria.lasso import Lasso, lasso_order
from thinet.pruning.criteria.random import Random
from thinet.pruning.criteria.taylor import Taylor
from thinet.pruning.criteria.thinet import ThiNet, greedy_removal
from thinet.pruning.criteria.thinet_omp import ThiNetOMP, forward_selection
from thinet.pruning.criteria.thinet_refit import LeastSquares, ThiNetRefit, backward_elimination
from thinet.pruning.criteria.weight_sum import WeightSum

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
