"""Training: a built method and its stream of batches go in, a run folder with learned prompts comes out."""
