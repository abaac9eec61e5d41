"""How many channels each layer should have, found by search (MetaPruning, Liu et al. 2019)."""

from thinet.search.settings import Course, Evolution, Making

__all__ = ["Course", "Evolution", "Making"]
