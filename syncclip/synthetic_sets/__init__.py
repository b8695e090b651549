"""Synthetic sets: plan, import, merge, export, quality measurement and repair."""
