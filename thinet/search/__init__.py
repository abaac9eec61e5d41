"""How many channels each layer should have, found by search (MetaPruning, Liu et al. 2019)."""

from thinet.search.evolution import Evolution
from thinet.search.hypernet import Making
from thinet.search.training import Course

__all__ = ["Course", "Evolution", "Making"]
