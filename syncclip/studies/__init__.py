"""Studies: grids of configurations, images per class and seeds, with runs, scaling curves, comparisons and tables."""
