"""Studies: runs over a grid of configurations, images per class and seeds, with scaling curves and comparisons."""
