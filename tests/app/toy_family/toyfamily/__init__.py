"""A family that thinet knows nothing of."""
