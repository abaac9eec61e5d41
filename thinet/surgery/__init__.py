"""Which channels belong together, and how to remove them."""

from thinet.surgery.choose import resolve_counts, resolve_layers
from thinet.surgery.graph import ChannelGraph, Consumer, Layer, Use, owner
from thinet.surgery.modes import evaluating
from thinet.surgery.slim import remove_, set_widths_, shared_copy, widths
from thinet.surgery.trace import trace
from thinet.surgery.verify import check_plan, difference, masked

__all__ = [
    "ChannelGraph",
    "Consumer",
    "Layer",
    "Use",
    "check_plan",
    "difference",
    "evaluating",
    "masked",
    "owner",
    "remove_",
    "resolve_counts",
    "resolve_layers",
    "set_widths_",
    "shared_copy",
    "trace",
    "widths",
]
