"""What a criterion or a reconstruction looks at: streamed, mergeable statistics of one layer."""

from thinet.statistics.collect import Evidence, collect, shard
from thinet.statistics.contributions import ContributionMoments
from thinet.statistics.gradients import GateGradients
from thinet.statistics.patches import Moments, PatchMoments
from thinet.statistics.reference import Reference
from thinet.statistics.statistic import Sampling, Statistic
from thinet.statistics.zeros import ZeroFraction

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
