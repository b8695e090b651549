"""Data and weights of the embedded world `icons`: they travel with the package, so that it runs without a network."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""It holds "icons/clip", "icons/generator" and "icons/dataset"."""
