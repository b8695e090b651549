"""Training: from a method and a stream of batches to a run folder with learned prompts."""
