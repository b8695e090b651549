"""Resolve a recipe to a run, build its dataset, model and batch stream, and evaluate the trained method."""
