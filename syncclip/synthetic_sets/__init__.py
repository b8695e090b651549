"""Synthetic datasets: plan, import, merge, export, quality measurement and repair."""
