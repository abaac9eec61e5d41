"""What a network costs."""

from thinet.metrics.cost import Cost, cost, layer_costs
from thinet.metrics.latency import latency_ms

__all__ = ["Cost", "cost", "latency_ms", "layer_costs"]
