"""Fewer filters: criteria, statistics, reconstructions, and the methods made of them."""
