"""Many runs: what Hydra calls before, between and after them."""
