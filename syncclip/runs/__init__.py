"""Runs: resolve a recipe, build its dataset, model and stream of batches, and evaluate the trained method."""
