"""Networks at full width: where they come from and how they are trained."""
