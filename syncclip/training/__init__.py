"""Training and evaluation: one plain loop, its checkpoints, its place on Ray Train, and every protocol in one pass."""
