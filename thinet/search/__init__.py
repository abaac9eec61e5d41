"""How many channels each layer should have, found by search (MetaPruning, Liu et al. 2019)."""
