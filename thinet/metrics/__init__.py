"""What a network costs, and what finding that out does."""

from thinet.metrics.cost import (
    Cost,
    DeclaresCost,
    KeepsParametersOtherwise,
    LayerCost,
    cost,
    layer_costs,
)
from thinet.metrics.cost_model import CostModel, cost_model
from thinet.metrics.latency import latencies_ms, latency_ms
from thinet.metrics.memory import PeakMemory

__all__ = [
    "Cost",
    "CostModel",
    "DeclaresCost",
    "KeepsParametersOtherwise",
    "LayerCost",
    "PeakMemory",
    "cost",
    "cost_model",
    "latencies_ms",
    "latency_ms",
    "layer_costs",
]
