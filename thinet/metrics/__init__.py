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
from thinet.metrics.latency_cache import given_table, kept_table
from thinet.metrics.latency_table import LatencyTable, Prediction, read_table, write_table
from thinet.metrics.latency_timing import measure_latency
from thinet.metrics.memory import PeakMemory

__all__ = [
    "Cost",
    "CostModel",
    "DeclaresCost",
    "KeepsParametersOtherwise",
    "LatencyTable",
    "LayerCost",
    "PeakMemory",
    "Prediction",
    "cost",
    "cost_model",
    "given_table",
    "kept_table",
    "latencies_ms",
    "latency_ms",
    "layer_costs",
    "measure_latency",
    "read_table",
    "write_table",
]
