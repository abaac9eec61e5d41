"""One run: its setup, its state, its folder, its identity."""
