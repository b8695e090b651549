"""From a recipe with a grid of configurations, amounts and seeds to finished runs, scaling curves, comparisons and
tables."""
