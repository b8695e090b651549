"""Studies: a grid of configurations, images per class and seeds, its runs, scaling curves, comparisons and tables."""
