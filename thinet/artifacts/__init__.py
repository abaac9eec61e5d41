"""Networks on disk: weights, and the spec that says how to build them."""
