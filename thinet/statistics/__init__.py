"""What a criterion or a reconstruction looks at: streamed, mergeable statistics of one layer."""

from thinet.statistics.collect import Evidence, collect, shard
from thinet.statistics.contributions import ContributionMoments
from thinet.statistics.patches import PatchMoments
from thinet.statistics.statistic import Sampling, Statistic
from thinet.statistics.zeros import ZeroFraction

__all__ = [
    "ContributionMoments",
    "Evidence",
    "PatchMoments",
    "Sampling",
    "Statistic",
    "ZeroFraction",
    "collect",
    "shard",
]
