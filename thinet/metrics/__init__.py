"""What a network costs."""

from thinet.metrics.cost import Cost, cost, layer_costs
from thinet.metrics.latency import latencies_ms, latency_ms

__all__ = ["Cost", "cost", "latencies_ms", "latency_ms", "layer_costs"]
