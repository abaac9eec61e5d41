"""How many channels each group keeps."""
