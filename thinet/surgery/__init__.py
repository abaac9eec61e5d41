"""Which channels belong together, and how to remove them."""

from thinet.surgery.cropping import Crops, Dressed
from thinet.surgery.graph import ChannelGraph, Consumer, Follower, Group, Layer, Use, owner
from thinet.surgery.groups import shrink
from thinet.surgery.modes import evaluating, without_autocast
from thinet.surgery.recalibrate import recalibrate_
from thinet.surgery.refusals import check_prunable, check_trainable
from thinet.surgery.slim import remove_, set_widths_, shared_copy, widths
from thinet.surgery.trace import trace
from thinet.surgery.trial import check_network, check_weights, settle, try_cut
from thinet.surgery.verify import difference, masked

__all__ = [
    "ChannelGraph",
    "Consumer",
    "Crops",
    "Dressed",
    "Follower",
    "Group",
    "Layer",
    "Use",
    "check_network",
    "check_prunable",
    "check_trainable",
    "check_weights",
    "difference",
    "evaluating",
    "masked",
    "owner",
    "recalibrate_",
    "remove_",
    "set_widths_",
    "settle",
    "shared_copy",
    "shrink",
    "trace",
    "try_cut",
    "widths",
    "without_autocast",
]
