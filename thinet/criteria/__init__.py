"""Which filters to keep: one criterion a file."""

from thinet.criteria.apoz import APoZ
from thinet.criteria.criterion import Criterion, Selection, top
from thinet.criteria.random import Random
from thinet.criteria.thinet import ThiNet, greedy_removal
from thinet.criteria.thinet_omp import ThiNetOMP, forward_selection
from thinet.criteria.weight_sum import WeightSum

__all__ = [
    "APoZ",
    "Criterion",
    "Random",
    "Selection",
    "ThiNet",
    "ThiNetOMP",
    "WeightSum",
    "forward_selection",
    "greedy_removal",
    "top",
]
