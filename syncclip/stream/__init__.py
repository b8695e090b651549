"""Training batches from real and synthetic images."""
