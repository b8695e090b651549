"""Reproduce protocols of the literature on all of their datasets, next to published results; see docs/reproduce.md."""
