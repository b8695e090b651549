"""Training: the loop that trains a method on a stream of batches, and the run folder that it writes."""
