"""Synthetic datasets: planning, import, merging, export, quality measurement and repair."""
