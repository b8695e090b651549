"""Training: the loop that trains a method on a stream of batches, and the resulting run folder."""
