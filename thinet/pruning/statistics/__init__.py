"""What a criterion or a reconstruction looks at: streamed, mergeable statistics of one layer."""

from thinet.pruning.statistics.collect import Evidence, collect, shard
from thinet.pruning.statistics.contributions import ContributionMoments
from thinet.pruning.statistics.gradients import GateGradients
from thinet.pruning.statistics.patches import Moments, PatchMoments
from thinet.pruning.statistics.reference import Reference
from thinet.pruning.statistics.statistic import Sampling, Statistic
from thinet.pruning.statistics.zeros import ZeroFraction

__all__ = [
    "ContributionMoments",
    "Evidence",
    "GateGradients",
    "Moments",
    "PatchMoments",
    "Reference",
    "Sampling",
    "Statistic",
    "ZeroFraction",
    "collect",
    "shard",
]
