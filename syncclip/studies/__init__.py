"""From a recipe with a grid of arms, amounts and seeds to finished runs, scaling curves, comparisons and tables."""
