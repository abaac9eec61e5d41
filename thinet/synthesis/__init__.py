"""Images without data: drawn by a network that is trained against the one that is to be copied."""
